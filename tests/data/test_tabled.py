"""Rows go to a table: columns of the first row that something is said of, nothing lost without a word."""

import io
import logging
from pathlib import Path
from typing import Any

import pytest

from llmkit.data import jsonlines, tabled


def written(rows: list[Any], suffix: str = ".csv") -> str:
    to = io.StringIO()
    assert tabled.write(iter(rows), to, tabled.MARKS[suffix]) == len(rows)
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


@pytest.mark.parametrize(("head", "output", "expected"), [
    ("评论;标签\n好;1\n坏;0\n".encode(), "out.csv", (";", False)),
    ("\ufeff评论;标签\n好;1\n坏;0\n".encode(), "out.csv", (";", True)),
    ("评论;标签\n好;1\n坏;0\n".encode("gb18030"), "out.csv", (";", False)),
    (b"sep=|\ntext|label\na|b\n", "out.csv", ("|", False)),
    (b"text,label\na;b,1\n", "out.csv", (",", False)),
    (b"text;label\na;1\n", "out.tsv", ("\t", False)),  # another kind of table
    (b"", "out.csv", (",", False)),
])
def test_a_table_is_written_as_the_one_that_was_read(
    tmp_path: Path, head: bytes, output: str, expected: tuple[str, bool],
) -> None:
    (tmp_path / "rows.csv").write_bytes(head)
    assert tabled.look(output, [str(tmp_path / "rows.csv")]) == expected
    assert tabled.look("out.csv", ["-"]) == (",", False)


def test_excel_finds_its_mark_and_its_semicolons(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("\ufeff评论;编号\n好;1\n".encode())
    jsonlines.write(iter([{"评论": "好", "label": "a;b"}]), str(tmp_path / "out.csv"), [str(tmp_path / "rows.csv")])
    assert (tmp_path / "out.csv").read_bytes() == "\ufeff评论;label\n好;\"a;b\"\n".encode()
