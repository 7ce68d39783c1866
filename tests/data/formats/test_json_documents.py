"""JSON as programs write it: a list in an object, columns, an array where lines are expected; one row stays one row."""

from pathlib import Path
from typing import Any

import pytest

from llmkit.data.sources import Reader, open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError

TWO = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(name: str, content: str, **options: Any) -> Reader:
    Path(name).write_text(content)
    return open_source(Source(name), **options)


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.json.gz"])
@pytest.mark.parametrize(("content", "lines", "said"), [
    ('{"version": "1", "data": [\n{"text": "a", "n": 1},\n {"text": "b", "n": 2}]}', [2, 3],
     "the list 'data' of one object"),
    ('{"about": {"by": 7}, "n_rows": 2, "Data": [{"text": "a", "n": 1}, {"text": "b", "n": 2}], "end": null}', [1, 1],
     "the list 'Data' of one object"),
    ('\ufeff{\n "examples": [\n  {\n   "text": "a", "n": 1\n  },\n  {"text": "b", "n": 2}\n ]\n}\n', [3, 6],
     "the list 'examples' of one object"),
    ('{"features": [], "rows": [{"row_idx": 0, "row": {"text": "a", "n": 1}}, {"row_idx": 1, "row": {"text": "b", '
     '"n": 2}}]}', [1, 1], "the list 'rows' of one object"),
    ('{"schema": {"fields": [{"name": "text"}]}, "data": [{"text": "a", "n": 1}, {"text": "b", "n": 2}]}', [1, 1],
     "the list 'data' of one object"),  # pandas: table
    ('{"text": ["a", "b"], "n": [1, 2]}', [1, 2], "columns of one object"),  # list
    ('{"text": {"0": "a", "1": "b"}, "n": {"0": 1, "1": 2}}', [1, 2], "columns of one object"),  # columns
    ('{"text": {"x7": "a", "x8": "b"}, "n": {"x7": 1, "x8": 2}}', [1, 2], "columns of one object"),
    ('{"7": {"text": "a", "n": 1}, "9": {"text": "b", "n": 2}}', [1, 2], "one object, by their names"),  # index
    ('{"x7": {"text": "a", "n": 1}, "x8": {"text": "b", "n": 2}}', [1, 2], "one object, by their names"),
    ('{"columns": ["text", "n"], "index": [0, 1], "data": [["a", 1], ["b", 2]]}', [1, 2],
     "lists of cells, as pandas' orient split"),  # split
    ('{"text": "a", "n": 1}{"text": "b", "n": 2}', [1, 1], "objects one after the other, not one a line"),
    ('{\n "text": "a",\n "n": 1\n}\n{\n "text": "b",\n "n": 2\n}\n', [1, 5],
     "objects one after the other, not one a line"),
])
def test_one_object_that_holds_all_rows_is_read_and_said(name: str, content: str, lines: list[int], said: str) -> None:
    import gzip

    Path(name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    reader = open_source(Source(name))
    assert [(row, place.line) for row, place in reader.rows()] == list(zip(TWO, lines, strict=True))
    assert reader.notes == [f"{name}: its rows are {said}."]


@pytest.mark.parametrize("content", [
    '[{"text": "a", "n": 1}, {"text": "b", "n": 2}]', '[\n {"text": "a",\n  "n": 1},\n {"text": "b", "n": 2}\n]\n',
])
def test_an_array_may_stand_in_a_file_of_lines(content: str) -> None:
    assert [row for row, _ in opened("r.jsonl", content).rows()] == TWO


@pytest.mark.parametrize("line", [
    '{"tokens": ["the", "cat"], "tags": ["O", "B-X"]}', '{"translation": {"de": "Haus", "en": "house"}}',
    '{"messages": [{"role": "user", "content": "a"}]}', '{"text": "a", "labels": ["x", "y"]}',
    '{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]}',
    '{"question": "who?", "documents": [{"title": "a"}]}', '{"data": {"text": "a"}}',
    '{"text": "a", "label": {"name": {"x": [[0, 1]]}}}',
])
@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_a_file_of_one_row_is_one_row(name: str, line: str) -> None:
    import json

    reader = opened(name, line)
    assert ([row for row, _ in reader.rows()], reader.notes) == ([json.loads(line)], [])


@pytest.mark.parametrize(("name", "content", "message"), [
    ("r.jsonl", '["a", "b"]\n["c", "d"]\n', "r.jsonl:1: a row must be an object {…}, not a list (['a', 'b'])."),
    ("r.json", '{"data": [{"text": "a"}, {"text": "a", "text": "b"}]}', "the key 'text' is given twice"),
    ("r.json", '{"columns": ["text", "n"], "data": [["a", 1], ["b"]]}',
     "r.json:2: a row must be an object {…}, not a list (['b'])."),
    ("r.json", '{"text": ["a", "b"], "n": [1]}', "r.json:1: 'text' must be text, not a list (['a', 'b'])."),
    ("r.json", '{"text": {"0": "half \\ud83d"}}', "r.json:1: bad JSON: the lone surrogate \\ud83d"),
    ("r.json", '{\n "text": "a"\n}{', "r.json:1: bad JSON: Expecting property name"),
])
def test_what_is_wrong_in_one_object_is_told(name: str, content: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        list(opened(name, content).documents())
    assert message in str(caught.value)


def test_a_first_line_that_is_bad_is_left_out_where_rows_may_be() -> None:
    reader = opened("r.jsonl", '["b"]\n{"text": "a"\n{"text": "c"}\n', spares=True)
    assert [row for row, _ in reader.rows()] == [{"text": "c"}]
    assert len(reader.bad) == 2


BROKEN = ('{"version": 1, "tags": ["x"], "data": [\n {"text": "a", "n": 1},\n {"text": "bad" "n": 2},\n'
          ' {"text": "b", "n": 2},\n 7,\n {"text": "c", "n": 3}\n], "end": null}\n')


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_a_list_in_an_object_is_read_on_behind_a_broken_row(name: str) -> None:
    reader = opened(name, BROKEN, spares=True)
    assert [(row["text"], place.line) for row, place in reader.rows()] == [("a", 2), ("b", 4), ("c", 6)]
    assert list(reader.bad) == [
        f"{name}:3: bad JSON: Expecting ',' delimiter. It is element 2 of the array.",
        f"{name}:5: a row must be an object {{…}}, not a number (7)."]
    with pytest.raises(DataError, match=rf"{name}:3: bad JSON: Expecting ',' delimiter"):
        list(opened(name, BROKEN).rows())


def test_articles_are_read_on_behind_a_broken_one() -> None:
    good = '{"paragraphs": [{"context": "Ada wrote.", "qas": [{"question": "Who?", "answers": ["Ada"]}]}]}'
    reader = opened("r.json", f'{{"data": [{good},\n{{"paragraphs" []}},\n{good}]}}', spares=True)
    assert [place.line for _, place in reader.rows()] == [1, 3]
    assert list(reader.bad) == ["r.json:2: bad JSON: Expecting ':' delimiter. It is element 2 of the array."]
