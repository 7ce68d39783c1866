"""Tables with tabs: a row is a line, and a quote is a character like others within a cell."""

from pathlib import Path
from typing import ClassVar

from llmkit.data.formats._table import Cells, TextTable
from llmkit.data.formats.base import FileReader, lines


class TabTable(TextTable):
    """Cells with tabs between them."""

    suffixes: ClassVar[tuple[str, ...]] = (".tsv",)
    rank: ClassVar[int] = 4

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """Quotes around a whole cell are taken off."""
        for number, line in lines(path, reader):
            if line:
                yield number, [_unquoted(cell) for cell in line.split("\t")]


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
