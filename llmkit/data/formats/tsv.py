"""Tables with tabs: a row is a line, and a quote is a character like others within a cell."""

import csv
from pathlib import Path
from typing import ClassVar

from llmkit.data.formats._table import Cells, TextTable, said_delimiter
from llmkit.data.formats.base import FileReader, lines
from llmkit.data.formats.csv import quoted


class TabTable(TextTable):
    """Cells with tabs between them."""

    suffixes: ClassVar[tuple[str, ...]] = (".tsv",)
    rank: ClassVar[int] = 4
    usual: ClassVar[str] = "\t"

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """Quotes around a whole cell are taken off; a tab within them is one of the cell's own."""
        delimiter = self.delimiter(path, reader)
        if delimiter != "\t":
            yield from quoted(path, reader, delimiter)
            return
        width = 0
        for number, line in lines(path, reader):
            if not line or (number == 1 and said_delimiter(line)):
                continue
            cells = [_unquoted(cell) for cell in line.split("\t")]
            if width and len(cells) > width:
                (whole,) = csv.reader([line], delimiter="\t")
                cells = whole if len(whole) == width else cells
            width = width or len(cells)
            yield number, cells


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
