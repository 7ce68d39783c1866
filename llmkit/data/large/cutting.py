"""Where the files of a source are cut: behind the end of a document, so that each stretch is read by itself."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit.data.decoding.ends import Ends, MarkedEnds
from llmkit.data.decoding.packing import unpacked
from llmkit.data.decoding.text import told_as_data
from llmkit.data.decoding.units import is_plain, within
from llmkit.data.files import Part, is_packed
from llmkit.data.formats import formats
from llmkit.data.formats.base import Head
from llmkit.data.large.coding import Texts, batched
from llmkit.data.swapping.pairs import with_swapped

if TYPE_CHECKING:
    from llmkit.data.sources import Reader

log = logging.getLogger("llmkit")

SIZE = 2**20
"""Bytes of text that a process reads and tokenizes at once, about."""
WHOLE = 4
"""A file that can't be cut is read by one process where it isn't larger than so many stretches; else it is read by the
first process, which gives the texts to the others."""
UNFOLDS = 4
"""What packed text, or a table that is compressed inside, becomes: so many times its bytes."""
LOOK = 2**22
"""Bytes in which the second line of a file must begin."""
END = 2**62
"""Where a part stops that is the rest of what is packed: nobody knows its bytes."""
FORMS = ("text", "jsonl", "json")
"""Formats whose files are lines of text."""
KINDS = ("line", "paragraph", "endoftext")
"""What a document of a text may be, where its end is marked."""


@dataclass(frozen=True)
class Excerpt:
    """A file, or a part of one, that is read by itself."""

    path: Path
    part: Part | None
    """None: all of it."""
    column: str | int | None = None
    """Where its text is, as the first row of the file says; None where the first row that is read says it."""
    head: Head | None = None
    """The first row of the table, where it stands before this part."""
    whole: str | None = None
    """Why it can't be cut, which is said where it is large: then the first process reads it."""


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
    for piece, size in (found for path in reader.files for found in _pieces(path, reader)):
        alone = piece.whole is not None and size > WHOLE * SIZE
        if not alone:
            held.append(piece)
            weight += size
        if held and (alone or weight >= SIZE):
            yield TextStretch(tuple(held))
            held, weight = [], 0
        if alone:
            if reader.processes > 1:
                log.info("%s: one process reads it, and gives its text to the others: %s", piece.path, piece.whole)
            yield from _read(read_by(reader, (piece,)))
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
                   columns={piece.path: piece.column for piece in pieces if piece.column is not None},
                   heads={piece.path: piece.head for piece in pieces if piece.head is not None})


def pairs_of(reader: Reader) -> Iterator[tuple[str, str]]:
    """(text, original) of each document, and where words are swapped, of each that it becomes then."""
    return ((text, original) for original, _ in reader.documents() for text in with_swapped([original], reader.swaps))


def _read(reader: Reader) -> Iterator[TextStretch]:
    for texts in batched(pairs_of(reader), reader.swaps is not None):
        yield TextStretch(texts=texts, noted=Noted.of(reader))
    if (rest := Noted.of(reader)).bad:
        yield TextStretch(noted=rest)


def _pieces(path: Path, reader: Reader) -> Iterator[tuple[Excerpt, int]]:
    """The pieces of a file, each with its bytes of text; all but its last have SIZE or more."""
    part, column = reader.parts.get(path), reader.columns.get(path)
    with told_as_data(path):
        size = path.stat().st_size if part is None else part.stop - part.start
    form = formats()[reader.form(path)]
    size *= UNFOLDS if is_packed(path) or form.compressed else 1
    if size > SIZE and (ends := ends_of(path, reader)) is not None:
        return _cut(path, reader, ends)
    if size > SIZE and part is None and (parts := form.parts(path, SIZE)) is not None:
        return _with_columns(((Excerpt(path, made), weight) for made, weight in parts), reader)
    return iter([(Excerpt(path, part, column, whole="it can't be cut between its documents"), size)])


