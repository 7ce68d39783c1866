"""Tables of text cells: a header that names the columns, or numbers where there is none."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar, TypeAlias

from llmkit.data.fields import FIELD_WORDS
from llmkit.data.files import Place
from llmkit.data.formats.base import FileReader, Format, Rows
from llmkit.system.errors import DataError

Cells: TypeAlias = Iterator[tuple[int, list[str]]]
"""The cells of each row, with the line that it starts on."""


class TextTable(Format):
    """What csv and tsv have in common; each says how a file is cut into cells."""

    numbered: ClassVar[bool] = True

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """The rows of the file as cells; blank lines are passed over."""
        raise NotImplementedError

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """Each row below the header by its names; every row where the columns are numbered, unnamed ones as "0" …."""
        columns = reader.headerless.get(path) or {
            name: index for name, index in reader.source.fields.items() if isinstance(index, int)}
        places: list[tuple[str, int]] = []
        for number, cells in self._of_one_width(path, reader):
            if not places and columns:
                too_far = [index for index in columns.values() if not 0 <= index < len(cells)]
                if too_far:
                    raise DataError(f"{path}:{number}: there is no column {too_far[0]}; the table has {len(cells)}, "
                                    "counted from 0.")
                others = [(str(i), i) for i in range(len(cells)) if i not in columns.values()]
                places = [*columns.items(), *others]
            elif not places:
                header = [cell.strip() for cell in cells]
                twice = [name for name in header if header.count(name) > 1]
                if twice:
                    raise DataError(f"{path}:{number}: the header has {twice[0]!r} twice.")
                places = [(name, i) for i, name in enumerate(header)]
                continue
            yield {name: cells[i] for name, i in places}, Place(str(path), number)

    def look(self, path: Path, reader: FileReader) -> str | None:
        """Two columns, no known name above them, and the first short cell occurs again below: a row, no header."""
        rows = [cells for _, cells in islice(self._of_one_width(path, reader), 1000)]
        if len(rows) < 2 or len(rows[0]) != 2 or any(cell.strip().casefold() in FIELD_WORDS for cell in rows[0]):
            return None
        sizes = [sum(len(cells[i]) for cells in rows) for i in (0, 1)]
        short = 0 if sizes[0] < sizes[1] else 1
        if rows[0][short] not in [cells[short] for cells in rows[1:]]:
            return None
        reader.headerless[path] = {"text": 1 - short, "label": short}
        return (f"{path} has no header: its first row is data, column {1 - short} is read as text and column {short} "
                "as label.")

    def _of_one_width(self, path: Path, reader: FileReader) -> Cells:
        """The rows as cells; all have as many as the first."""
        width, first = 0, 0
        for number, cells in self.cells(path, reader):
            if not first:
                width, first = len(cells), number
            if len(cells) != width:
                reader.spare(DataError(f"{path}:{number}: {len(cells)} cells, where line {first} has {width}."))
                continue
            yield number, cells
