"""A column is found by what the recipe calls it, then by the field's own name, then by other names of it."""

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
