"""Rows come from a file or a pipe and go to a file or stdout: one JSON object a line, or as a table."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from llmkit.data import tabled
from llmkit.system.errors import DataError, PlaceError
from llmkit.system.streams import as_json


@contextmanager
def kept(data: str) -> Iterator[str]:
    """The path of a file; what comes from stdin (`-`) is put into one, with the extension of what it looks like."""
    if data != "-":
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="llmkit-") as folder:
        whole = Path(folder) / "stdin"
        try:
            with whole.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            with whole.open("rb") as file:
                first = file.read(1)
        except OSError as error:
            raise PlaceError(f"stdin can't be kept in {folder}: {error}") from error
        named = whole.with_suffix(".jsonl" if first == b"{" else ".txt")
        whole.rename(named)
        try:
            yield str(named)
        except DataError as error:  # the file is ours; the line is theirs
            raise DataError(str(error).replace(str(named), "stdin")) from error


def write(rows: Iterator[Mapping[str, Any] | None], output: str) -> int:
    """Write each row as soon as it is there, to a file or, for `-`, stdout; return how many. A .csv or .tsv is a table.

    None is null, in a table an empty row.

    The file is opened once there is a first row: a request that is wrong leaves it as it was. PlaceError where it can't
    be written, which is asked before any row is.
    """
    if output == "-":
        return _lines(rows, sys.stdout)
    target = Path(output).expanduser()
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise PlaceError(f"--output {output}: {'is a folder' if target.is_dir() else 'its folder does not exist'}.")
    first = list(islice(rows, 1))
    try:
        with target.open("w", encoding="utf-8", newline="" if tabled.is_table(output) else None) as file:
            if tabled.is_table(output):
                return tabled.write(chain(first, rows), file, target.suffix.lower())
            return _lines(chain(first, rows), file)
    except OSError as error:
        raise PlaceError(f"--output {output}: {error.strerror}.") from error


def _lines(rows: Iterator[Mapping[str, Any] | None], to: TextIO) -> int:
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        to.write(as_json(row, to) + "\n")
        to.flush()
    return count
