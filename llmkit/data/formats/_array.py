"""A JSON array of objects: they are decoded one by one from a window over the file, so that it may be long."""

import json
from pathlib import Path
from typing import Any

from llmkit.data.decoding.broken_json import JsonWindow, behind
from llmkit.data.decoding.text import decoded
from llmkit.data.files import CHUNK, LONGEST, Place
from llmkit.data.formats._objects import checked, no_key_twice
from llmkit.data.formats.base import FileReader, Rows
from llmkit.system.errors import DataError


def array(path: Path, reader: FileReader, before: int = 0) -> Rows:
    """The objects of a top-level array, decoded one by one from a window over the file.

    before   characters before the array, where it is a list in one object; what follows the list is passed over

    Where bad rows are left out, it is gone on behind one that can't be decoded, if that place is found.
    """
    decoder = json.JSONDecoder(object_pairs_hook=no_key_twice)
    awaited, column, number = "[", None, 1
    keys: set[str] = set()
    with decoded(path, reader.source.encoding, reader.label, reader.spares) as file:
        window = JsonWindow(file)
        if before:
            window.refill()
            window.move(before)
        while True:
            window.pass_spaces()
            if window.at == len(window.text):
                if not window.refill() and awaited == "end":
                    return
                if window.at == len(window.text):
                    raise DataError(f"{path}:{window.line}: bad JSON: the array breaks off, `]` is missing.")
                continue
            place, char = Place(str(path), window.line), window.text[window.at]
            if awaited == "end" and before:
                return
            if awaited == "end":
                raise DataError(f"{place}: bad JSON: {char!r} after the end of the array.")
            if awaited == "[" or (awaited in ("first", ",") and char == "]"):
                awaited = "end" if char == "]" else "first"
                window.at += 1
            elif awaited == "," and char == ",":
                awaited = "object"
                window.at += 1
            elif awaited == "," and not reader.spares:
                raise DataError(f"{place}: bad JSON: {char!r} where `,` or `]` is expected.")
            elif awaited == "," and char == "{":
                _say(reader, f"{place}: a comma is missing between two rows; both are read.")
                awaited = "object"
            elif awaited == "object" and char == "]" and reader.spares:
                _say(reader, f"{place}: a comma stands behind the last row.")
                awaited = "first"
            elif char != "{" and not reader.spares:
                raise DataError(f"{place}: a row must be an object {{…}}, not "
                                f"{window.text[window.at : window.at + 30]!r}.")
            else:
                column = window.column() if char == "{" else column
                try:
                    if awaited == ",":
                        raise DataError(f"{place}: bad JSON: {char!r} where `,` or `]` is expected.")
                    row, end = _decoded(decoder, window, place)
                except DataError as error:
                    if reader.spares:  # another of this line may have the same
                        error = DataError(f"{error} It is element {number:,} of the array.")
                    awaited = _pass_by(window, column, keys, error, reader)
                    number += 1
                    continue
                yield from checked(row, window.text[window.at : end], place, reader)
                keys |= row.keys() if isinstance(row, dict) and len(keys) < MOST_KEYS else set()
                window.move(end)
                number, awaited = number + 1, ","


MOST_KEYS = 1000
"""Keys of rows that are remembered."""


def _pass_by(window: JsonWindow, column: int | None, keys: set[str], error: DataError, reader: FileReader) -> str:
    """Leave out an element that can't be decoded; what is awaited behind it. The error where bad rows aren't."""
    if not reader.spares:
        raise error
    try:
        found = behind(window, column, keys)
    except ValueError as why:
        raise DataError(f"{error} What follows it can't be read either: {why}.") from error
    reader.spare(error)
    if found is None:  # it was the last
        window.move(len(window.text))
        return "end"
    window.move(found)
    return "," if window.text[found] == "]" else "object"


def _decoded(decoder: json.JSONDecoder, window: JsonWindow, place: Place) -> tuple[Any, int]:
    """The value where the window is, reading on until it is whole, and where it ends."""
    while True:
        text, at = window.text, window.at
        try:
            row, end = decoder.raw_decode(text, at)
            if end < len(text) or isinstance(row, dict | list | str) or not window.more(CHUNK):
                return row, end  # a number may go on
        except json.JSONDecodeError as error:
            # an object that is merely cut off fails at the window's end, or in a string that doesn't close
            cut = error.pos > len(text) - 16 or error.msg.startswith("Unterminated string")
            if cut and len(text) - at > LONGEST:
                raise DataError(f"{place}: an object of more than {LONGEST:,} characters.") from error
            if not (cut and window.more(max(CHUNK, len(text) - at))):
                line = (place.line or 1) + text.count("\n", at, error.pos)
                raise DataError(f"{place.file}:{line}: bad JSON: {error.msg}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: bad JSON: {error}.") from error


def _say(reader: FileReader, note: str) -> None:
    if note not in reader.notes:
        reader.notes.append(note)
