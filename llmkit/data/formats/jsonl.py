"""JSON Lines: an object a line."""

import json
from pathlib import Path
from typing import ClassVar

from llmkit.data.files import Place
from llmkit.data.formats import _document
from llmkit.data.formats._array import array
from llmkit.data.formats._objects import checked, no_key_twice
from llmkit.data.formats.base import FileReader, Format, Rows, lines
from llmkit.system.errors import DataError


class JsonLines(Format):
    """One row a line; blank lines are passed over. An array, or one object that holds all rows, is read as well."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")
    rank: ClassVar[int] = 1
    ragged: ClassVar[bool] = True

    def rows(self, path: Path, reader: FileReader, hint: str = "") -> Rows:
        """The object of each line; `hint` is added where a line is no JSON. A part of a file always is such lines."""
        if path in reader.parts:
            return _by_line(path, reader, hint)
        if _document.head(path, reader).removeprefix("[").lstrip(" \t\r\n")[:1] == "{":
            if _document.head(path, reader).startswith("["):
                return array(path, reader)
            document = _document.opened(path, reader)
            if document is not None:
                return document.rows(reader)
            if before := _document.broken(path, reader):
                return array(path, reader, before)
        return _by_line(path, reader, hint)

    def look(self, path: Path, reader: FileReader) -> str | None:
        """How one object holds all rows, where it does."""
        return _document.said(path, reader)


def _by_line(path: Path, reader: FileReader, hint: str) -> Rows:
    for number, line in lines(path, reader):
        if line and not line.isspace():
            place = Place(str(path), number)
            try:
                row = json.loads(line, object_pairs_hook=no_key_twice)
            except json.JSONDecodeError as error:
                reader.spare(DataError(f"{place}: bad JSON: {error.msg} at column {error.colno}{hint}."), error)
                continue
            except (ValueError, RecursionError) as error:
                reader.spare(DataError(f"{place}: bad JSON: {error}."), error)
                continue
            yield from checked(row, line, place, reader)
