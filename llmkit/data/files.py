"""Files as bytes and text: find them, unpack and decode them, tell their content apart by a hash."""

import codecs
import glob
import gzip
import hashlib
import io
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

from llmkit.system.errors import DataError

CHUNK = 1 << 20
"""Bytes, or characters, that are read at once."""
TICK = 2_000_000_000  # nanoseconds: the coarsest clock of a file system in use


class Place(NamedTuple):
    """Where a document stands: a file and a line or row, both as a person counts them.

    >>> str(Place("corpus.txt", 12)), str(Place("corpus.txt", None))
    ('corpus.txt:12', 'corpus.txt')
    """

    file: str
    line: int | None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


def files_of(label: str) -> tuple[Path, ...]:
    """The files of a path or a glob, sorted; DataError where there is none."""
    try:
        path = Path(label).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a home that nobody has
        why = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{label}: can't be read: {why or error}.") from error
    if path.is_dir():
        raise DataError(f"{label}: is a folder; say which files: {label.rstrip('/')}/*.txt.")
    if there:
        files = [path]
    elif glob.has_magic(str(path)):
        matched = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        files = [each for each in matched if each.is_file()]
        if not files:
            folders = f" It matches folders only: {matched[0]}/* would match what is in one." if matched else ""
            raise DataError(f"{label}: no file matches.{folders}")
    else:
        others = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
        near = get_close_matches(path.name, others, n=1)
        hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise DataError(f"{label}: no such file or folder.{hint}")
    for each in files:
        if not each.is_file():
            raise DataError(f"{each}: is no regular file, so it can't be read twice; save it to one first.")
    return tuple(files)


def is_gzip(path: Path) -> bool:
    """Whether a file's name says that it is packed."""
    return path.suffix.lower() == ".gz"


def suffix_of(path: Path) -> str:
    """The extension of what is in a file, in lower case: `.txt` of `a.TXT.gz`."""
    return (Path(path.stem).suffix if is_gzip(path) else path.suffix).lower()


@contextmanager
def decoded(path: Path, encoding: str, label: str, surrogates: bool = False) -> Iterator[io.TextIOWrapper]:
    r"""A file's text; only \n ends a line. DataError, with file and line, for what goes wrong while it is read.

    label        what the recipe calls the source, for the hint that names another encoding
    surrogates   bytes that aren't of the encoding become lone surrogates, for the reader to look at
    """
    try:
        with unpacked(path) as raw:
            if codecs.lookup(encoding).name.startswith("utf-8"):
                _refuse_wide_mark(raw.peek(4)[:4], path, label)
            with io.TextIOWrapper(raw, encoding, "surrogateescape" if surrogates else "strict", newline="\n") as file:
                yield file
    except UnicodeError as error:
        raise _undecodable(path, encoding, label, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip data breaks off or is damaged: {error}.") from error


def unpacked(path: Path) -> io.BufferedReader:
    """The bytes of a file, or of what is packed in it."""
    if is_gzip(path):
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path)), CHUNK)
    return path.open("rb")


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file; read again where its size or times have changed, or are too new to tell."""
    try:
        about = path.stat()
        if max(about.st_mtime_ns, about.st_ctime_ns) > time.time_ns() - TICK:
            return sha256_of(path)
        return _remembered(
            path.absolute(), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    except OSError as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=65_536)
def _remembered(path: Path, *about: int) -> str:
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _undecodable(path: Path, encoding: str, label: str, error: UnicodeError) -> DataError:
    """Find the first byte that isn't of the encoding, by decoding again piece by piece."""
    fed, line = 0, 1
    decoder = codecs.getincrementaldecoder(encoding)()
    with unpacked(path) as raw:
        while True:
            piece = raw.read(CHUNK)
            fed += len(piece)
            try:
                line += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as bad:
                # the decoder's own rest of the last piece stands before this piece
                offset = fed - len(bad.object) + bad.start
                line += bad.object[: bad.start].decode(encoding, "replace").count("\n")
                return DataError(
                    f"{path}:{line}: not {encoding}: byte 0x{bad.object[bad.start]:02x} at offset {offset}; if "
                    f"the file is of another encoding, say which: {{source: {label}, encoding: latin-1}}.")
            if not piece:
                return DataError(f"{path}: not {encoding}: {error}.")


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, gzip.BadGzipFile):
        return DataError(f"{path}: is no gzip file, or a damaged one: {error}.")
    return DataError(f"{path}: can't be read: {error.strerror or error}.")


def _refuse_wide_mark(head: bytes, path: Path, label: str) -> None:
    wide = "utf-32" if head in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) else "utf-16"
    if wide == "utf-32" or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}:1: starts with the byte order mark of {wide.upper()}; say in the recipe: "
                        f"{{source: {label}, encoding: {wide}}}.")
