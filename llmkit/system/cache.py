"""What is computed once and kept: folders named by the content that they were made from."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from llmkit.system.errors import PlaceError

_NOTES: ContextVar[set[Path] | None] = ContextVar("notes", default=None)
"""Where the folders that are used are written down."""


def root() -> Path:
    """`$LLMKIT_CACHE`, or llmkit's folder where this system keeps caches."""
    given = os.environ.get("LLMKIT_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmkit"


@contextmanager
def noted() -> Iterator[set[Path]]:
    """The folders of the cache that are made or used while the block runs."""
    used: set[Path] = set()
    token = _NOTES.set(used)
    try:
        yield used
    finally:
        _NOTES.reset(token)


def once(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `<root>/<kind>/<key>`; if it isn't there yet, `make` fills a new one that appears by one rename.

    Two processes may make the same folder at once: both make the same thing, and the first rename stays.
    """
    place = root() / kind / key
    if (notes := _NOTES.get()) is not None:
        notes.add(place)
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=place.parent))
    except OSError as error:
        raise PlaceError(f"the cache folder {place.parent} can't be written: {error.strerror}. "
                         "Set LLMKIT_CACHE to one that can.") from error
    try:
        make(staging)
        staging.chmod(0o755)
        for path in [*staging.rglob("*"), staging]:
            sync(path)
        try:
            staging.rename(place)
        except OSError:
            if not place.is_dir():
                raise
        sync(place.parent)
        return place
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    writes = sys.platform == "win32"  # it syncs no folder, and no file that is only read
    if writes and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
