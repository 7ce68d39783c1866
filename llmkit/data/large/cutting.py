"""Where the files of a source are cut: behind the end of a document, so that each stretch is read by itself."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit.data.decoding.oddities import SEPARATOR
from llmkit.data.decoding.packing import unpacked
from llmkit.data.decoding.text import told_as_data
from llmkit.data.files import Part, is_packed
from llmkit.data.large.coding import Texts, batched
from llmkit.data.swapping.pairs import with_swapped

if TYPE_CHECKING:
    from llmkit.data.sources import Reader

SIZE = 2**20
"""Bytes of text that a process reads and tokenizes at once, about."""
WHOLE = 4
"""A file that can't be cut is read by one process where it isn't larger than so many stretches; else it is read by the
first process, which gives the texts to the others."""
UNFOLDS = 4
"""What packed text, or a table that is compressed inside, becomes: so many times its bytes."""
LOOK = 2**22
"""Bytes in which the second line of a file must begin."""
ENDS = {
    "line": re.compile(rb"\n"),
    "paragraph": re.compile(rb"\n[ \t\r]*\n"),
    "endoftext": re.compile(rb"\n[ \t]*" + re.escape(SEPARATOR.encode()) + rb"[ \t\r]*\n"),
}
"""Behind what a text may be cut, by what a document of it is."""
PLAIN = ("utf", "ascii", "iso8859", "latin", "cp125", "gb", "big5", "shift_jis", "euc", "koi8")
"""How encodings begin in which the byte of a line's end is nothing else; not utf-16 and utf-32."""
WIDE = ("utf-16", "utf-32", "utf-7")
FORMS = ("text", "jsonl", "json")
"""Formats whose files are lines of text."""


@dataclass(frozen=True)
class Excerpt:
    """A file, or a part of one, that is read by itself."""

    path: Path
    part: Part | None
    """None: all of it."""
    column: str | int | None = None
    """Where its text is, as the first row of the file says; None where the first row that is read says it."""


@dataclass(frozen=True)
class Noted:
    """What was seen of a source while some of it was read, as its reader has it."""

    used: dict[str, str | int]
    unused: dict[str | int, None]
    bad: dict[str, None]

    @classmethod
    def of(cls, reader: Reader) -> Noted:
        """What a reader has noted since it was asked last."""
        found = cls(dict(reader.used), dict(reader.unused), dict(reader.bad))
        for each in (reader.used, reader.unused, reader.bad):
            each.clear()
        return found

    def tell(self, reader: Reader) -> None:
        """Note it in a reader, behind what it has."""
        reader.used |= self.used
        reader.unused |= self.unused
        reader.bad |= self.bad


@dataclass(frozen=True)
class TextStretch:
    """What of a source is tokenized at once, by whichever process: files and parts of files, or texts."""

    pieces: tuple[Excerpt, ...] = ()
    texts: Texts | None = None
    """Of a source that only one process can read."""
    noted: Noted | None = None
    """What was seen while the texts were read."""


def stretches(reader: Reader) -> Iterator[TextStretch]:
    """A source as stretches of about SIZE bytes, which have its documents in their order.

    They are the same ones for any number of processes. What can't be cut, and isn't small, is read here.
    """
    if not reader.files or reader.source.target is not None:
        yield from _read(only(reader, reader.files))
        return
    held, weight = list[Excerpt](), 0
    for path in reader.files:
        pieces = _pieces(path, reader)
        if pieces is None:
            if held:
                yield TextStretch(tuple(held))
                held, weight = [], 0
            yield from _read(only(reader, (path,)))
            continue
        for piece, size in pieces:
            held.append(piece)
            weight += size
            if weight >= SIZE:
                yield TextStretch(tuple(held))
                held, weight = [], 0
    if held:
        yield TextStretch(tuple(held))


def only(reader: Reader, files: tuple[Path, ...]) -> Reader:
    """A source of some of the files alone, which has noted nothing yet, and doesn't ask whether they have changed."""
    return replace(reader, files=files, asked=reader.document or reader.asked, shard=True, notes=[], bad={}, used={},
                   unused={}, known={})


def read_by(reader: Reader, pieces: Sequence[Excerpt]) -> Reader:
    """A source of some pieces alone."""
    return replace(only(reader, tuple(piece.path for piece in pieces)),
                   parts={piece.path: piece.part for piece in pieces if piece.part is not None},
                   columns={piece.path: piece.column for piece in pieces if piece.column is not None})


