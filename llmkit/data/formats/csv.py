"""Tables with commas, as RFC 4180 has them: cells in quotes may hold commas, quotes and line ends."""

import csv
from pathlib import Path
from typing import ClassVar

from llmkit.data.formats._table import Cells, TextTable
from llmkit.data.formats.base import FileReader, lines
from llmkit.system.errors import DataError


class CommaTable(TextTable):
    """Cells with commas between them."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    rank: ClassVar[int] = 3

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """A quote that doesn't close is a DataError with the line that its row starts on."""
        csv.field_size_limit(2**31 - 1)  # the library stops at 128 KiB a cell
        parser, start = csv.reader((f"{line}\n" for _, line in lines(path, reader)), strict=True), 1
        try:
            for cells in parser:
                if cells:
                    yield start, cells
                start = parser.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{start}: bad CSV: {error}.") from error