def _cut(path: Path, reader: Reader, ends: Ends) -> Iterator[tuple[Excerpt, int]]:
    head = None
    if reader.form(path) not in FORMS:
        head = formats()[reader.form(path)].head(path, replace(only(reader, (path,)), parts={}))
        if head is None:
            return iter([(Excerpt(path, None, whole="its first line is no row"), WHOLE * SIZE + 1)])
    return _with_columns(_with_head(path, _parts(path, reader.parts.get(path), ends), ends, head), reader)


def _with_head(
    path: Path, parts: Iterator[Part], ends: Ends, head: Head | None,
) -> Iterator[tuple[Excerpt, int]]:
    for part in parts:
        above = head if head is not None and head[0] <= part.line else None
        lost = f"from line {part.line + 1:,} on {ends.lost}" if ends.lost else None
        yield Excerpt(path, part, head=above, whole=lost), part.stop - part.start


def _with_columns(pieces: Iterator[tuple[Excerpt, int]], reader: Reader) -> Iterator[tuple[Excerpt, int]]:
    """The same with what the first row of the file says of columns, for those that don't begin with it."""
    column: str | int | None = None
    for piece, size in pieces:
        known = reader.columns.get(piece.path)
        if piece.part is not None and piece.part.start and known is None and reader.form(piece.path) != "text":
            known = column = column_of(piece.path, reader) if column is None else column
        yield replace(piece, column=known), size


def _parts(path: Path, whole: Part | None, ends: Ends) -> Iterator[Part]:
    """A file, or a part of it, in parts; those of a packed one are held in memory.

    Where no more ends are found, the last part is the rest.
    """
    start, line = (0, 0) if whole is None else (whole.start, whole.line)
    rest = bytearray()
    with told_as_data(path), unpacked(path, whole) as raw:
        while not ends.lost and (block := raw.read(SIZE)):
            rest += block
            while len(rest) > SIZE and (end := ends.after(rest, SIZE)) is not None:
                made = bytes(rest[:end])
                del rest[:end]
                yield Part(start, start + end, line, made if is_packed(path) else None)
                start, line = start + end, line + ends.lines(made)
    if ends.lost:
        yield Part(start, whole.stop if whole is not None else END if is_packed(path) else path.stat().st_size, line)
    elif rest:
        yield Part(start, start + len(rest), line, bytes(rest) if is_packed(path) else None)


# ---- what can be cut ----


def is_text(path: Path, reader: Reader) -> bool:
    """Whether a file's bytes are those of its text."""
    return not is_packed(path) and reader.form(path) in FORMS


def ends_of(path: Path, reader: Reader) -> Ends | None:
    """What finds where the documents of a file, or of what is packed in it, end; None where nothing can."""
    form = reader.form(path)
    if form not in FORMS:
        return formats()[form].ends(path, reader)
    if not is_plain(reader.source.encoding):
        return None
    marked = str(reader.document) if form == "text" else "line"
    ends = MarkedEnds(within(path, reader.source.encoding), marked) if marked in KINDS else None
    return ends if ends is not None and (_has_lines(path, ends) if form == "text" else _by_line(path, ends)) else None


def _has_lines(path: Path, ends: Ends) -> bool:
    r"""Whether there is a line's end near the start: where there is none, \r may end lines."""
    with told_as_data(path), unpacked(path) as raw:
        return ends.lines(raw.read(LOOK)) > 0


def _by_line(path: Path, ends: Ends) -> bool:
    """Whether each of the first two lines of JSON is an object: then every line is."""
    with (told_as_data(path), unpacked(path) as raw,
          io.TextIOWrapper(raw, ends.encoding, "replace", newline="\n") as text):
        first = [line for line in (text.readline(LOOK).removeprefix("\ufeff") for _ in range(2)) if line.strip()]
    try:
        return len(first) == 2 and all(isinstance(json.loads(line), dict) for line in first)
    except ValueError:
        return False


def column_of(path: Path, reader: Reader) -> str | int | None:
    """Where the text of a file is: its first row with a text says so, not that of a part; None where it has none."""
    first = replace(only(reader, (path,)), parts={})
    next(first.documents(), None)
    return first.used.get("text")