def pairs_of(reader: Reader) -> Iterator[tuple[str, str]]:
    """(text, original) of each document, and where words are swapped, of each that it becomes then."""
    return ((text, original) for original, _ in reader.documents() for text in with_swapped([original], reader.swaps))


def _read(reader: Reader) -> Iterator[TextStretch]:
    for texts in batched(pairs_of(reader), reader.swaps is not None):
        yield TextStretch(texts=texts, noted=Noted.of(reader))
    if (rest := Noted.of(reader)).bad:
        yield TextStretch(noted=rest)


def _pieces(path: Path, reader: Reader) -> Iterator[tuple[Excerpt, int]] | None:
    """The pieces of a file, each with its bytes of text; None where it must be read by one process, and is large."""
    part, column = reader.parts.get(path), reader.columns.get(path)
    with told_as_data(path):
        size = path.stat().st_size if part is None else part.stop - part.start
    size *= 1 if is_text(path, reader) else UNFOLDS
    if size <= SIZE:
        return iter([(Excerpt(path, part, column), size)])
    if (pattern := ends_of(path, reader)) is not None:
        return _cut(path, reader, pattern)
    return iter([(Excerpt(path, part, column), size)]) if size <= WHOLE * SIZE else None


def _cut(path: Path, reader: Reader, pattern: re.Pattern[bytes]) -> Iterator[tuple[Excerpt, int]]:
    known = reader.columns.get(path)
    column = known
    for made in _parts(path, reader.parts.get(path), pattern):
        if made.start and column is None and reader.form(path) != "text":
            column = column_of(path, reader)
        yield Excerpt(path, made, column if made.start else known), made.stop - made.start


def _parts(path: Path, whole: Part | None, pattern: re.Pattern[bytes]) -> Iterator[Part]:
    """A file, or a part of it, in parts; those of a packed one are held in memory."""
    start, line = (0, 0) if whole is None else (whole.start, whole.line)
    rest, looked = bytearray(), 0
    with told_as_data(path), unpacked(path, whole) as raw:
        while block := raw.read(SIZE):
            rest += block
            while len(rest) > SIZE and (found := pattern.search(rest, max(SIZE, looked))) is not None:
                end, found = found.end(), None  # a match holds on to what it was found in
                made, looked = bytes(rest[:end]), 0
                del rest[:end]
                yield Part(start, start + end, line, made if is_packed(path) else None)
                start, line = start + end, line + made.count(b"\n")
            looked = max(0, rest.rfind(b"\n"))  # an end of a document that isn't whole yet begins there
    if rest:
        yield Part(start, start + len(rest), line, bytes(rest) if is_packed(path) else None)


# ---- what can be cut ----


def is_text(path: Path, reader: Reader) -> bool:
    """Whether a file's bytes are those of its text."""
    return not is_packed(path) and reader.form(path) in FORMS


def ends_of(path: Path, reader: Reader) -> re.Pattern[bytes] | None:
    """Behind what a file, or what is packed in it, may be cut; None where it can't be."""
    encoding, form = codecs.lookup(reader.source.encoding).name, reader.form(path)
    if form not in FORMS or not encoding.startswith(PLAIN) or encoding.startswith(WIDE):
        return None
    if form != "text":
        return ENDS["line"] if _by_line(path) else None
    return ENDS.get(str(reader.document)) if _has_lines(path) else None


def _has_lines(path: Path) -> bool:
    r"""Whether there is a line's end near the start: where there is none, \r may end lines."""
    with told_as_data(path), unpacked(path) as raw:
        return b"\n" in raw.read(LOOK)


def _by_line(path: Path) -> bool:
    """Whether each of the first two lines of JSON is an object: then every line is."""
    with told_as_data(path), unpacked(path) as raw:
        first = [line for line in (raw.readline(LOOK) for _ in range(2)) if line.strip()]
    try:
        return len(first) == 2 and all(isinstance(json.loads(line), dict) for line in first)
    except ValueError:
        return False


def column_of(path: Path, reader: Reader) -> str | int | None:
    """Where the text of a file is: its first row with a text says so, not that of a part; None where it has none."""
    first = replace(only(reader, (path,)), parts={})
    next(first.documents(), None)
    return first.used.get("text")
