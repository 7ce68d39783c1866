"""on_bad_row: skip in a JSON array: what is behind a broken element is read, and what was lost is counted."""

import io
import json
from pathlib import Path

import pytest

from llmkit.data.decoding.broken_json import JsonWindow, behind
from llmkit.data.files import CHUNK
from llmkit.data.sources import Reader, open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(content: str, spares: bool = True) -> Reader:
    Path("t.json").write_text(content)
    return open_source(Source("t.json"), spares=spares)


def pretty(*rows: str) -> str:
    """Rows as json.dumps(indent=2) writes them, each already as text."""
    return "[\n" + ",\n".join("\n".join(f"  {line}" for line in row.splitlines()) for row in rows) + "\n]\n"


A, B, C = '{"text": "a"}', '{"text": "b"}', '{"text": "c"}'
NESTED = json.dumps({"text": "b", "turns": [{"role": "u", "say": "x"}, {"role": "v"}], "of": {"text": 1}}, indent=2)


@pytest.mark.parametrize(("content", "kept", "bad"), [
    (f'[{A},\n {{"text": "b" "x"}},\n {C}]', "ac", ["t.json:2: bad JSON: Expecting ',' delimiter. It is element 2"]),
    (f'[\n{A},\n{{"text": nul}},\n{{"text": NULL}},\n{C},\n{{"text" "d"}}\n]\n', "ac",
     ["t.json:3: bad JSON: Expecting value. It is element 2 of the array.",
      "t.json:4: bad JSON: Expecting value. It is element 3 of the array.", "t.json:6: bad JSON: Expecting ':'"]),
    (pretty(A, NESTED.replace('"x"', '"x'), C), "ac", ["t.json:8: bad JSON: Invalid control character at. It is"]),
    (pretty(A, NESTED.replace('"v"', '"v'), C), "ac", ["t.json:11: bad JSON: Invalid control character at. It is"]),
    (pretty(NESTED.replace("[", ""), B, C), "bc", ["t.json:9: bad JSON: Expecting property name"]),
    (pretty(A, B, NESTED.replace(":", "", 1)), "ab", ["t.json:5: bad JSON: Expecting ':' delimiter. It is element 3"]),
    (f'[{A}, {{"text": "b" "x"}}, {C}]', "ac", ["t.json:1: bad JSON: Expecting ',' delimiter. It is element 2"]),
    (f'[{A}, {{"text": bad}}, {{"text": bad}}, {C}]', "ac", [
        "t.json:1: bad JSON: Expecting value. It is element 2",
        "t.json:1: bad JSON: Expecting value. It is element 3"]),
    (f'[{A}, {{"text": "b, "n": 1}}, {C}]', "ac", ["t.json:1: bad JSON: Expecting ',' delimiter. It is element 2"]),
    (f"[{{'text': 'b'}}, {C}]", "c", ["t.json:1: bad JSON: Expecting property name enclosed in double quotes. It is"]),
    (f'[{A}, {{"text": "b", "text": "x"}}, {C}]', "ac", ["t.json:1: bad JSON: the key 'text' is given twice. It is"]),
    (f"[{A}, {B} oops, {C}]", "abc", ["t.json:1: bad JSON: 'o' where `,` or `]` is expected. It is element 3"]),
    (f'[{A}, {{"text": bad}}]', "a", ["t.json:1: bad JSON: Expecting value. It is element 2 of the array."]),
    (f'[{A},\n{B},\n{{"text": "c', "ab", ["t.json:3: bad JSON: Unterminated string starting at. It is element 3"]),
])
def test_one_broken_element_costs_no_other(content: str, kept: str, bad: list[str]) -> None:
    reader = opened(content)
    assert "".join(row["text"] for row, _ in reader.rows()) == kept
    assert len(reader.bad) == len(bad)
    assert all(said.startswith(start) for said, start in zip(reader.bad, bad, strict=True)), reader.bad
    with pytest.raises(DataError, match=bad[0].partition(" It is")[0].replace("[", r"\[").replace("(", r"\(")):
        list(opened(content, spares=False).rows())


def test_lines_behind_a_broken_element_are_told_right() -> None:
    reader = opened(pretty(A, NESTED.replace('"x"', '"x'), C, B))
    assert [place.line for _, place in reader.rows()] == [2, 18, 19]


def test_objects_within_a_broken_one_are_no_rows() -> None:
    inner = '{"turns": [{"role": "u"}, {"role": "v"}], "x": }'
    reader = opened(f'[{{"turns": [{{"role": "a"}}]}}, {inner}, {{"turns": []}}]')
    assert [row for row, _ in reader.rows()] == [{"turns": [{"role": "a"}]}, {"turns": []}]


def test_a_missing_comma_and_one_too_many_cost_no_row() -> None:
    reader = opened(f"[{A}\n{B},\n{C},]")
    assert "".join(row["text"] for row, _ in reader.rows()) == "abc"
    assert reader.notes == ["t.json:2: a comma is missing between two rows; both are read.",
                            "t.json:3: a comma stands behind the last row."]
    assert not reader.bad
    for content, message in ((f"[{A}\n{B}]", r"t\.json:2: bad JSON: '\{' where"), (f"[{A},]", "a row must be an obj")):
        with pytest.raises(DataError, match=message):
            list(opened(content, spares=False).rows())


def test_no_row_is_left_where_the_only_one_is_broken() -> None:
    with pytest.raises(DataError, match=r"t\.json: no row is left; 1 are bad, the first: t\.json:1: bad JSON"):
        list(opened('[{"text": bad}]').rows())


def test_elements_are_found_across_windows() -> None:
    rows = [json.dumps({"text": f"{i} " + "x" * 997}) for i in range(3000)]
    rows[1100] = rows[1100].replace('"text"', "text")
    rows[2999] = rows[2999].replace(":", "")
    for between in (",\n", ", "):
        reader = opened(f"[{between.join(rows)}]")
        numbers = [int(row["text"].split()[0]) for row, _ in reader.rows()]
        assert numbers == [*range(1100), *range(1101, 2999)]
        assert len(reader.bad) == 2


def test_a_rest_that_nobody_can_look_through_is_an_error() -> None:
    window = JsonWindow(io.TextIOWrapper(io.BytesIO(b'{"a": bad ' + b"x" * (17 * CHUNK))))
    window.refill()
    with pytest.raises(ValueError, match="the next row isn't found within 16,777,216 characters"):
        behind(window, 3, {"a"})


@pytest.mark.parametrize(("text", "at", "column"), [
    ('[{"a": 1}', 1, 1), ('[\n  {"a": 1}', 4, 2), ('{"a": 1}, {"a": 2}', 10, None), ("[\n\t{}", 3, 1),
])
def test_an_element_that_is_the_first_of_its_line_has_a_column(text: str, at: int, column: int | None) -> None:
    window = JsonWindow(io.TextIOWrapper(io.BytesIO(text.encode())))
    assert window.refill()
    window.move(at)
    assert window.column() == column
    assert window.line == 1 + text[:at].count("\n")
    window.whole = False  # what was before is gone
    assert window.column() == (column if "\n" in text[:at] else None)
