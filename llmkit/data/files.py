"""Files: find them, tell their format by the name, and their content apart by a hash."""

import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from llmkit.system import cache
from llmkit.system.addresses import at_home
from llmkit.system.errors import DataError, NothingThereError
from llmkit.system.machine import cores

CHUNK = 1 << 20
"""Bytes, or characters, that are read at once."""
LONGEST = 2**27
"""Characters of a line, or of an object in a list: such a row is a book shelf; text8, in one line, has 100 million."""
LONGEST_DOCUMENT = 2**30
"""Characters of one JSON object that holds all rows, which is read at once."""
PACKED = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "zstd", ".lz4": "lz4"}
"""What one packed file is called by, behind the extension of what is in it."""
WORTH = 2**26
"""Bytes of a file whose digest is remembered for the next program: to read it takes longer than to look it up."""
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


class Part(NamedTuple):
    """A stretch of a file, from the start of a document on."""

    start: int
    """In bytes, as `stop`; of a file that is packed, in those that it becomes; of parquet, in rows."""
    stop: int
    line: int
    """Lines before it; of parquet, rows."""
    held: bytes | None = None
    """Its bytes, where they were read already."""


class Changed(DataError):
    """A file isn't what it was when its content was hashed."""


def files_of(label: str) -> tuple[Path, ...]:
    """The files of a path or a glob, sorted; DataError where there is none."""
    try:
        path = at_home(label)
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
            raise NothingThereError(f"{label}: no file matches.{folders}{_unfilled(label)}")
    else:
        others = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
        near = get_close_matches(path.name, others, n=1)
        hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else _unfilled(label)
        raise NothingThereError(f"{label}: no such file or folder.{hint}")
    for each in files:
        if not each.is_file():
            raise DataError(f"{each}: is no regular file, so it can't be read twice; save it to one first.")
    return tuple(files)


def _unfilled(label: str) -> str:
    """What to say of a path that begins as a shell's variable does: `$DATA/a.txt`."""
    found = re.match(r"\$(?:\w+|\{\w+\})", label)
    return f" {found[0]} stands for itself here: write the path that it holds." if found else ""


def is_packed(path: Path) -> bool:
    """Whether a file's name says that it is packed."""
    return path.suffix.lower() in PACKED


def suffix_of(path: Path) -> str:
    """The extension of what is in a file, in lower case: `.txt` of `a.TXT.gz`."""
    return (Path(path.stem).suffix if is_packed(path) else path.suffix).lower()


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file; read again where its size or times have changed, or are too new to tell.

    Whoever writes into a file, or puts another in its place, changes its inode or the time of its last change (ctime),
    which no program can set: so of a file whose times are older than the coarsest clock, these tell whether it is what
    it was. Of a large one it is remembered for the next program too.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())  # of a file that is open, a network's server is asked
        if max(about.st_mtime_ns, about.st_ctime_ns) > time.time_ns() - TICK:
            return sha256_of(path)
        return _remembered(path.absolute(), *state_of(about))
    except OSError as error:
        raise unreadable(path, error) from error


def digests(paths: Sequence[Path]) -> list[str]:
    """The digests of several files, some of them at once."""
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(digest, paths))


def state_of(about: os.stat_result) -> tuple[int, ...]:
    """What changes when a file does."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def unchanged(path: Path, said: str) -> None:
    """Raise Changed where a file hasn't the digest that it had: what is kept by that would be of something else."""
    if digest(path) != said:
        raise changed(path)


def changed(path: Path) -> Changed:
    """What is wrong with a file that isn't what it was."""
    return Changed(f"{path}: has changed while it was read, so nothing that was made of it is kept. Wait until nothing "
                   "writes to it any more, or give a copy.")


@lru_cache(maxsize=2**18)  # more files than a folder of single texts has: one too many, and each is read at every look
def _remembered(path: Path, *about: int) -> str:
    if about[2] < WORTH:
        return sha256_of(path)
    note = cache.root() / "digests" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        said = json.loads(note.read_text())
        if said["state"] == list(about):
            return str(said["sha256"])
    found = sha256_of(path)
    if state_of(path.stat()) == about:  # it stayed what it was while it was read
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            staged = note.with_name(f".{note.name}-{os.getpid()}")
            staged.write_text(json.dumps({"state": about, "sha256": found}))
            staged.replace(note)
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unreadable(path: Path, error: OSError) -> DataError:
    """What keeps a file from being read, in the words of the system."""
    return DataError(f"{path}: can't be read: {error.strerror or error}.")
