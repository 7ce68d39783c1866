"""A source cut into shards: between documents, all of it once, whole or absent."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data import tokens
from llmkit.data.files import Changed
from llmkit.data.large.shards import Portion, Shard, make, reader_of, shards_of
from llmkit.data.sources import open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError

LINES = [*stories(40), "今天下雨。“真的？”", "ünïcødé 猫 ☃"]


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(LINES, "bpe", 300)


def text(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8", newline="")
    return str(path)


def lines_of_json(path: Path) -> str:
    """The text isn't in the first column of the names that llmkit knows."""
    rows = [{"id": i, "content": line, "title": "none"} for i, line in enumerate(LINES)]
    return text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


SOURCES = {
    "line": lambda folder: text(folder / "a.txt", "\n".join(LINES) + "\n"),
    "no last line end": lambda folder: text(folder / "a.txt", "\n".join(LINES)),
    "line ends of windows": lambda folder: text(folder / "a.txt", "\r\n".join(LINES) + "\r\n"),
    "paragraph": lambda folder: text(folder / "a.txt", "\n".join(
        line + ("\n \t\n\n" if i % 3 == 2 else "") for i, line in enumerate(LINES))),
    "endoftext": lambda folder: text(folder / "a.txt", "\n".join(
        line + ("\n <|endoftext|>" if i % 4 == 3 else "") for i, line in enumerate(LINES))),
    "jsonl": lambda folder: lines_of_json(folder / "a.jsonl"),
    "csv, which isn't cut": lambda folder: text(folder / "a.csv", "text\n" + "".join(f'"{line}"\n' for line in LINES)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_shards_have_the_documents_of_the_source_in_their_order(kind, tmp_path, bpe):
    reader = open_source(Source(SOURCES[kind](tmp_path)))
    cuts = shards_of(reader, 0, 600)
    found = [document for shard in cuts for document, _ in reader_of(reader, shard).documents()]
    assert found == [document for document, _ in reader.documents()]
    assert (len(cuts) == 1) == ("cut" in kind)
    size = reader.files[0].stat().st_size
    assert len(cuts) <= math.ceil(size / 600)
    assert sum(shard.size for shard in cuts) == size
    places = [str(place) for shard in cuts for _, place in reader_of(reader, shard).documents()]
    assert places == [str(place) for _, place in reader.documents()]  # an error names the line of the file


def test_the_ids_of_all_shards_are_those_of_the_source_to_the_byte(tmp_path, bpe):
    reader = open_source(Source(SOURCES["paragraph"](tmp_path)))
    (tmp_path / "whole").mkdir()
    tokens.write(reader, bpe, tmp_path / "whole", False)
    cuts = shards_of(reader, 0, 500)
    assert len(cuts) > 3
    for i, shard in enumerate(cuts):
        make(reader, shard, tmp_path / str(i), bpe, False)
    parts = [tmp_path / str(i) for i in range(len(cuts))]
    assert b"".join((part / "ids.bin").read_bytes() for part in parts) == (tmp_path / "whole" / "ids.bin").read_bytes()
    digests = np.concatenate([np.load(part / "digests.npy") for part in parts])
    assert digests.tolist() == np.load(tmp_path / "whole" / "digests.npy").tolist()


def test_small_files_share_a_shard_and_packed_ones_are_not_cut(tmp_path):
    for i in range(6):
        text(tmp_path / f"{i}.txt", "\n".join(LINES[:4]) + "\n")
    with gzip.open(tmp_path / "7.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(LINES * 20))
    reader = open_source(Source(str(tmp_path / "*.txt*")))
    each = (tmp_path / "0.txt").stat().st_size
    cuts = shards_of(reader, 0, 3 * each)
    assert [[piece.file for piece in shard.pieces] for shard in cuts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [document for shard in cuts for document, _ in reader_of(reader, shard).documents()] == [
        document for document, _ in reader.documents()]


def test_an_encoding_of_two_bytes_a_character_is_not_cut_and_one_of_one_is(tmp_path):
    for encoding, count in (("utf-16", 1), ("latin-1", 4), ("gb18030", 4)):
        path = tmp_path / f"{encoding}.txt"
        path.write_text("\n".join(stories(40)), encoding=encoding)
        reader = open_source(Source(str(path), encoding=encoding))
        cuts = shards_of(reader, 0, path.stat().st_size // 4 + 1)
        assert len(cuts) == count
        assert sum(len(list(reader_of(reader, shard).documents())) for shard in cuts) == 40


def test_a_bad_row_is_named_by_its_line_in_the_file(tmp_path, bpe):
    path = tmp_path / "a.jsonl"
    lines_of_json(path)
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[30] = '{"content": 7}'
    path.write_text("\n".join(lines), encoding="utf-8")
    reader = open_source(Source(str(path)))
    cuts = shards_of(reader, 0, 900)
    with pytest.raises(DataError, match=r"a\.jsonl:31: 'content' must be text, not a number"):
        [make(reader, shard, tmp_path / str(shard.pieces[0].start), bpe, False) for shard in cuts]
    spared = replace(reader, spares=True)
    for i, shard in enumerate(cuts):
        make(spared, shard, tmp_path / f"spared-{i}", bpe, False)
    assert [bad.partition(": ")[0] for bad in spared.bad] == [f"{path}:31"]


def test_text_that_changed_since_it_was_cut_makes_no_shard(tmp_path, bpe):
    path = tmp_path / "a.txt"
    text(path, "\n".join(LINES) + "\n")
    reader = open_source(Source(str(path)))
    cuts = shards_of(reader, 0, 600)
    content = path.read_bytes()
    path.write_bytes(content[:-5] + b"abcd\n")
    make(reader, cuts[0], tmp_path / "first", bpe, False)  # of what is as it was
    with pytest.raises(Changed):
        make(reader, cuts[-1], tmp_path / "last", bpe, False)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.txt", "first"]


def test_a_shard_is_written_as_it_is_read(tmp_path):
    shard = Shard(1, (Portion(0, 5, 70, 3, "ab"), Portion(1, 0, 9, 0, "cd")))
    assert Shard.of(json.loads(json.dumps(shard.plain()))) == shard
    assert shard.size == 74


def test_nothing_but_blank_lines_is_an_empty_shard(tmp_path, bpe):
    for i, content in enumerate(["the cat\n" * 40, "\n" * 300, "a dog\n" * 40]):
        text(tmp_path / f"{i}.txt", content)
    reader = open_source(Source(str(tmp_path / "*.txt")), "line")
    cuts = shards_of(reader, 0, 300)
    held = [make(reader, shard, tmp_path / f"shard-{i}", bpe, False) for i, shard in enumerate(cuts)]
    assert [one["documents"] for one in held] == [40, 0, 40]
