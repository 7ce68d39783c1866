"""JSON: an array of objects, an object a line, or one of the other forms that programs give a table of rows."""

from pathlib import Path
from typing import ClassVar

from llmkit.data.formats import _document
from llmkit.data.formats._array import array
from llmkit.data.formats.base import FileReader, Format, Rows
from llmkit.data.formats.jsonl import JsonLines


class JsonFile(Format):
    """A file called .json; how it begins tells which of these it is."""

    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    rank: ClassVar[int] = 2
    ragged: ClassVar[bool] = True

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """The objects of the array, of the lines, or of the one object that holds them all."""
        if path not in reader.parts and _document.head(path, reader).startswith("["):
            return array(path, reader)
        return JsonLines().rows(path, reader, "; .json is an array of objects, or one object a line")

    def look(self, path: Path, reader: FileReader) -> str | None:
        """How one object holds all rows, where it does."""
        return _document.said(path, reader)
