"""Processes read the stretches of a source by themselves: its documents in their order, and the same files as one."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data import tokens
from llmkit.data.large import cutting
from llmkit.data.large.cutting import pairs_of, read_by, stretches
from llmkit.data.sources import Reader, open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError

CHINESE = ["今天下雨。“真的？”他问；没人回答", "猫坐在垫子上，狗睡着了。", "她说：明天见！☃"]
LINES = [line for i, story in enumerate(stories(60, 2)) for line in (story, CHINESE[i % 3])]
ROWS = [{"id": i, "content": line, "title": "none"} for i, line in enumerate(LINES)]
JSON = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def text(path: Path, content: str, encoding: str = "utf-8") -> str:
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding=encoding, newline="") as file:
        file.write(content)
    return str(path)


def parquet(path: Path, rows: int) -> str:
    """A table of columns, so many rows a group."""
    table = pa.table({"id": range(len(LINES)), "content": LINES, "other": [{"a": [line]} for line in LINES]})
    pq.write_table(table, path, row_group_size=rows)
    return str(path)


def table(path: Path, delimiter: str = ",", end: str = "\n", encoding: str = "utf-8", header: bool = True) -> str:
    """Cells with line ends, delimiters, quotes and commas in quotes; quotes that open nothing, and empty lines."""
    file = io.StringIO()
    rows = csv.writer(file, delimiter=delimiter, lineterminator=end)
    rows.writerows([["id", "text", "more"]] * header)
    for i, line in enumerate(LINES):
        cell = [line, f'{line}\n"{i}", he said,\n{line}', f"{line}\n\n,x\n", f'5" of {line}', f'"{line}"'][i % 5]
        if i % 5 == 3:
            file.write(delimiter.join((str(i), cell, '6"')) + end * (1 + i % 2))
        else:
            rows.writerow([i, cell, f"more, {i}" * (i % 3)])
    return text(path, file.getvalue(), encoding)


def tabs(path: Path) -> str:
    """A row across three lines; a quote that is never closed; and many rows that are lines."""
    rows = [f"{i}\t{line}" for i, line in enumerate(LINES)]
    rows[3:3] = ['x\t"one', "two", 'three"', 'y\t"never closed']
    return text(path, "\n".join(["id\ttext", *rows, *rows[8:]]))


def many(folder: Path) -> str:
    """Small ones of several formats, one that is cut, an empty one, a packed one."""
    for i in range(6):
        text(folder / f"{i}.txt", "\n".join(LINES[i * 3 : i * 3 + 3]) + "\n" * (i % 2))
    text(folder / "6.txt", "\n".join(LINES))
    text(folder / "7.txt", "\n \n")
    text(folder / "8.jsonl", JSON)
    text(folder / "9.txt.gz", "\n".join(LINES[::-1]))
    return str(folder / "*")


WIDE = [line + "\u0a00\u000b\u0a0a \u0d0a" * (i % 3) for i, line in enumerate(LINES)]
"""With characters whose bytes are, across two of them, those of a line's end."""
PARAGRAPHS = "\n".join(line + ("\n \t\n\n" if i % 3 == 2 else "") for i, line in enumerate(LINES))
SOURCES: dict[str, Callable[[Path], str]] = {
    "line": lambda folder: text(folder / "a.txt", "\n".join(LINES)),
    "line, ends of windows": lambda folder: text(folder / "a.txt", "\r\n".join(LINES) + "\r\n"),
    "line, a return within the last": lambda folder: text(folder / "a.txt", "\n".join(LINES) + "\ra"),
    "line, ends of old macs": lambda folder: text(folder / "a.txt", "\r".join(LINES)),
    "paragraph": lambda folder: text(folder / "a.txt", PARAGRAPHS),
    "paragraph, packed": lambda folder: text(folder / "a.txt.gz", PARAGRAPHS),
    "paragraph, one of them long": lambda folder: text(
        folder / "a.txt.gz", PARAGRAPHS + "\n\n" + "\n".join(LINES * 3) + "\n\n" + PARAGRAPHS),
    "endoftext": lambda folder: text(folder / "a.txt", "\n".join(
        line + ("\n <|endoftext|>" if i % 4 == 3 else "") for i, line in enumerate(LINES))),
    "one document": lambda folder: text(folder / "a.txt", "\n".join(LINES)),
    "like a PDF": lambda folder: text(folder / "a.txt", "\n".join(
        line for story in LINES for line in (story, "%PDF-1.4 is how a file of another kind begins"))),
    "jsonl": lambda folder: text(folder / "a.jsonl", JSON),
    "jsonl, packed": lambda folder: text(folder / "a.jsonl.gz", JSON),
    "json, by the line": lambda folder: text(folder / "a.json", JSON),
    "json, an array": lambda folder: text(folder / "a.json", json.dumps(ROWS)),
    "csv": lambda folder: text(
        folder / "a.csv", "id,text\n" + "".join(f'{i},"{line}"\n' for i, line in enumerate(LINES))),
    "csv, lines in quotes": lambda folder: table(folder / "a.csv"),
    "csv, ends of windows": lambda folder: table(folder / "a.csv", end="\r\n"),
    "csv, semicolons": lambda folder: table(folder / "a.csv", ";"),
    "csv, bars": lambda folder: table(folder / "a.csv", "|", encoding="gb18030"),
    "csv, packed": lambda folder: table(folder / "a.csv.gz"),
    "csv, utf-16": lambda folder: table(folder / "a.csv", "\t", encoding="utf-16"),
    "csv, no header": lambda folder: table(folder / "a.csv", header=False),
    "tsv": lambda folder: text(folder / "a.tsv", "text\tid\n" + "".join(
        f'"{line}"\t{i}\n' if i % 2 else f'{line}\t"{i}"\n\n' for i, line in enumerate(LINES))),
    "tsv, lines in quotes": lambda folder: tabs(folder / "a.tsv"),
    "tsv, commas": lambda folder: table(folder / "a.tsv"),
    "parquet": lambda folder: parquet(folder / "a.parquet", 7),
    "parquet, large groups": lambda folder: parquet(folder / "a.parquet", 50),
    "parquet, one group": lambda folder: parquet(folder / "a.parquet", 1000),
    "line, utf-16": lambda folder: text(folder / "a.txt", "\n".join(WIDE), "utf-16"),
    "line, utf-16 big": lambda folder: text(folder / "a.txt", "\ufeff" + "\r\n".join(WIDE) + "\n", "utf-16-be"),
    "paragraph, utf-16": lambda folder: text(folder / "a.txt", PARAGRAPHS, "utf-16"),
    "endoftext, utf-32": lambda folder: text(folder / "a.txt", "\n".join(
        line + ("\n <|endoftext|>" if i % 4 == 3 else "") for i, line in enumerate(LINES)), "utf-32"),
    "line, utf-16, packed": lambda folder: text(folder / "a.txt.gz", "\n".join(WIDE), "utf-16"),
    "line, utf-16, ends of old macs": lambda folder: text(folder / "a.txt", "\r".join(WIDE), "utf-16"),
    "jsonl, utf-16": lambda folder: text(folder / "a.jsonl", JSON, "utf-16"),
    "many": many,
}


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(LINES, "wordpiece", 250)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches of half a kilobyte."""
    monkeypatch.setattr(cutting, "SIZE", 500)


def opened(kind: str, folder: Path) -> Reader:
    folder.mkdir()
    path = SOURCES[kind](folder)
    encoding = next((name for name in ("utf-16", "utf-32") if name in kind), "gb18030" if "bars" in kind else "utf-8")
    encoding = "utf-16-be" if "big" in kind else encoding
    reader = open_source(Source(path, encoding=encoding), "file" if kind == "one document" else "auto")
    reader.notes.clear()
    return reader


def written(reader: Reader, tokenizer, folder: Path, processes: int) -> dict[str, bytes]:
    reader.num_proc = processes
    folder.mkdir()
    tokens.write(reader, tokenizer, folder, False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", SOURCES)
def test_stretches_have_the_documents_of_a_source_where_they_stand(kind, tmp_path, short):
    reader = opened(kind, tmp_path / "source")
    found, places, count = [], [], 0
    for stretch in stretches(reader):
        count += 1
        if stretch.texts is not None:
            found += stretch.texts[0]
        elif stretch.pieces:
            found += [document for document, _ in pairs_of(read_by(reader, stretch.pieces))]
            places += [str(place) for _, place in read_by(reader, stretch.pieces).documents()]
    whole = list(reader.documents())
    assert found == [document for document, _ in whole]
    if places:
        assert places == [str(place) for _, place in whole]
    alone = ("one document", "line, ends of old macs", "line, utf-16, ends of old macs", "json, an array",
             "tsv, lines in quotes")  # all are given as texts
    assert count == 1 if kind in alone else count > 5


@pytest.mark.parametrize("kind", SOURCES)
def test_files_are_those_of_one_process_and_have_the_ids_of_each_document(kind, tmp_path, wordpiece, short):
    reader = opened(kind, tmp_path / "source")
    made = written(reader, wordpiece, tmp_path / "1", 1)
    assert made == written(replace(reader, used={}, unused={}), wordpiece, tmp_path / "3", 3)
    documents = [document for document, _ in reader.documents()]
    ids = wordpiece(documents, add_special_tokens=False)["input_ids"]
    assert np.frombuffer(made["ids.bin"], np.uint16).tolist() == [number for some in ids for number in some]
    assert np.diff(np.load(tmp_path / "3" / "offsets.npy")).tolist() == [len(some) for some in ids]


def test_a_part_that_looks_like_one_object_of_all_rows_is_a_row(tmp_path, wordpiece, short):
    rows = [{"content": "the cat " * 30}] * 3 + [{"content": "a dog", "data": [{"text": "x" * 600}]}] * 3
    path = text(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    reader = open_source(Source(path))
    assert len(list(stretches(reader))) > 3
    assert written(reader, wordpiece, tmp_path / "1", 1) == written(reader, wordpiece, tmp_path / "2", 2)
    assert len(np.load(tmp_path / "2" / "digests.npy")) == 6


def test_the_first_row_says_where_the_text_of_a_file_is_and_not_that_of_a_part(tmp_path, wordpiece, short):
    others = [{"text": "other", "body": f"{i} dogs " * 9} for i in range(40)]
    rows = [{"title": "no"}, {"body": "the cat sat " * 4}, *others]
    path = text(tmp_path / "a.jsonl", "nonsense\n" + "".join(json.dumps(row) + "\n" for row in rows))
    made = []
    for processes in (1, 2):
        reader = open_source(Source(path, fields={"text": "body"}), spares=True)
        made.append(written(reader, wordpiece, tmp_path / str(processes), processes))
        assert [bad.split(": ")[0].rpartition("/")[2] for bad in reader.bad] == ["a.jsonl:1", "a.jsonl:2"]
    assert made[0] == made[1]
    assert json.loads(made[0]["about.json"])["columns"] == [[["text", "body"]], []]
    assert len(np.load(tmp_path / "2" / "digests.npy")) == 41


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_of_several_faults_is_told_with_its_line(processes, tmp_path, wordpiece, short):
    lines = JSON.splitlines()
    lines[50], lines[90] = '{"content": 7}', '{"content": '
    reader = open_source(Source(text(tmp_path / "a.jsonl.gz", "\n".join(lines))))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:51: 'content' must be text, not a number"):
        written(reader, wordpiece, tmp_path / "x", processes)
    whole = open_source(Source(text(tmp_path / "b.jsonl.gz", JSON)))
    (tmp_path / "b.jsonl.gz").write_bytes((tmp_path / "b.jsonl.gz").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: the gzip data breaks off"):
        written(whole, wordpiece, tmp_path / "z", processes)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_byte_that_is_not_of_the_encoding_is_named_by_its_place_in_the_file(processes, tmp_path, wordpiece, short):
    path = Path(text(tmp_path / "a.txt", "\n".join(LINES) + "\n"))
    path.write_bytes(path.read_bytes() + b"caf\xe9\n")
    with pytest.raises(DataError, match=rf"a\.txt:{len(LINES) + 1}: not utf-8: byte 0xe9"):
        written(open_source(Source(str(path)), "line"), wordpiece, tmp_path / "x", processes)


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_but_spaces_is_no_text_to_learn_from(processes, tmp_path, wordpiece, short):
    reader = open_source(Source(text(tmp_path / "a.txt", " \n\n" * 900)))
    with pytest.raises(DataError, match=r"a\.txt: is empty"):
        written(reader, wordpiece, tmp_path / "x", processes)
