"""A column is found by what the recipe calls it, then by the field's own name, then by other names of it."""

from typing import Any

import pytest

from llmkit.data.fields import find_fields
from llmkit.data.sources import Reader
from llmkit.recipe import Source
from llmkit.system.errors import DataError


@pytest.mark.parametrize(("fields", "columns", "expected"), [
    ({}, ["id", "text", "label"], {"text": "text", "label": "label"}),
    ({}, ["Review", "Stars"], {"text": "Review", "label": "Stars"}),
    ({}, ["review", "TEXT", "stars"], {"text": "TEXT", "label": "stars"}),
    ({"text": "headline"}, ["text", "headline", "label"], {"text": "headline", "label": "label"}),
    ({"label": "review"}, ["text", "review"], {"text": "text", "label": "review"}),
    ({}, ["text", "label", "weight"], {"text": "text", "label": "label", "weight": "weight"}),
    ({"text": 0, "label": 1}, [0, 1], {"text": 0, "label": 1}),
    ({"text": 0, "label": 1}, ["text", "label", "2"], {"text": "text", "label": "label"}),
])
def test_fields_are_found_by_recipe_then_name_then_alias(
    fields: dict[str, str | int], columns: list[str | int], expected: dict[str, str | int]
) -> None:
    reader = Reader(Source("r.csv", fields=fields), "r.csv")
    assert find_fields(columns, {"text": ["review"], "label": ["stars"]}, {"weight": []}, reader) == expected


@pytest.mark.parametrize(("fields", "message"), [
    ({}, "r.csv: no column is called 'text' or 'content'; there is id, contents. Name it in the recipe: "
         "--set data.train='{source: r.csv, fields: {text: contents}}'."),
    ({"text": "contentz"}, "r.csv: no column is called 'contentz'; there is id, contents. Did you mean 'contents'?"),
])
def test_a_field_that_is_not_there_is_told_with_the_columns(fields: dict[str, str | int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        find_fields(["id", "contents"], {"text": ["content"]}, {}, Reader(Source("r.csv", fields=fields), "r.csv"))
    assert str(caught.value) == message


# ---- parts of objects ----


def test_a_part_of_an_object_is_read_by_the_way_to_it(write: Any) -> None:
    from llmkit.tasks.tagging import Tagging

    rows = [{"text": {"en": "a cat", "de": "eine Katze"}}, {"text": {"en": "a dog", "de": "ein Hund"}}]
    assert [text for text, _ in write(rows, text="text.de").documents()] == ["eine Katze", "ein Hund"]
    tagged = [{"data": {"words": ["a", "cat"]}, "tags": ["O", "B"]}]
    assert [row["tokens"] for row in map(dict, (row for row, _ in Tagging().stream(
        write(tagged, tokens="data.words"))))] == [["a", "cat"]]


@pytest.mark.parametrize(("task", "row", "said"), [
    ("classification", {"text": "a", "label": {"id": 3, "name": "sports"}}, "fields: {label: label.name}}'"),
    ("classification", {"text": {"en": "a"}, "label": "x"}, "fields: {text: text.en}}'"),
    ("summarization", {"text": {"en": "a"}, "summary": "x"}, "fields: {text: text.en}}'"),
    ("instruction", {"prompt": "a", "response": {"say": "x"}}, "fields: {response: response.say}}'"),
])
def test_an_object_where_a_text_should_be_is_refused_with_the_way_to_its_part(
    task: str, row: dict[str, Any], said: str, write: Any) -> None:
    from llmkit.recipe import registry

    with pytest.raises(DataError, match=r"is no text: \{") as error:
        registry.find("tasks", task)().read(write([row]))
    assert said in str(error.value)


def test_a_document_that_is_an_object_is_refused_with_the_way_to_its_part(write: Any) -> None:
    with pytest.raises(DataError, match=r"'text' must be text, not an object .* fields: \{text: text\.en\}"):
        list(write([{"text": {"en": "a"}}]).documents())
