"""A table that is called .txt, or has no extension: what stands between its cells is told from its first lines."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import ClassVar

from llmkit.data.decoding.ends import Ends
from llmkit.data.fields import FIELD_WORDS
from llmkit.data.formats._delimiter import MARKS, width_of
from llmkit.data.formats._table import LOOKED_AT, Cells, TextTable
from llmkit.data.formats.base import FileReader, Head, lines
from llmkit.data.formats.csv import quoted, quoted_ends
from llmkit.data.formats.tsv import TabTable
from llmkit.system.errors import DataError

EVEN = 0.95
"""The share of rows that must have as many cells as the first."""
LONGEST_NAME = 30
"""Characters of a column's name; a longer cell in a first row is a part of a sentence."""
MARK = "__label__"
"""What a label begins with in fastText's files."""


class NamelessTable(TextTable):
    """Rows of a text file, where a task reads it: no extension says this, so it is chosen by what the file holds."""

    usual: ClassVar[str] = "\t"

    def cells(self, path: Path, reader: FileReader) -> Cells:
        """Cut by tabs as a .tsv is, and by anything else as a .csv."""
        delimiter = self.delimiter(path, reader)
        return TabTable().cells(path, reader) if delimiter == "\t" else quoted(path, reader, delimiter)

    def ends(self, path: Path, reader: FileReader) -> Ends | None:
        """As those of a .tsv, or of a .csv."""
        delimiter = self.delimiter(path, reader)
        return TabTable().ends(path, reader) if delimiter == "\t" else quoted_ends(path, reader, delimiter)

    def head(self, path: Path, reader: FileReader) -> Head | None:
        """As that of a .tsv, or of a .csv."""
        delimiter = self.delimiter(path, reader)
        return TabTable().head(path, reader) if delimiter == "\t" else super().head(path, reader)

    def look(self, path: Path, reader: FileReader) -> str | None:
        """Also say that it is a table."""
        said = super().look(path, reader) or ""
        known = "" if path in reader.delimiters else f"{path}: tabs stand between the cells."
        return f"{known} {said}".strip().replace("between the cells.", "between its cells, so it is read as a table.")


def form_of(path: Path, reader: FileReader) -> str:
    """What a text file is for a task: table, fasttext, or text.

    A table has tabs in all lines, as many in each; or what else stands between cells, below a header with a name that
    is known.
    """
    try:
        some = [line for _, line in islice(lines(path, reader), LOOKED_AT)]
    except DataError:
        return "text"  # it is told when the file is read
    filled = [line for line in some if line.strip()]
    if len(filled) > 1 and sum(line.startswith(MARK) for line in filled) >= EVEN * len(filled):
        return "fasttext"
    for mark in MARKS:
        width, even = width_of(some, mark)
        first = [cell.strip().strip('"') for cell in filled[0].split(mark)] if filled else []
        named = any(cell.casefold() in FIELD_WORDS for cell in first) and max(map(len, first)) <= LONGEST_NAME
        if len(filled) > 1 and width > 1 and even >= EVEN and (mark == "\t" or named):
            return "table"
    return "text"
