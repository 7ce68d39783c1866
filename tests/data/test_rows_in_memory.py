"""Rows in memory are a source like any other: read at each pass, named in errors, known by a hash."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from llmkit.data.memory import Given, hold, memory_reader
from llmkit.data.sources import open_source
from llmkit.data.tokens import Marked, marked
from llmkit.recipe import Source
from llmkit.system.errors import DataError, RequestError

ROWS = [{"text": "a cat", "label": 1}, {"text": "a dog", "label": 0}]


def made(rows: Given) -> list[tuple[dict[str, Any], str]]:
    return [(row, str(place)) for row, place in memory_reader(rows, "memory:train").rows()]


def test_a_list_of_dicts_is_read_row_by_row() -> None:
    assert made(ROWS) == [(ROWS[0], "memory:train:1"), (ROWS[1], "memory:train:2")]


def test_texts_are_documents() -> None:
    reader = memory_reader(["a cat", "", "a\n\ndog"], "memory:train")
    assert [(text, str(place)) for text, place in reader.documents()] == [
        ("a cat", "memory:train:1"), ("a\n\ndog", "memory:train:3")]
    assert (reader.document, reader.files, reader.name) == (None, (), "memory:train")


def test_a_text_and_a_row_with_that_text_are_the_same_document() -> None:
    assert memory_reader(["a"], "a").fingerprint() == memory_reader([{"text": "a"}], "b").fingerprint()


def test_fields_name_a_column() -> None:
    reader = memory_reader([{"body": "no", "title": "yes"}], "memory:train", fields={"text": "title"})
    assert [text for text, _ in reader.documents()] == ["yes"]


def test_a_function_is_called_anew_at_each_pass() -> None:
    calls = []

    def rows() -> Iterator[dict[str, Any]]:
        calls.append(1)
        yield from ROWS

    reader = memory_reader(rows, "memory:train")
    assert len(calls) == 1  # its rows are hashed
    assert [row for row, _ in reader.rows()] == [row for row, _ in reader.rows()] == ROWS
    assert len(calls) == 3
    assert reader.source.source == memory_reader(ROWS, "memory:train").source.source


def test_a_data_set_of_datasets_is_read_and_says_its_classes() -> None:
    import datasets  # type: ignore[import-untyped]

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_list([{"text": "a cat", "label": 1}, {"text": "a dog", "label": 0}], features)
    assert made(data) == made(ROWS)
    assert made(data.to_iterable_dataset()) == made(ROWS)
    origin = memory_reader(data, "memory:train").origin
    assert origin is not None
    assert (origin.features() or {})["label"]["names"] == ["no", "yes"]
    assert memory_reader(data["text"], "memory:train").source == memory_reader(["a cat", "a dog"], "x").source


# ---- the hash --------------------------------------------------------------------------------------------------


def test_the_recipe_records_the_hash_of_the_rows() -> None:
    written = b'{"label":1,"text":"a cat"}\n{"label":0,"text":"a dog"}\n'
    assert memory_reader(ROWS, "memory:train").source == Source(f"memory:{hashlib.sha256(written).hexdigest()}")
    assert memory_reader(["Grüße"], "memory:train").source.source == (
        "memory:66e908ddd019006087b75a3650f8e170d3fa7bf5a07def5e8bfe8bc805a85b5d")


def test_the_fingerprint_is_of_the_rows_in_their_order_and_of_how_they_are_read() -> None:
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    first = memory_reader(rows, "memory:train").fingerprint()
    assert memory_reader([{"n": 1, "text": "a"}, {"n": 2, "text": "b"}], "memory:other").fingerprint() == first
    assert len({
        first,
        memory_reader(rows[::-1], "memory:train").fingerprint(),
        memory_reader(rows[:1], "memory:train").fingerprint(),
        memory_reader([{"text": "a", "n": 1.5}, rows[1]], "memory:train").fingerprint(),
        memory_reader(rows, "memory:train", fields={"text": "n"}).fingerprint(),
        memory_reader(rows, "memory:train", spares=True).fingerprint(),
    }) == 6


def test_rows_with_marks_keep_their_origin() -> None:
    reader = memory_reader(["a. b."], "memory:train")
    (other,) = marked([reader], sentences="auto")
    assert isinstance(other, Marked)
    assert [text for text, _ in other.documents()] == ["a. b."]
    assert other.fingerprint() != reader.fingerprint()


def test_rows_that_are_others_at_the_next_pass_are_refused() -> None:
    chance = random.Random(0)
    reader = memory_reader(lambda: [{"text": str(chance.random())} for _ in range(3)], "memory:train")
    with pytest.raises(DataError, match=r"^memory:train: the rows are others than at first; they must be the same"):
        list(reader.rows())
    once = iter(ROWS)
    with pytest.raises(DataError, match=r"^memory:train: the rows are others than at first"):
        list(memory_reader(lambda: once, "memory:train").rows())


def test_many_rows_are_hashed_without_being_held() -> None:
    import tracemalloc

    def rows() -> Iterator[str]:
        return ("x" * 1000 + str(i) for i in range(20_000))

    tracemalloc.start()
    memory_reader(rows, "memory:train").fingerprint()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "message"), [
    ((row for row in ROWS), "memory:train: a generator can be gone through only once; give a list, or the function "
                            "that makes it."),
    (iter(ROWS), "memory:train: a list_iterator can be gone through only once; give a list, or the function that makes "
                 "it."),
    ("rows.jsonl", "memory:train: rows are a list of dicts or of texts, a datasets.Dataset, or a function that yields "
                   "them, not a str."),
    ({"text": ["a", "b"]}, "memory:train: rows are a list of dicts or of texts, a datasets.Dataset, or a function that "
                           "yields them, not a dict."),
    (7, "memory:train: rows are a list of dicts or of texts, a datasets.Dataset, or a function that yields them, not "
        "an int."),
    (lambda: None, "memory:train: the function must yield rows, dicts or texts; it gives a NoneType."),
    (lambda: "a text", "memory:train: the function must yield rows, dicts or texts; it gives a str."),
])
def test_what_cannot_be_read_at_each_pass_is_a_wrong_request(rows: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        memory_reader(rows, "memory:train")
    assert str(caught.value) == message


@pytest.mark.parametrize(("row", "message"), [
    (["a"], "memory:train:2: a row must be a dict or a text, not a list (['a'])."),
    (None, "memory:train:2: a row must be a dict or a text, not null."),
    ({1: "a"}, "memory:train:2: the name of a field must be a text, not a number (1)."),
    ({"text": "a", "ids": {3}}, "memory:train:2: the field 'ids' must be text, a number, a list or a dict, as JSON has "
                                "them, not set ({3}): Object of type set is not JSON serializable."),
    ({"text": b"a"}, "memory:train:2: the field 'text' must be text, a number, a list or a dict, as JSON has them, not "
                     "bytes (b'a'): Object of type bytes is not JSON serializable."),
    ({"text": "a\ud83d"}, "memory:train:2: the field 'text' has the lone surrogate \\ud83d, which is half a "
                          "character."),
])
def test_a_row_that_json_cannot_say_is_told_with_its_number_and_field(row: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        memory_reader([{"text": "good"}, row], "memory:train")
    assert str(caught.value) == message


def test_what_is_missing_in_rows_is_told_as_of_a_file() -> None:
    with pytest.raises(DataError, match=r"^memory:train: is empty\.$"):
        list(memory_reader([], "memory:train").rows())
    with pytest.raises(DataError, match=r"^memory:train:2: the field 'text' is missing; this row has body\.$"):
        list(memory_reader([{"text": "a"}, {"body": "b"}], "memory:train").documents())
    with pytest.raises(DataError, match=r"there is contents\. Rename it in the rows: 'contents' to 'text'\.$"):
        list(memory_reader([{"contents": "a"}], "memory:train").documents())


def test_outside_of_its_program_a_recipe_of_such_rows_is_refused_with_the_way_out() -> None:
    source = memory_reader(ROWS, "memory:train").source
    with pytest.raises(RequestError) as caught:
        open_source(source)
    assert str(caught.value) == (f"{source.source} are rows that a program gave; run it again from Python: "
                                 "llmkit.fit(recipe, train=rows), or validation=rows.")


def test_rows_to_predict_are_gone_through_as_they_are() -> None:
    reader = hold(iter([{"text": {"a set"}}, {"text": "b"}]))
    assert [(row["text"], str(place)) for row, place in reader.rows()] == [({"a set"}, "rows:1"), ("b", "rows:2")]
