"""on_bad_row: skip: what is wrong with one row costs this row and no other, whatever the format."""

import gzip
from pathlib import Path

import pytest

from llmkit.data.sources import Reader, open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def skipping(name: str, content: bytes) -> Reader:
    Path(name).write_bytes(content)
    return open_source(Source(name), spares=True)


GOOD = b"a,x\nb,y\n"


@pytest.mark.parametrize(("name", "content", "kept", "bad"), [
    ("t.csv", b'text,label\n"no" he said,a\n' + GOOD, ["a", "b"], ["t.csv:2: bad CSV: ',' expected after '\"'."]),
    ("t.csv", b'text,label\n"he said \\"no\\" again",a\n' + GOOD, ["a", "b"],
     ["t.csv:2: bad CSV: ',' expected after '\"'."]),
    ("t.csv", b'text,label\n"he said \\"no, no\\"",a\n' + GOOD, ["a", "b"], ["t.csv:2: bad CSV: "]),
    ("t.csv", b'text,label\nc,z\n"never closed,x\n' + GOOD, ["c", "a", "b"],
     ["t.csv:3: bad CSV: unexpected end of data."]),
    ("t.csv", b'text,label\n"never closed,x\na,x\n"b ""quoted""",y\n', ["a", 'b "quoted"'], ["t.csv:2: bad CSV: "]),
    ("t.csv", b'text,label\n"two\nlines" and more,x\na,x\n', ["a"],
     ["t.csv:2: bad CSV: ", "t.csv:3: bad CSV: the rest of a row that is bad."]),
    ("t.csv", b"text,label\nc\rd,x\n" + GOOD, ["a", "b"], ["t.csv:2: bad CSV: new-line character"]),
    ("t.csv", b'text,label\n"\xff",x\na,x\n"b,y\nc,z\n', ["a", "c"],
     ["t.csv:2: not utf-8: byte 0xff.", "t.csv:4: bad CSV: unexpected end of data."]),
    ("t.txt", b"a\n\xd5\xe2\nb\n", ["a", "b"], ["t.txt:2: not utf-8: byte 0xd5."]),
    ("t.txt", b"a\nb\n\n\xff\n\nc\n", ["a\nb", "c"], ["t.txt:4: not utf-8: byte 0xff."]),
    ("t.txt.gz", gzip.compress(b"a\n\xff\nb\n", mtime=0), ["a", "b"], ["t.txt.gz:2: not utf-8: byte 0xff."]),
    ("t.json", b'[{"text": "a"},\n {"text": "\xff"},\n {"text": "b"}]', ["a", "b"],
     ["t.json:2: not utf-8: byte 0xff."]),
    ("t.json", b'[{"text": "a"},\n 3, "x", null, [1],\n {"text": "b"}]', ["a", "b"],
     ["t.json:2: a row must be an object {", "t.json:2: a row must be an object {", "t.json:2: a row must be an object",
      "t.json:2: a row must be an object {"]),
    ("t.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n{"text": "b"}\n', ["a", "b"], ["t.jsonl:2: not utf-8: byte 0xff."]),
    ("t.tsv", b"text\tlabel\na\tx\n\xff\ty\nb\tx\n", ["a", "b"], ["t.tsv:3: not utf-8: byte 0xff."]),
])
def test_one_bad_row_costs_no_other(name: str, content: bytes, kept: list[str], bad: list[str]) -> None:
    reader = skipping(name, content)
    assert [text for text, _ in reader.documents()] == kept
    assert len(reader.bad) == len(bad)
    assert all(said.startswith(start) for said, start in zip(reader.bad, bad, strict=True)), reader.bad


def test_the_lines_of_rows_after_a_bad_one_are_told_right() -> None:
    reader = skipping("t.csv", b'text,label\n\xff,x\n"open,x\na,x\nb\n"c\nd",y\ne\n')
    assert [(text, str(place)) for text, place in reader.documents()] == [("a", "t.csv:4"), ("c\nd", "t.csv:6")]
    assert list(reader.bad)[-1] == "t.csv:8: 1 cells, where line 1 has 2."


@pytest.mark.parametrize(("ours", "theirs", "pairs"), [
    (b"one\n\xff\nthree\n", b"eins\nzwei\ndrei\n", ["one eins", "three drei"]),
    (b"one\ntwo\nthree\n", b"eins\nzw\0i\ndrei\n", ["one eins", "three drei"]),
    (b"one\ntwo\n\xff\n", b"eins\nzwei\ndrei\n", ["one eins", "two zwei"]),
    (b"\xff\ntwo\n", b"eins\n\xff\n", []),
])
def test_a_bad_line_of_parallel_text_moves_no_translation(ours: bytes, theirs: bytes, pairs: list[str]) -> None:
    Path("t.en").write_bytes(ours)
    Path("t.de").write_bytes(theirs)
    reader = open_source(Source("t.en", target="t.de"), spares=True)
    if pairs:
        assert [f"{row['source']} {row['target']}" for row, _ in reader.rows()] == pairs
    else:
        with pytest.raises(DataError, match="no row is left; 2 are bad"):
            list(reader.rows())


def test_bad_rows_are_errors_where_nobody_leaves_them_out() -> None:
    Path("t.csv").write_bytes(b'text,label\nc,z\n"open,x\n' + GOOD)
    with pytest.raises(DataError, match=r"^t\.csv:3: bad CSV: unexpected end of data\.$"):
        list(open_source(Source("t.csv")).documents())


def test_a_file_of_another_encoding_of_which_no_row_is_left_is_told_which() -> None:
    reader = skipping("t.txt", "清晨的港口很安静。\n雨点打在屋顶上。\n".encode("gbk"))
    with pytest.raises(DataError) as caught:
        list(reader.documents())
    assert str(caught.value).startswith("t.txt: no row is left; 2 are bad, the first: t.txt:1: not utf-8: byte 0xc7")
    assert "it looks like gb18030, in which this line reads '清晨的港口很安静。'; " in str(caught.value)
