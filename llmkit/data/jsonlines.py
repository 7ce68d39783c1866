"""Rows come from a file or a pipe and go to a file or stdout: one JSON object a line, or as a table."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, TextIO

from llmkit.data import tabled
from llmkit.data.files import files_of
from llmkit.system.addresses import at_home
from llmkit.system.cache import sync
from llmkit.system.errors import DataError, PlaceError, RequestError
from llmkit.system.report import log
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
                first = file.read(4).removeprefix(BOM_UTF8)[:1]
        except OSError as error:
            raise PlaceError(f"stdin can't be kept in {folder}: {error}") from error
        named = whole.with_suffix(".jsonl" if first == b"{" else ".txt")
        whole.rename(named)
        try:
            yield str(named)
        except DataError as error:  # the file is ours; the line is theirs
            raise DataError(str(error).replace(str(named), "stdin")) from error


def write(rows: Iterator[Mapping[str, Any] | None], output: str, read: Sequence[str] = ()) -> int:
    """Write each row as soon as it is there, to a file or, for `-`, stdout; return how many. A .csv or .tsv is a table,
    with what stands between the cells of the one that is read.

    None is null, in a table an empty row. `read` are the files and patterns that the rows come from: RequestError where
    the output is one of these.

    The rows stand in `OUTPUT.part` (`OUTPUT.part2` … where that is there already) until all are there, which then takes
    the place of what was there before: a request that is wrong or fails leaves that as it was. PlaceError where it
    can't be written, which is seen before any row.
    """
    if output == "-":
        return _lines(rows, sys.stdout)
    target = place(output, read)
    first = list(islice(rows, 1))
    try:
        with _beside(target) as file:
            if tabled.is_table(output):
                return tabled.write(chain(first, rows), file, *tabled.look(output, read))
            return _lines(chain(first, rows), file)
    except OSError as error:
        raise PlaceError(f"--output {output}: {error.strerror}.") from error


def _is_stdin(path: Path) -> bool:
    """Whether a file is the one that stdin reads: `llmkit predict … - -o rows.jsonl < rows.jsonl`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdin.fileno()))
    except (OSError, ValueError):  # a program's own stdin may be no file
        return False


OTHERS = (".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".feather", ".gz", ".xz", ".bz2", ".zst", ".zip")
"""What an output isn't written as, and would be taken for."""


def place(output: str, read: Sequence[str] = ()) -> Path:
    """Where an output goes; PlaceError where nothing can be written there, RequestError where it is one of `read`."""
    if not output:
        raise RequestError("--output: is empty; name a file, or - for stdout.")
    target = at_home(output)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise PlaceError(f"--output {output}: {'is a folder' if target.is_dir() else 'its folder does not exist'}.")
    if target.suffix.lower() in OTHERS:
        raise RequestError(f"--output {output}: rows are written as JSON lines or as a table of text, not as "
                           f"{target.suffix}; name it .jsonl, .csv or .tsv, which spreadsheets open.")
    if target.is_file() and (any(path.samefile(target) for label in read for path in _files(label))
                             or ("-" in read and _is_stdin(target))):
        raise RequestError(f"--output {output}: it is a file that is read here, and would be lost; name another.")
    return target


def _part(final: Path, newline: str | None) -> tuple[Path, TextIO]:
    """A new file beside `final`, where rows stand until all are there: what anybody has there is left alone."""
    for number in count(1):
        path = final.with_name(f"{final.name}.part{number if number > 1 else ''}")
        with suppress(FileExistsError):
            return path, path.open("x", encoding="utf-8", newline=newline)
    raise AssertionError("numbers end")


def _files(label: str) -> tuple[Path, ...]:
    """The files that a source names; none where there are none, which is told elsewhere."""
    try:
        return files_of(label)
    except DataError:
        return ()


@contextmanager
def _beside(target: Path) -> Iterator[TextIO]:
    """A file that takes the place of `target` once the block ends; where it fails, what it holds is kept, and said.

    A device, a pipe, and a file in a folder that can't be written are written to as they are.
    """
    newline, new = "" if tabled.is_table(str(target)) else None, None
    try:
        if not target.exists() or target.is_file():
            new = _part(target.resolve(), newline)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            raise
    if new is None:
        with target.open("w", encoding="utf-8", newline=newline) as file:
            yield file
        return
    part, beside = new
    try:
        with beside:
            yield beside
        final = target.resolve()
        if final.exists():
            shutil.copymode(final, part)
        sync(part)
        part.replace(final)
    except BaseException:
        if part.stat().st_size:
            log.warning("%s: has the rows until then; %s is as it was", part, target)
        else:
            part.unlink()
        raise


def _lines(rows: Iterator[Mapping[str, Any] | None], to: TextIO) -> int:
    written = 0
    for written, row in enumerate(rows, 1):  # noqa: B007
        to.write(as_json(row, to) + "\n")
        to.flush()
    return written
