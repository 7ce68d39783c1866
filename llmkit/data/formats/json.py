"""JSON: an array of objects read one by one, an object a line, or SQuAD's articles."""

from pathlib import Path
from typing import ClassVar

from llmkit.data.decoding.text import decoded
from llmkit.data.files import CHUNK
from llmkit.data.formats import _squad
from llmkit.data.formats._array import array
from llmkit.data.formats.base import FileReader, Format, Rows
from llmkit.data.formats.jsonl import JsonLines


class JsonFile(Format):
    """A file called .json; its first characters that are no space tell which of the three it is."""

    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    rank: ClassVar[int] = 2
    ragged: ClassVar[bool] = True

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """The objects of the array, of the lines, or one a question of SQuAD."""
        encoding, label = reader.source.encoding, reader.label
        head = ""
        with decoded(path, encoding, label, reader.spares) as file:
            while not head and (piece := file.read(CHUNK)):
                head = piece.lstrip("\ufeff \t\r\n")
        if _squad.opens(head):
            with decoded(path, encoding, label) as file:
                text = file.read().removeprefix("\ufeff")
            return _squad.rows(text, str(path))
        if head.startswith("["):
            return array(path, reader)
        return JsonLines().rows(path, reader, "; .json is an array of objects, or one object a line")
