"""A source cut into shards: stretches of text that are tokenized one by one, each a folder that is whole or absent."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.data import tokens
from llmkit.data.decoding.ends import MarkedEnds
from llmkit.data.files import TICK, WORTH, Changed, Part, changed, sha256_of, state_of, unreadable
from llmkit.data.large.cutting import UNFOLDS, column_of, ends_of, is_text, only
from llmkit.data.sources import Reader
from llmkit.system import cache
from llmkit.system.machine import cores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIZE = 2**28
"""Bytes of text in a shard, about."""
BLOCK = 2**22
"""Bytes that are hashed at once."""
CONTENT = "shard.json"
"""Of a shard's folder: what its files are, with sizes and hashes."""


@dataclass(frozen=True)
class Portion:
    """A stretch of a file that is in a shard."""

    file: int
    """Which of the source's files."""
    start: int
    stop: int
    line: int
    """Lines before it."""
    sha256: str


@dataclass(frozen=True)
class Shard:
    """What of a source is tokenized together."""

    source: int
    """Which of the sources."""
    pieces: tuple[Portion, ...]
    """Empty where the source isn't files."""

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        return {"source": self.source, "pieces": [list(asdict(piece).values()) for piece in self.pieces]}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Shard:
        """From what `plain` gave."""
        return cls(int(plain["source"]), tuple(Portion(*piece) for piece in plain["pieces"]))


def name_of(number: int) -> str:
    """`shard-00012`"""
    return f"shard-{number:05d}"


# ---- where a source is cut ----


def shards_of(reader: Reader, number: int, size: int = SIZE) -> list[Shard]:
    """The shards of a source, each of about `size` bytes of text: whole files, and stretches of large ones.

    They are cut between documents, so that together they have the documents of the source, in their order. All files
    are read once, for their hashes. `number` is which source it is.
    """
    if not reader.files or reader.source.target is not None:
        whole = [(file, 0, path.stat().st_size) for file, path in enumerate(reader.files)]
        return [Shard(number, tuple(_hashed(reader.files, whole)))]
    stretches = [(file, start, stop) for file, path in enumerate(reader.files)
                 for start, stop in _stretches(path, reader, size)]
    out, held, weight = list[Shard](), list[Portion](), 0
    for piece in _hashed(reader.files, stretches):
        path = reader.files[piece.file]
        here = (piece.stop - piece.start) * (1 if is_text(path, reader) else UNFOLDS)
        if held and (weight + here > size + size // 4 or held[-1].file == piece.file):
            out.append(Shard(number, tuple(held)))
            held, weight = [], 0
        held.append(piece)
        weight += here
    return [*out, Shard(number, tuple(held))]


def _stretches(path: Path, reader: Reader, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) in bytes of the parts of a file: each but the last of `size` bytes, up to a document's end."""
    end, start = path.stat().st_size, 0
    if end > size + size // 4 and is_text(path, reader) and isinstance(ends := ends_of(path, reader), MarkedEnds) and (
            ends.kind is None):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            while end - start > size + size // 4:
                found = ends.next(text, start + size)
                if found is None or found == end:
                    break
                yield start, found
                start = found
    yield start, end


# ---- what is in a stretch ----


def _hashed(files: Sequence[Path], stretches: Sequence[tuple[int, int, int]]) -> Iterator[Portion]:
    """Stretches with their hashes, several at a time."""
    with ThreadPoolExecutor(cores()) as threads:
        found = list(threads.map(lambda one: hash_of(files[one[0]], one[1], one[2]), stretches))
    before = 0
    for (file, start, stop), (digest, lines) in zip(stretches, found, strict=True):
        before = before if start else 0
        yield Portion(file, start, stop, before, digest)
        before += lines


def hash_of(path: Path, start: int, stop: int) -> tuple[str, int]:
    """(SHA-256 in hex, number of line ends) of a stretch of a file."""
    digest, lines = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            file.seek(start)
            left = stop - start
            while left and (block := file.read(min(BLOCK, left))):
                digest.update(block)
                lines += block.count(b"\n")
                left -= len(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest(), lines


def changed_in(reader: Reader, pieces: Sequence[Portion]) -> Path | None:
    """The first file of a source whose stretches haven't the hashes that they had; None where all have.

    What was compared before isn't read again: whoever changes a file changes its inode, its size or its times (see
    `llmkit.data.files.digest`).
    """
    by_file: dict[int, list[Portion]] = {}
    for piece in pieces:
        by_file.setdefault(piece.file, []).append(piece)
    with ThreadPoolExecutor(cores()) as threads:
        same = threads.map(lambda file: _is_as_cut(reader.files[file], by_file[file]), by_file)
        return next((reader.files[file] for file, one in zip(by_file, same, strict=True) if not one), None)


def _is_as_cut(path: Path, pieces: Sequence[Portion]) -> bool:
    try:
        state = state_of(path.stat())
    except OSError as error:
        raise unreadable(path, error) from error

    def compare(folder: Path | None = None) -> None:
        if any(hash_of(path, piece.start, piece.stop)[0] != piece.sha256 for piece in pieces):
            raise changed(path)

    stretches = [(piece.start, piece.stop, piece.sha256) for piece in pieces]
    about = json.dumps([os.fsdecode(path.absolute()), state, stretches])
    try:
        if state[2] < WORTH or max(state[3:]) > time.time_ns() - TICK:  # quickly read, or too new to tell by it
            compare()
        else:
            cache.once("whole-text", hashlib.sha256(about.encode()).hexdigest(), compare)
    except Changed:
        return False
    return True


def reader_of(reader: Reader, shard: Shard) -> Reader:
    """A source of the documents of a shard alone."""
    if not shard.pieces:
        return only(reader, ())
    files = tuple(reader.files[piece.file] for piece in shard.pieces)
    parts = {path: Part(piece.start, piece.stop, piece.line) for path, piece in zip(files, shard.pieces, strict=True)
             if (piece.start, piece.stop) != (0, path.stat().st_size)}
    columns = {path: column for path, part in parts.items() if part.start and reader.form(path) != "text"
               and (column := column_of(path, reader)) is not None}
    return replace(only(reader, files), parts=parts, columns=columns)


def make(
    reader: Reader, shard: Shard, place: Path, tokenizer: PreTrainedTokenizerBase, plain: bool,
) -> dict[str, Any]:
    """Tokenize a shard into a folder of its own, which appears whole; return what it holds.

    The folder has the files that `llmkit.data.tokens.write` makes, and shard.json with their sizes and hashes. Changed
    where the text isn't what it was when it was cut.
    """
    part, told = reader_of(reader, shard), dict[str, Any]()

    def fill(folder: Path) -> None:
        about = tokens.write(part, tokenizer, folder, plain)
        for piece in shard.pieces:
            path = reader.files[piece.file]
            if hash_of(path, piece.start, piece.stop)[0] != piece.sha256:
                raise changed(path)
        files = {path.name: [path.stat().st_size, sha256_of(path)] for path in sorted(folder.iterdir())}
        documents = len(tokens.array_in(folder / "digests.npy"))
        told.update(tokens=about["tokens"], documents=documents, text=shard.size, files=files)
        (folder / CONTENT).write_text(json.dumps(told))

    cache.appear(place, fill, f"{place.parent}: can't be written", "Choose another --out.", place.parent)
    reader.bad |= part.bad
    return told
