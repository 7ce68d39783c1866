"""Tables of text cells: a header that names the columns, or numbers where there is none."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar, TypeAlias

from llmkit.data.fields import FIELD_WORDS, pasted
from llmkit.data.files import Place
from llmkit.data.formats._delimiter import MARKS, delimiter_of
from llmkit.data.formats.base import FileReader, Format, Head, Rows, lines
from llmkit.data.formats.shared import header as _header
from llmkit.system.errors import DataError

Cells: TypeAlias = Iterator[tuple[int, list[str]]]
"""The cells of each row, with the line that it starts on."""
LOOKED_AT = 1000
"""Rows from which it is told what a table is."""
_SAID = re.compile(r'"?sep=(.)"?\s*')
"""The line by which Excel is told what stands between cells."""


class TextTable(Format):
    """What csv and tsv have in common; each says how a file is cut into cells."""

    numbered: ClassVar[bool] = True
    usual: ClassVar[str]
    """What stands between the cells of such a file, if nothing else does."""

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """The rows of the file as cells; blank lines are passed over."""
        raise NotImplementedError

    def delimiter(self, path: Path, reader: FileReader) -> str:
        """What stands between the cells of a file, as `look` found it."""
        return reader.delimiters.get(path, self.usual)

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """Each row below the header by its names; every row where the columns are numbered, unnamed ones as "0" …."""
        columns = reader.headerless.get(path, {
            name: index for name, index in reader.source.fields.items() if isinstance(index, int)})
        numbered = bool(columns) or path in reader.headerless
        below = self._of_one_width(path, reader)
        head = reader.heads.get(path)
        first = next(below, None) if head is None else head
        if first is None:
            return
        places = _numbered(first, columns, path) if numbered else _named(first, path)
        for number, cells in chain([first], below) if numbered and head is None else below:
            yield {name: cells[i] for name, i in places}, Place(str(path), number)

    def head(self, path: Path, reader: FileReader) -> Head | None:
        """The first row of the file, by which columns are named and counted."""
        return next(self._of_one_width(path, reader), None)

    def look(self, path: Path, reader: FileReader) -> str | None:
        """What stands between cells; and whether the first row is data, where no fields are named."""
        words = FIELD_WORDS | {str(name).strip().casefold() for name in reader.source.fields.values()}
        some = [line for _, line in islice(lines(path, reader), LOOKED_AT)]
        said = _SAID.fullmatch(some[0]) if some else None
        delimiter = said[1] if said else delimiter_of(some, self.usual, words, whole=len(some) < LOOKED_AT)
        notes = []
        if delimiter != self.usual:
            reader.delimiters[path] = delimiter
            notes.append(f"{path}: {MARKS.get(delimiter, repr(delimiter))} stand between the cells.")
        rows = [] if reader.source.fields else [cells for _, cells in islice(self._of_one_width(path, reader),
                                                                            LOOKED_AT)]
        found = _header.headerless(rows, words) if rows else None
        if found is not None:
            reader.headerless[path] = found
            notes.append(f"{path} has no header: its first row is data, {_read(found, len(rows[0]))}.")
            if found and reader.at:
                notes.append(f"{pasted(reader.source, found, reader.at)} says otherwise.")
        return " ".join(notes) or None

    def _of_one_width(self, path: Path, reader: FileReader) -> Cells:
        """The rows as cells; all have as many as the first. Rows that are wholly empty are blank lines.

        Empty cells beyond the last column are no cells: programs write them for what was once there.
        """
        first, head = reader.heads.get(path, (0, []))
        width = len(head)
        for number, cells in self.cells(path, reader):
            if len(cells) > 1 and not any(cells):
                continue
            if not first:
                width, first = len(cells), number
            if len(cells) > width and not any(cells[width:]):
                cells = cells[:width]
            if len(cells) != width:
                reader.spare(DataError(f"{path}:{number}: {len(cells)} cells, where line {first} has {width}."))
                continue
            yield number, cells


def _numbered(first: Head, columns: dict[str, int], path: Path) -> Sequence[tuple[str, int]]:
    """Names of columns with their numbers, where some have a name by their number; the others are "0" …"""
    number, cells = first
    too_far = [index for index in columns.values() if not 0 <= index < len(cells)]
    if too_far:
        raise DataError(f"{path}:{number}: there is no column {too_far[0]}; the table has {len(cells)}, counted from "
                        "0.")
    others = [(str(i), i) for i in range(len(cells)) if i not in columns.values()]
    return [*columns.items(), *others]


def _named(first: Head, path: Path) -> Sequence[tuple[str, int]]:
    """Names of columns with their numbers, as a header has them."""
    number, cells = first
    header = [cell.strip() or str(i) for i, cell in enumerate(cells)]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{path}:{number}: the header has {twice[0]!r} twice.")
    return [(name, i) for i, name in enumerate(header)]


def _read(found: dict[str, int], width: int) -> str:
    """Which columns are read as what, in words."""
    if not found:
        return f"and its {width} columns are numbered from 0" if width > 1 else "and its column is number 0"
    read = " and ".join(f"column {column} is read as {name}" if i == 0 else f"column {column} as {name}"
                        for i, (name, column) in enumerate(found.items()))
    rest = [str(column) for column in range(width) if column not in found.values()]
    return read + (f"; not read: column {', '.join(rest)}" if rest else "")


def said_delimiter(line: str) -> bool:
    """Whether a line is no row, but says what stands between cells: sep=;"""
    return _SAID.fullmatch(line) is not None
