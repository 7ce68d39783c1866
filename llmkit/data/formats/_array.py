"""A JSON array of objects: they are decoded one by one from a window over the file, so that it may be long."""

import json
import re
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

from llmkit.data.decoding.text import decoded
from llmkit.data.files import CHUNK, LONGEST, Place
from llmkit.data.formats._objects import checked, no_key_twice
from llmkit.data.formats.base import FileReader, Rows
from llmkit.system.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")


def array(path: Path, reader: FileReader) -> Rows:
    """The objects of a top-level array, decoded one by one from a window over the file."""
    decoder = json.JSONDecoder(object_pairs_hook=no_key_twice)
    text, at, line, awaited = "", 0, 1, "["
    with decoded(path, reader.source.encoding, reader.label, reader.spares) as file:
        while True:
            start = cast(re.Match[str], _SPACE.match(text, at)).end()
            line, at = line + text.count("\n", at, start), start
            if at == len(text):
                text, at = file.read(CHUNK), 0
                if not text and awaited == "end":
                    return
                if not text:
                    raise DataError(f"{path}:{line}: bad JSON: the array breaks off, `]` is missing.")
                text = text.removeprefix("\ufeff") if awaited == "[" else text
                continue
            place, char = Place(str(path), line), text[at]
            if awaited == "end":
                raise DataError(f"{place}: bad JSON: {char!r} after the end of the array.")
            if awaited == "[" or (awaited in ("first", ",") and char == "]"):
                awaited, at = "end" if char == "]" else "first", at + 1
            elif awaited == ",":
                if char != ",":
                    raise DataError(f"{place}: bad JSON: {char!r} where `,` or `]` is expected.")
                awaited, at = "object", at + 1
            elif char != "{" and not reader.spares:
                raise DataError(f"{place}: a row must be an object {{…}}, not {text[at : at + 30]!r}.")
            else:
                row, text, at, end = _decoded(decoder, file, text, at, place)
                yield from checked(row, text[at:end], place, reader)
                line, at, awaited = line + text.count("\n", at, end), end, ","


def _decoded(
    decoder: json.JSONDecoder, file: TextIOWrapper, text: str, at: int, place: Place
) -> tuple[Any, str, int, int]:
    """The value at `text[at]`, reading on until it is whole: (value, text, where it starts, where it ends)."""
    while True:
        try:
            row, end = decoder.raw_decode(text, at)
            if end < len(text) or isinstance(row, dict | list | str) or not (more := file.read(CHUNK)):
                return row, text, at, end
            text, at = text[at:] + more, 0  # a number may go on
        except json.JSONDecodeError as error:
            # an object that is merely cut off fails at the window's end, or in a string that doesn't close
            cut = error.pos > len(text) - 16 or error.msg.startswith("Unterminated string")
            if cut and len(text) - at > LONGEST:
                raise DataError(f"{place}: an object of more than {LONGEST:,} characters.") from error
            more = file.read(max(CHUNK, len(text) - at)) if cut else ""
            if not more:
                line = (place.line or 1) + text.count("\n", at, error.pos)
                raise DataError(f"{place.file}:{line}: bad JSON: {error.msg}.") from error
            text, at = text[at:] + more, 0
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: bad JSON: {error}.") from error
