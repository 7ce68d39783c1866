"""Tables with tabs: a row is a line, but for line ends in a quoted cell; else a quote is a character like others."""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

from llmkit.data.decoding.ends import Ends
from llmkit.data.decoding.units import is_plain, within
from llmkit.data.formats._table import Cells, TextTable, said_delimiter
from llmkit.data.formats.base import FileReader, Head, lines
from llmkit.data.formats.csv import quoted, quoted_ends
from llmkit.data.formats.shared.row_ends import TabRowEnds, opens

LONGEST = 1000
"""Lines that a row may lie across."""


class TabTable(TextTable):
    """Cells with tabs between them."""

    suffixes: ClassVar[tuple[str, ...]] = (".tsv",)
    rank: ClassVar[int] = 4
    usual: ClassVar[str] = "\t"

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """Quotes around a whole cell are taken off; a tab or a line end within them is one of the cell's own."""
        delimiter = self.delimiter(path, reader)
        if delimiter != "\t":
            yield from quoted(path, reader, delimiter)
            return
        csv.field_size_limit(2**31 - 1)
        width = len(reader.heads.get(path, (0, []))[1])
        source = _Ahead(lines(path, reader))
        for number, line in source:
            if not line or (number == 1 and said_delimiter(line)):
                continue
            cells = [_unquoted(cell) for cell in line.split("\t")]
            if width and len(cells) > width:
                (whole,) = csv.reader([line], delimiter="\t")
                cells = whole if len(whole) == width else cells
            elif width > 1 and opens(line):
                cells = _across(line, source, width) or cells
            width = width or len(cells)
            yield number, cells

    def ends(self, path: Path, reader: FileReader) -> Ends | None:
        """Line ends behind which no row goes on."""
        delimiter = self.delimiter(path, reader)
        if delimiter != "\t":
            return quoted_ends(path, reader, delimiter)
        encoding = within(path, reader.source.encoding)
        return TabRowEnds(encoding, reader.spares, LONGEST) if is_plain(encoding) else None

    def head(self, path: Path, reader: FileReader) -> Head | None:
        """The first row, where it is the first line that isn't blank: rows are as wide as that one."""
        filled = (one for one in lines(path, reader) if one[1] and not (one[0] == 1 and said_delimiter(one[1])))
        first, _ = next(filled, (None, ""))
        head = super().head(path, reader)
        return head if head is not None and head[0] == first else None


class _Ahead:
    """Numbered lines, some of which can be looked at before they are taken."""

    def __init__(self, numbered: Iterator[tuple[int, str]]) -> None:
        self.numbered, self.seen = numbered, deque[tuple[int, str]]()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while self.seen or self.look(1):
            yield self.seen.popleft()

    def look(self, count: int) -> bool:
        """Have so many lines ready in `seen`; False where there are fewer."""
        self.seen.extend(islice(self.numbered, max(0, count - len(self.seen))))
        return len(self.seen) >= count


def _across(line: str, source: _Ahead, width: int) -> list[str] | None:
    """The cells of a row that lies across lines, whose others are taken; None where it is one line with a quote.

    A line that is a row by itself belongs to no other, but for the one that ends a row which would be too short.
    """
    whole, text = line.count("\t") == width - 1, [line]
    while len(text) < LONGEST and source.look(len(text)):
        follows = source.seen[len(text) - 1][1]
        text.append(follows)
        row = follows.count("\t") >= width - 1
        cells = _read(text) if '"' in follows and not (whole and row) else None
        if cells is not None and len(cells) == width:
            for _ in text[1:]:
                source.seen.popleft()
            return cells
        if cells is not None or row:
            return None
    return None


def _read(text: Sequence[str]) -> list[str] | None:
    """The cells of lines that are one row; None where they are none, or not all of one."""
    try:
        rows = list(csv.reader((f"{line}\n" for line in text), delimiter="\t", strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
