"""Tables with commas, as RFC 4180 has them: cells in quotes may hold commas, quotes and line ends."""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from llmkit.data.decoding.ends import Ends
from llmkit.data.decoding.units import is_plain, within
from llmkit.data.files import LONGEST
from llmkit.data.formats._table import Cells, TextTable, said_delimiter
from llmkit.data.formats.base import FileReader, lines
from llmkit.data.formats.shared.row_ends import QuotedRowEnds
from llmkit.system.errors import DataError


class CommaTable(TextTable):
    """Cells with commas between them, or what else a spreadsheet puts there."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    rank: ClassVar[int] = 3
    usual: ClassVar[str] = ","

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """The rows, cut by what stands between cells in this file."""
        return quoted(path, reader, self.delimiter(path, reader))

    def ends(self, path: Path, reader: FileReader) -> Ends | None:
        """Line ends that are in no quotes."""
        return quoted_ends(path, reader, self.delimiter(path, reader))


def quoted_ends(path: Path, reader: FileReader, delimiter: str) -> Ends | None:
    """What finds the ends of rows whose cells may stand in quotes."""
    encoding = within(path, reader.source.encoding)
    return QuotedRowEnds(encoding, reader.spares, delimiter) if is_plain(encoding) else None


def quoted(path: Path, reader: FileReader, delimiter: str) -> Cells:
    """The rows of a file whose cells may stand in quotes; the line that says what stands between them is none.

    A quote that doesn't close is a DataError with the line that its row starts on. Where bad rows are left out, such a
    row is its first line, and the next one begins below it.
    """
    csv.field_size_limit(LONGEST)  # the library stops at 128 KiB a cell
    numbered = (one for one in lines(path, reader) if one[0] > 1 or not said_delimiter(one[1]))
    source = _Lines(numbered, reader.spares)
    parser = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.begin_row()
        try:
            cells = next(parser, None)
        except csv.Error as error:
            reader.spare(DataError(f"{path}:{source.first}: bad CSV: {error}."), error)
            source.go_back()
            continue
        if cells is None:
            return
        if source.half:
            reader.spare(DataError(f"{path}:{source.first}: bad CSV: the rest of a row that is bad."))
        elif cells:
            yield source.first, cells


class _Lines:
    """The lines of a file, from which the second one of a row can be gone back to."""

    def __init__(self, numbered: Iterator[tuple[int, str]], keeps: bool) -> None:
        self.numbered, self.keeps = numbered, keeps
        self.row = list[tuple[int, str]]()
        self.again = deque[tuple[int, str]]()
        self.first, self.fresh, self.doubtful, self.ended = 1, True, 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        one = self.again.popleft() if self.again else next(self.numbered, None)
        if one is None:
            self.ended = True
            raise StopIteration
        number, line = one
        if self.fresh:
            self.first, self.fresh = number, False
        if self.keeps:
            self.row.append(one)
        return f"{line}\n"

    def begin_row(self) -> None:
        """The next line is the first of a row."""
        self.row.clear()
        self.fresh, self.ended = True, False

    def go_back(self) -> None:
        """Give the lines of the row again, but for the first; of a row that was closed, they may be its rest."""
        self.again.extendleft(reversed(self.row[1:]))
        self.doubtful = self.doubtful if self.ended else max(self.doubtful, self.row[-1][0])

    @property
    def half(self) -> bool:
        """Whether the row has an odd number of quotes and stands in what was read as a bad one before."""
        return self.first <= self.doubtful and sum(line.count('"') for _, line in self.row) % 2 == 1
