"""Sources: each format gives its documents with their places, and each fault is told with file and line."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkit.data import files, sources
from llmkit.data.builtin import sets
from llmkit.data.formats import text as plain_text
from llmkit.data.sources import Place, Reader, open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError, LlmkitError, RequestError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(name: str, content: str | bytes, document: str = "auto", **options: Any) -> Reader:
    data = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return open_source(Source(name, **options), document)


def documents(name: str, content: str | bytes, document: str = "auto", **options: Any) -> list[tuple[str, str]]:
    return [(text, str(place)) for text, place in opened(name, content, document, **options).documents()]


def rows(name: str, content: str | bytes, **options: Any) -> list[tuple[dict[str, Any], str]]:
    return [(row, str(place)) for row, place in opened(name, content, **options).rows()]


# ---- text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "document", "resolved", "expected"), [
    ("a\nb\n", "auto", "line", [("a", "t.txt:1"), ("b", "t.txt:2")]),
    ("a\nb\n\n \n", "auto", "line", [("a", "t.txt:1"), ("b", "t.txt:2")]),
    ("\n\na\nb", "auto", "line", [("a", "t.txt:3"), ("b", "t.txt:4")]),
    ("a\nb\n\n \nc\n", "auto", "paragraph", [("a\nb", "t.txt:1"), ("c", "t.txt:5")]),
    ("a\nb\n\nc\n", "line", "line", [("a", "t.txt:1"), ("b", "t.txt:2"), ("c", "t.txt:4")]),
    ("a\nb\n", "paragraph", "paragraph", [("a\nb", "t.txt:1")]),
    ("\na\n\nb\n\n", "file", "file", [("a\n\nb", "t.txt:2")]),
    ("a\n\nb\n<|endoftext|>\n\n<|endoftext|>\nc\n", "auto", "endoftext", [("a\n\nb", "t.txt:1"), ("c", "t.txt:7")]),
    ("a\n<|endoftext|>\n", "line", "line", [("a", "t.txt:1"), ("<|endoftext|>", "t.txt:2")]),
    ("a <|endoftext|>\nb\n", "auto", "line", [("a <|endoftext|>", "t.txt:1"), ("b", "t.txt:2")]),
    ("  indented \n", "auto", "line", [("  indented ", "t.txt:1")]),
    ("a\r\n\r\nb\r\n", "auto", "paragraph", [("a", "t.txt:1"), ("b", "t.txt:3")]),
    ("a\rb\u2028c\u0085d\n", "auto", "line", [("a\rb\u2028c\u0085d", "t.txt:1")]),
])
def test_a_text_file_is_cut_into_documents(
    content: str, document: str, resolved: str, expected: list[tuple[str, str]]
) -> None:
    assert documents("t.txt", content, document) == expected
    assert open_source(Source("t.txt"), document).document == resolved


def test_one_files_blank_line_makes_paragraphs_of_all_files() -> None:
    Path("a.txt").write_text("a\nb\n")
    Path("b.txt").write_text("c\n\nd\n")
    reader = open_source(Source("*.txt"))
    assert reader.document == "paragraph"
    assert [text for text, _ in reader.documents()] == ["a\nb", "c", "d"]


@pytest.mark.parametrize("name", ["t.txt", "t.text", "t.md", "t.rst", "t.unheard", "t", "t.txt.gz", "t.TXT", "t.gz"])
def test_any_unknown_extension_is_text(name: str) -> None:
    assert documents(name, "Grüße\n") == [("Grüße", f"{name}:1")]


@pytest.mark.parametrize(("raw", "encoding"), [
    (b"\xef\xbb\xbfna\xc3\xafve\n", "utf-8"),
    ("naïve\n".encode("utf-16"), "utf-16"),
    ("\ufeffnaïve\n".encode("utf-16-le"), "utf-16-le"),
    (b"na\xefve\r\n", "latin-1"),
])
def test_an_encoding_is_read_and_its_mark_dropped(raw: bytes, encoding: str) -> None:
    assert documents("t.txt", raw, encoding=encoding) == [("naïve", "t.txt:1")]


def test_a_line_may_be_very_long() -> None:
    (text, place), = opened("t.txt", "word " * 5_000_000 + "\n").documents()
    assert (len(text), place) == (25_000_000, Place("t.txt", 1))


def test_rows_of_a_text_file_have_a_text() -> None:
    assert rows("t.txt", "a\nb\n") == [({"text": "a"}, "t.txt:1"), ({"text": "b"}, "t.txt:2")]


# ---- rows ------------------------------------------------------------------------------------------------------

TWO = [({"text": "a", "n": 1}, 1), ({"text": "b", "n": 2}, 2)]


@pytest.mark.parametrize(("name", "content", "lines"), [
    ("r.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n', [1, 2]),
    ("r.jsonl", '\ufeff{"text": "a", "n": 1}\r\n\r\n  \n{"text": "b", "n": 2}', [1, 4]),
    ("r.ndjson.gz", '{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n', [1, 2]),
    ("r.json", '{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n', [1, 2]),
    ("r.json", '[{"text": "a", "n": 1}, {"text": "b", "n": 2}]', [1, 1]),
    ("r.json.gz", '\ufeff\n[\n  {"text": "a",\n   "n": 1},\n  {"text": "b", "n": 2}\n]\n', [3, 5]),
])
def test_json_rows_keep_their_types_and_lines(name: str, content: str, lines: list[int]) -> None:
    assert rows(name, content) == [
        ({"text": "a", "n": 1}, f"{name}:{lines[0]}"), ({"text": "b", "n": 2}, f"{name}:{lines[1]}")]


def test_an_array_larger_than_the_window_is_read_object_by_object() -> None:
    made = [{"text": f'{"ü" * 300} "{i}" \\'} for i in range(10_000)] + [{"text": "x" * 5_000_000}, {"text": "end"}]
    read = rows("r.json", json.dumps(made, indent=1, ensure_ascii=False))
    assert [row for row, _ in read] == made
    assert read[-1][1] == f"r.json:{3 * 10_002 - 1}"


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("r.csv", 'text,label\n"a, ""b""\nc",x\nd,y\n', [("a, \"b\"\nc", "x", 2), ("d", "y", 4)]),
    ("r.csv", "text , label\r\na,x\r\n\r\nb,\r\n", [("a", "x", 2), ("b", "", 4)]),
    ("r.csv.gz", "text,label\na,x\n", [("a", "x", 2)]),
    ("r.tsv", 'text\tlabel\nsay "hi", ok\tx\n"a ""q"" b"\ty\n', [('say "hi", ok', "x", 2), ('a "q" b', "y", 3)]),
    ("r.csv", f"text,label\n{'a' * 300_000},x\n", [("a" * 300_000, "x", 2)]),
])
def test_tables_have_a_header_and_true_line_numbers(
    name: str, content: str, expected: list[tuple[str, str, int]]
) -> None:
    assert rows(name, content) == [({"text": t, "label": label}, f"{name}:{n}") for t, label, n in expected]


def test_numbered_fields_mean_that_there_is_no_header() -> None:
    found = rows("r.csv", "id7,a b,x\nid8,c d,y\n", fields={"text": 1, "label": 2})
    assert found == [({"text": "a b", "label": "x", "0": "id7"}, "r.csv:1"),
                     ({"text": "c d", "label": "y", "0": "id8"}, "r.csv:2")]
    assert documents("r.csv", "x,a b\n", fields={"text": 1, "label": 0}) == [("a b", "r.csv:1")]


def test_a_first_row_whose_label_occurs_again_is_no_header() -> None:
    reader = opened("r.tsv", "pos\ta good film\nneg\ta bad film\npos\tvery good\n")
    assert next(reader.rows())[0] == {"text": "a good film", "label": "pos"}
    assert len(list(reader.rows())) == 3
    assert reader.notes == [
        "r.tsv has no header: its first row is data, column 1 is read as text and column 0 as label. "
        "--set data.train='{source: r.tsv, fields: {text: 1, label: 0}}' says otherwise."]


@pytest.mark.parametrize("content", [
    "label,review\npos,good film\nlabel,bad film\n", "kind,words\npos,good film\nneg,bad film\n",
    "pos,a,b\npos,c,d\n", "pos,a good film\n",
])
def test_a_first_row_is_a_header_where_anything_speaks_for_it(content: str) -> None:
    assert opened("r.csv", content).notes == []


def test_parquet_rows_are_numbered() -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    pq.write_table(pa.table({"text": [f"t{i}" for i in range(3000)], "label": list(range(3000))}), "r.parquet")
    found = list(open_source(Source("r.parquet")).rows())
    assert found[2999] == ({"text": "t2999", "label": 2999}, Place("r.parquet", 3000))
    Path("bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match=r"^bad\.parquet: this parquet file can't be read: "):
        list(open_source(Source("bad.parquet")).rows())


def test_each_file_of_a_glob_may_name_its_text_otherwise() -> None:
    Path("a.csv").write_text("Text,n\na,1\n")
    Path("b.jsonl").write_text('{"content": "b"}\n')
    Path("c.txt").write_text("c\n")
    assert [text for text, _ in open_source(Source("*")).documents()] == ["a", "b", "c"]


# ---- where sources come from -----------------------------------------------------------------------------------


def test_globs_reach_into_folders_and_are_sorted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("d/z/b.txt", "d/c.txt", "d/a/b/a.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x\n")
    assert [str(file) for file in open_source(Source("d/**/*.txt")).files] == ["d/a/b/a.txt", "d/c.txt", "d/z/b.txt"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source(Source("~/d/c.txt")).files == (tmp_path / "d/c.txt",)
    Path("a[1].txt").write_text("literal\n")
    assert [text for text, _ in open_source(Source("a[1].txt")).documents()] == ["literal"]


@pytest.mark.parametrize(("source", "kind", "message"), [
    ("nothing/*.txt", DataError, "nothing/*.txt: no file matches."),
    ("corpsu.txt", DataError, "corpsu.txt: no such file or folder. Did you mean 'corpus.txt'?"),
    ("folder", DataError, "folder: is a folder; say which files: folder/*.txt."),
    ("fol*", DataError, "fol*: no file matches. It matches folders only: folder/* would match what is in one."),
    ("corpus.parquet.gz", DataError, "corpus.parquet.gz: parquet is compressed inside; unpack the .gz first."),
    ("builtin:python-dcos", RequestError, "no built-in text is called 'python-dcos'. Did you mean 'python-docs'?"),
    ("hub:", RequestError, "'hub:': write hub:<id> or hub:<id>:<config>."),
])
def test_a_source_that_is_not_there_is_told_with_the_way_out(
    source: str, kind: type[LlmkitError], message: str
) -> None:
    Path("corpus.txt").write_text("a\n")
    Path("corpus.parquet.gz").write_bytes(b"")
    Path("folder").mkdir()
    with pytest.raises(kind) as caught:
        open_source(Source(source))
    assert str(caught.value) == message


def test_builtin_text_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sets.SETS, "python-docs", lambda: iter([{"text": "a"}, {"text": "b"}]))
    reader = open_source(Source("builtin:python-docs"))
    assert (reader.files, reader.document) == ((), None)
    assert [(text, str(place)) for text, place in reader.documents()] == [
        ("a", "builtin:python-docs:1"), ("b", "builtin:python-docs:2")]
    first = reader.fingerprint()
    monkeypatch.setitem(sets.SETS, "python-docs", lambda: iter([{"text": "a"}]))
    assert reader.fingerprint() != first


def test_a_hub_set_is_loaded_by_id_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets  # type: ignore[import-untyped]

    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return datasets.Dataset.from_dict({"content": ["a", "b"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    reader = open_source(Source("hub:org/name:small", split="test"))
    assert asked == [(("org/name", "small"), {"split": "test"})]
    assert [(text, str(place)) for text, place in reader.documents()] == [
        ("a", "hub:org/name:small:1"), ("b", "hub:org/name:small:2")]
    assert reader.fingerprint() == open_source(Source("hub:org/name:small", split="test")).fingerprint()


@pytest.mark.parametrize(("error", "message"), [
    (ConnectionError("Couldn't reach it"), "the hub can't be reached (Couldn't reach it); give a file"),
    (ValueError("Unknown split"), "split 'train' can't be loaded from the hub: Unknown split"),
])
def test_a_hub_set_that_cannot_be_loaded_is_a_data_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    import datasets

    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    with pytest.raises(DataError) as caught:
        open_source(Source("hub:org/name"))
    assert message in str(caught.value)


@pytest.mark.parametrize("switch", ["LLMKIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_the_hub_is_refused_at_once(switch: str) -> None:
    program = ("from llmkit.data.sources import open_source; from llmkit.recipe import Source\n"
               "from llmkit.system.errors import DataError\n"
               "try: open_source(Source('hub:no/such'))\nexcept DataError as error: print(error)")
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True,
                          env={switch: "1", "PYTHONPATH": root, "HOME": str(Path.cwd())})
    assert done.stdout.startswith("hub:no/such: ") and switch in done.stdout


def test_reading_imports_nothing_heavy() -> None:
    program = ("import sys; import llmkit.data.sources\n"
               "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy') if m in sys.modules])")
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True,
                          env={"PYTHONPATH": root})
    assert done.stdout == "[]\n"


# ---- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content", "message"), [
    ("t.txt", b"", "t.txt: is empty."),
    ("t.txt", b"\n \n\r\n", "t.txt: is empty."),
    ("t.jsonl", b"\n\n", "t.jsonl: is empty."),
    ("t.json", b"[]", "t.json: is empty."),
    ("t.json", b"", "t.json: is empty."),
    ("t.csv", b"text,label\n", "t.csv: is empty."),
    ("t.jsonl", b'{"text": ""}\n{"text": " "}\n', "t.jsonl: is empty."),
    ("t.txt", b"ok\nnot \xff ok\n", "t.txt:2: not utf-8: byte 0xff at offset 7; it reads well in none of utf-8, "
                                    "gb18030, big5, shift_jis, euc_jp, euc_kr, cp949, cp1252, cp1250, iso8859_2, "
                                    "cp1254, cp1257, cp1251, koi8_r, iso8859_5, cp866, cp1253, iso8859_7, cp1255, "
                                    "cp1256, iso8859_6, cp874; if you know its encoding, say which: {source: t.txt, "
                                    "encoding: NAME}."),
    ("t.txt.gz", b"ok\n" * 500_000 + b"\xc3", "t.txt.gz:500001: not utf-8: byte 0xc3 at offset 1500000; the file "
                                                   "ends within a character: it was cut short."),
    ("t.txt", "é".encode("utf-16"), "t.txt:1: starts with the byte order mark of UTF-16; say in the recipe: "
                                     "{source: t.txt, encoding: utf-16}."),
    ("t.txt", b"\xff\xfe\0\0", "t.txt:1: starts with the byte order mark of UTF-32; "),
    ("t.txt", b"a\nb\0c\n", "t.txt:2: a NUL byte; this is no utf-8 text."),
    ("t.jsonl", b'{"text": "a"}\n{"text": "b"\n', "t.jsonl:2: bad JSON: Expecting ',' delimiter at column 13"),
    ("t.jsonl", b'{"text": "a"}\n["b"]\n', "t.jsonl:2: a row must be an object {…}, not a list (['b'])."),
    ("t.jsonl", b'{"text": "a"}\nnull\n', "t.jsonl:2: a row must be an object {…}, not null."),
    ("t.jsonl", b'{"text": "a", "text": "b"}\n', "t.jsonl:1: bad JSON: the key 'text' is given twice."),
    ("t.jsonl", b'{"text": "a\\uD83D b"}\n', "t.jsonl:1: bad JSON: the lone surrogate \\ud83d is half a character."),
    ("t.jsonl", b'{"text":' + b"[" * 200_000, "t.jsonl:1: bad JSON: maximum recursion depth exceeded"),
    ("t.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "t.jsonl:2: the field 'text' is missing; this row has body."),
    ("t.jsonl", b'{"text": "a"}\n{"text": null}\n', "t.jsonl:2: 'text' must be text, not null."),
    ("t.jsonl", b'\n{"text": 7}\n', "t.jsonl:2: 'text' must be text, not a number (7)."),
    ("t.json", b'{\n "text": "a"}', "t.json:1: bad JSON: Expecting property name enclosed in double quotes at column 2"
                                    "; .json is an array of objects, or one object a line."),
    ("t.json", b'[{"text": "a"},\n 3]', "t.json:2: a row must be an object {…}, not '3]'."),
    ("t.json", b'[{"text": "a"},\n {"text": }]', "t.json:2: bad JSON: Expecting value."),
    ("t.json", b'[{"text": "a"}\n{"text": "b"}]', "t.json:2: bad JSON: '{' where `,` or `]` is expected."),
    ("t.json", b'[{"text": "a"},\n', "t.json:2: bad JSON: the array breaks off, `]` is missing."),
    ("t.json", b'[{"text": "a"}]\nx', "t.json:2: bad JSON: 'x' after the end of the array."),
    ("t.json", b'[{"text": "a"}, {"text": "b', "t.json:1: bad JSON: Unterminated string starting at."),
    ("t.json", b'[\n{"text": "a", "text": ""}]', "t.json:2: bad JSON: the key 'text' is given twice."),
    ("t.csv", b"text,label\na,x\nb\n", "t.csv:3: 1 cells, where line 1 has 2."),
    ("t.csv", b'text,label\n"a\nb",x\nc,y,z\n', "t.csv:4: 3 cells, where line 1 has 2."),
    ("t.tsv", b"text\tlabel\na\tx\tz\n", "t.tsv:2: 3 cells, where line 1 has 2."),
    ("t.csv", b'text,label\na,x\n"b,y\nc,z\n', "t.csv:3: bad CSV: unexpected end of data."),
    ("t.csv", b"text,text\na,x\n", "t.csv:1: the header has 'text' twice."),
    ("t.csv", b"txet,n\na,1\n", "t.csv: no column is called 'text' or 'content' or"),
])
def test_a_fault_is_told_with_file_and_line(name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        list(opened(name, content).documents())
    assert str(caught.value).startswith(message)


def test_a_gzip_file_that_breaks_off_or_is_none_is_refused() -> None:
    whole = gzip.compress("\n".join(map(str, range(100_000))).encode())
    Path("t.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"^t\.txt\.gz: the gzip data breaks off or is damaged: "):
        list(open_source(Source("t.txt.gz")).documents())
    Path("u.txt.gz").write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"^u\.txt\.gz: is no gzip file, or a damaged one: "):
        list(open_source(Source("u.txt.gz")).documents())


@pytest.mark.parametrize(("name", "options", "message"), [
    ("t.txt", {"encoding": "utf8-8"}, "t.txt: no encoding is called 'utf8-8'. Did you mean 'utf-8'?"),
    ("t.txt", {"encoding": "rot13"}, "t.txt: no encoding is called 'rot13'."),
    ("t.txt", {"fields": {"text": "body"}}, "t.txt: a text file has no fields; leave out {'text': 'body'}, or give it "
     "an extension that says its format: .jsonl, .ndjson, .json, .csv, .tsv, .parquet."),
    ("t.jsonl", {"fields": {"text": 0}}, "t.jsonl: numbers in fields count the columns of a .csv or .tsv table"),
    ("t.csv", {"fields": {"text": 0, "label": "y"}}, "t.csv: numbers in fields count the columns"),
])
def test_a_source_described_wrongly_is_a_wrong_request(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        opened(name, "a\n", **options)
    assert str(caught.value).startswith(message)


def test_a_numbered_column_must_be_there() -> None:
    with pytest.raises(DataError, match=r"^t\.csv:1: there is no column 2; the table has 2, counted from 0\.$"):
        rows("t.csv", "a,b\n", fields={"text": 2})


# ---- fingerprints ----------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_content_and_reading_not_of_paths() -> None:
    first = opened("a.txt", "a\n\nb\n").fingerprint()
    assert len(first) == 64
    assert opened("other.txt", "a\n\nb\n").fingerprint() == first
    assert opened("a.txt", "a\n\nb\n", "paragraph").fingerprint() == first  # what auto became
    assert len({
        first,
        opened("a.txt", "a\n\nc\n").fingerprint(),
        opened("a.txt", "a\n\nb\n", "line").fingerprint(),
        opened("a.txt", "a\n\nb\n", encoding="latin-1").fingerprint(),
        opened("a.csv", "a\n\nb\n").fingerprint(),
        opened("a.csv", "a\n\nb\n", fields={"text": "a"}).fingerprint(),
    }) == 6


FILES = {
    "lines.txt": b"a\nb\n", "gaps.txt": b"a\n\nb\n", "rows.jsonl": b'{"text": "a", "label": 1}\n',
    "rows.json": b'[{"text": "a", "label": 1}]', "table.csv": b"text,label\na,x\n", "table.tsv": b"text\tlabel\na\tx\n",
    "en.txt": b"one\n", "de.txt": b"eins\n", "packed.txt.gz": gzip.compress(b"a\nb\n", mtime=0),
}


@pytest.mark.parametrize(("source", "how", "fingerprint"), [
    (Source("lines.txt"), (), "211e8a7d979efa3b1ec9796af84394e1dcc97f669f175b98e03d242c36c53f96"),
    (Source("gaps.txt"), (), "4eb1da1e928f184595a5b62fc159d74aa45f22e1b38d6fe5b8c37db74de7a0fd"),
    (Source("gaps.txt"), ("line",), "ae10435de1da6b8f3685f5cd24472d0dfeeb20f688e78eb8a96fe463b8468345"),
    (Source("gaps.txt", encoding="latin-1"), (), "1b525b6fc603e29fed4548a8e7e8557bb39eafdacdcbe282f0caece7231f5b7e"),
    (Source("rows.jsonl"), (), "2b6706233857fc2d92632705c84c6160391f8570646eeeaab3d1f5150d45eaa7"),
    (Source("rows.jsonl"), ("auto", True), "308baaf7c205e730a1ea9ffe9cebec4fadd22d56f5419c20fa4e5659707f8528"),
    (Source("rows.json"), (), "83156e802f5bf704689e66adf9176e27dea5d6d0dbd019c97e1695e75d0a2a97"),
    (Source("rows.json", fields={"text": "label"}), (),
     "f8d33c5537eba71396131eaaca715e5363f05cc23c7ced17668557396b64b10d"),
    (Source("table.csv"), (), "879dbbb4f1a8072fdd724071545221a16ea5ffc41d29d6581a250b9ebee80586"),
    (Source("table.tsv", fields={"text": 0}), (), "d71f97ca02d85cb66ae9b9ddcd2fc727fe14c083c4a7a037c99d6b973b02d738"),
    (Source("en.txt", target="de.txt"), (), "859909989135c7cdc2780c5eb2d8a380d1d4823cf3c24475e1f03cabcdcc68de"),
    (Source("packed.txt.gz"), (), "a247e2b41c9d4689b358d6c90d2a7fedf703cf87c9c6d3393d5b339be4552bb2"),
    (Source("*s.txt"), (), "2afc24a3aae5bb1c8eb87413ae78eb31617acb1c4e70bf0c7a9a6ef9760c61b0"),
])
def test_fingerprints_are_those_of_earlier_versions_so_that_old_runs_resume(
    source: Source, how: tuple[Any, ...], fingerprint: str,
) -> None:
    for name, data in FILES.items():
        Path(name).write_bytes(data)
    assert open_source(source, *how).fingerprint() == fingerprint


def test_a_file_is_hashed_anew_when_it_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = opened("a.txt", "one\n")
    before, hashed = reader.fingerprint(), []
    inner = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: (hashed.append(path), inner(path))[1])
    assert reader.fingerprint() == before and len(hashed) == 1  # too new: a write within the clock's tick wouldn't show
    monkeypatch.setattr(files, "TICK", -10**12)
    assert [reader.fingerprint() for _ in range(3)] == [before] * 3 and len(hashed) == 2
    stamp = Path("a.txt").stat()
    Path("a.txt").write_text("two\n")
    os.utime("a.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert reader.fingerprint() != before and len(hashed) == 3
    Path("b.txt").write_text("one\n")
    Path("b.txt").rename("a.txt")
    assert reader.fingerprint() == before


def line_by_line(path: Path) -> str:
    """What auto means, as the documentation says it."""
    lines = path.read_text().split("\n")
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if any(line.strip(" \t\r") == plain_text.SEPARATOR for line in lines):
        return "endoftext"
    gap = any(not line.strip() for line in lines[filled[0] : filled[-1]]) if filled else False
    return "paragraph" if gap else "line"


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", " ", "\n", "\n\n", "\r\n", "\u3000", "\x1c", "<|endoftext|>",
                                 "\n<|endoftext|>\n", "<|endof", "text|>", "\t", "   "]), max_size=20).map("".join),
       st.integers(1, 40))
def test_auto_is_what_the_lines_say_wherever_the_file_is_cut(
    monkeypatch: pytest.MonkeyPatch, content: str, size: int,
) -> None:
    monkeypatch.setattr(plain_text, "CHUNK", size)
    Path("a.txt").write_bytes(content.encode())
    assert open_source(Source("a.txt")).document == line_by_line(Path("a.txt"))


def test_what_auto_is_in_large_files_is_remembered_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_CACHE", "cache")
    monkeypatch.setattr(sources, "LARGE", 4)
    assert opened("a.txt", "a\n\nb\n").document == "paragraph"
    monkeypatch.setattr(sources, "usual_document", lambda texts, encoding, label, spares: "read again")
    assert opened("b.txt", "a\n\nb\n").document == "paragraph"
    assert opened("b.txt", "a\n\nc\n").document == "read again"


def test_where_one_file_ends_and_the_next_begins_is_part_of_the_fingerprint() -> None:
    Path("a.txt").write_text("ab\n")
    Path("b.txt").write_text("c\n")
    first = open_source(Source("?.txt")).fingerprint()
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("b\nc\n")
    assert open_source(Source("?.txt")).fingerprint() != first
