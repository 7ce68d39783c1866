"""Tables with commas, as RFC 4180 has them: cells in quotes may hold commas, quotes and line ends."""

import csv
from itertools import chain
from pathlib import Path
from typing import ClassVar

from llmkit.data.formats._table import Cells, TextTable, said_delimiter
from llmkit.data.formats.base import FileReader, lines
from llmkit.system.errors import DataError


class CommaTable(TextTable):
    """Cells with commas between them, or what else a spreadsheet puts there."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    rank: ClassVar[int] = 3
    usual: ClassVar[str] = ","

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """A quote that doesn't close is a DataError with the line that its row starts on."""
        return quoted(path, reader, self.delimiter(path, reader))


def quoted(path: Path, reader: FileReader, delimiter: str) -> Cells:
    """The rows of a file whose cells may stand in quotes; the line that says what stands between them is none."""
    csv.field_size_limit(2**31 - 1)  # the library stops at 128 KiB a cell
    text = (f"{line}\n" for _, line in lines(path, reader))
    first = next(text, "")
    skipped = int(said_delimiter(first.rstrip("\n")))
    parser, start = csv.reader(text if skipped else chain([first], text), delimiter=delimiter, strict=True), 1 + skipped
    try:
        for cells in parser:
            if cells:
                yield start, cells
            start = parser.line_num + skipped + 1
    except csv.Error as error:
        raise DataError(f"{path}:{start}: bad CSV: {error}.") from error
