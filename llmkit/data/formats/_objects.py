"""JSON objects as rows: what is refused in them, whatever file they stand in."""

import json
from collections import Counter
from typing import Any

from llmkit.data.fields import shown
from llmkit.data.files import Place
from llmkit.data.formats.base import ESCAPED, FileReader, Row, Rows, undecoded
from llmkit.system.errors import DataError


def no_key_twice(pairs: list[tuple[str, Any]]) -> Row:
    """An object of its keys and values; ValueError where a key is there twice."""
    row = dict(pairs)
    if len(row) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {next(key for key, count in counts.items() if count > 1)!r} is given twice")
    return row


def checked(row: Any, written: str, place: Place, reader: FileReader) -> Rows:
    """A row that was decoded from what is `written`; none where it is bad and bad ones are left out."""
    try:
        if reader.spares and not written.isascii() and (strange := ESCAPED.search(written)):
            raise undecoded(strange, place, reader)
        _refuse(row, written, place)
    except DataError as error:
        reader.spare(error)
        return
    yield row, place


def _refuse(row: Any, written: str, place: Place) -> None:
    """DataError for what is no object, and for half characters: an escaped surrogate without its other half."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be an object {{…}}, not {shown(row)}.")
    if "\\ud" in written or "\\uD" in written:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: bad JSON: the lone surrogate \\u{ord(error.object[error.start]):04x} "
                            "is half a character.") from error
