"""Rows go to a table: columns of the first row that something is said of, nothing lost without a word."""

import io
import logging
from typing import Any

import pytest

from llmkit.data import tabled


def written(rows: list[Any], suffix: str = ".csv") -> str:
    to = io.StringIO()
    assert tabled.write(iter(rows), to, suffix) == len(rows)
    return to.getvalue()


def test_columns_of_a_row_stay_and_what_is_said_stands_beside() -> None:
    assert tabled.beside({"id": 7, "label": "a"}, {"label": "b", "score": 0.5}) == {
        "id": 7, "label": "a", "predicted_label": "b", "score": 0.5}


def test_cells_are_texts_and_json() -> None:
    assert written([{"a": "x,\n\"y\"", "b": ["é", 1], "c": None, "d": 0.5, "e": True}]) == \
        'a,b,c,d,e\n"x,\n""y""","[""é"", 1]",,0.5,true\n'
    assert written([{"a": "x, y", "b": "z"}], ".tsv") == "a\tb\nx, y\tz\n"
    assert written([]) == "\n"


def test_a_bad_row_keeps_its_place_also_as_the_first() -> None:
    rows = [tabled.beside({"id": 1}, None), None, tabled.beside({"id": 2}, {"label": "x"}),
            tabled.beside({"id": 3}, None)]
    assert written(rows) == "id,label\n1,\n,\n2,x\n3,\n"


def test_a_column_that_comes_later_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llmkit"):
        assert written([{"a": 1}, {"a": 2, "b": 3}, {"b": 4}]) == 'a\n1\n2\n""\n'
    assert "the column 'b' is left out, for the first row has none: 2 rows have it" in caplog.text
