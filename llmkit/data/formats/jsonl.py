"""JSON Lines: an object a line."""

import json
from pathlib import Path
from typing import ClassVar

from llmkit.data.files import Place
from llmkit.data.formats._objects import checked, no_key_twice
from llmkit.data.formats.base import FileReader, Format, Rows, lines
from llmkit.system.errors import DataError


class JsonLines(Format):
    """One row a line; blank lines are passed over."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")
    rank: ClassVar[int] = 1
    ragged: ClassVar[bool] = True

    def rows(self, path: Path, reader: FileReader, hint: str = "") -> Rows:
        """The object of each line; `hint` is added where a line is no JSON."""
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
