"""What is computed once and kept: folders named by the content that they were made from."""

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from llmkit.system.errors import PlaceError, no_room
from llmkit.system.locks import dead, lock, signature

log = logging.getLogger("llmkit")

OWNER = "@"
"""What stands on both sides of its process's signature in the name of a folder that is being filled."""
SILENCE = 86_400.0
"""Seconds without a change after which a folder of an unknown process, as one of another machine, is a dead one's."""
SIZES = ".sizes"
"""The file in a folder that notes how large the others are."""
HASHES = ".sha256"
"""The file in a folder that notes the hashes of the others, where these are looked at."""
WAITS = 3.0
"""Seconds of waiting for a process that makes the same folder after which that is said."""

_NOTES: ContextVar[set[Path] | None] = ContextVar("notes", default=None)
"""Where the folders that are used are written down."""


def root() -> Path:
    """`$LLMKIT_CACHE`, or llmkit's folder where this system keeps caches."""
    given = os.environ.get("LLMKIT_CACHE")
    if given:
        return _from_home("LLMKIT_CACHE", given)
    return _from_home("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "llmkit"


def _from_home(variable: str, given: str) -> Path:
    """A path in which `~` is a home: not every program that sets a variable asks a shell, which would see to it."""
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise PlaceError(f"{variable} {given}: no home folder is known for that; set LLMKIT_CACHE to a folder "
                         "that can be written.") from error


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

    Of several processes that want the same folder one makes it and the others wait; where the first is killed, the next
    one makes it. On a disk that knows no locks, and among threads, all make the same thing and the first rename stays.
    What processes left half that were killed meanwhile goes then. A folder whose files were cut short or went since,
    as where a disk was full or somebody tidied up, is made anew, and that is said.
    """
    place = root() / kind / key
    if (notes := _NOTES.get()) is not None:
        notes.add(place)
    with _writing(place.parent):  # somebody else's may be closed
        there = place.is_dir()
    if there:
        if (why := _spoiled(place)) is None:
            return place
        log.warning("%s: is damaged (%s); it is made anew", place, why)
        _put_away(place)
    with _writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
    with _turn(place):
        if place.is_dir():
            return place
        return appear(place, noting(make), f"the cache folder {place.parent} can't be written",
                      "Set LLMKIT_CACHE to one that can.", root())


def holds(place: Path) -> bool:
    """Whether a folder of the cache is there; what is closed to this user, as in a cache of somebody else, isn't."""
    try:
        return place.is_dir()
    except PermissionError:
        return False


def sealed(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """`once`, whose files are also read again and compared with their hashes: for numbers that nothing else checks."""
    made = False

    def with_hashes(folder: Path) -> None:
        nonlocal made
        make(folder)
        (folder / HASHES).write_text(json.dumps(_hashes(folder)))
        made = True

    place = once(kind, key, with_hashes)
    if made or ((place / HASHES).is_file() and json.loads((place / HASHES).read_text()) == _hashes(place)):
        return place
    log.warning("%s: is damaged (its files aren't what was written); it is made anew", place)
    _put_away(place)
    return once(kind, key, with_hashes)


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name not in (SIZES, HASHES):
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def noting(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """`make`, which then notes the size of each file, for `once` to look at."""
    def noted_down(folder: Path) -> None:
        make(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        if files:
            sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
            (folder / SIZES).write_text(json.dumps(sizes))
    return noted_down


def _spoiled(place: Path) -> str | None:
    """Which file isn't as it was made; None where all are, or where nobody noted how: older versions didn't."""
    try:
        sizes = json.loads((place / SIZES).read_text())
    except OSError:
        return None
    except ValueError:
        return f"{SIZES} can't be read"
    for name, size in sizes.items():
        try:
            found = os.stat(place / name).st_size
        except OSError:
            return f"{name} is missing"
        if found != size:
            return f"{name} has {found:,} bytes, not {size:,}"
    return None


def _put_away(place: Path) -> None:
    """Remove a folder by one rename, so that nobody meets half of it; a process that reads from it goes on."""
    with _writing(place.parent), suppress(FileNotFoundError):
        away = tempfile.mkdtemp(prefix=f".{place.name[:16]}{OWNER}{signature()}{OWNER}", dir=place.parent)
        os.rename(place, away)  # an empty folder makes way
        shutil.rmtree(away, ignore_errors=True)


def appear(place: Path, make: Callable[[Path], None], what: str, way_out: str, cache: Path) -> Path:
    """A folder that `make` fills beside its place and that appears there by one rename: whole or absent.

    What processes left half in `cache` that were killed goes first. PlaceError, as `what` and `way_out` say it, where
    nothing can be written there.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name[:16]}{OWNER}{signature()}{OWNER}", dir=place.parent))
    except OSError as error:
        raise PlaceError(f"{what}: {error.strerror}. {way_out}") from error
    sweep(cache, place.parent)
    try:
        make(staging)
        staging.chmod(0o777 & ~usual_mask())
        for path in [*staging.rglob("*"), staging]:
            sync(path)
        try:
            staging.rename(place)
        except OSError:
            if not place.is_dir():
                raise
        sync(place.parent)
        return place
    except Exception as error:
        if full := no_room(error):
            raise PlaceError(f"{what}: {full}. {way_out}") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """PlaceError where the block can't write into the cache."""
    try:
        yield
    except OSError as error:
        raise PlaceError(f"the cache folder {folder} can't be written: {error.strerror}. "
                         "Set LLMKIT_CACHE to one that can.") from error


@contextmanager
def _turn(place: Path) -> Iterator[None]:
    """While the block runs, no other process makes the same folder: it waits, as this one does until it is its turn."""
    path = place.with_name(f".turn-{place.name}")
    file = _waited(path, place)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            file.close()


def _waited(path: Path, place: Path) -> IO[bytes] | None:
    """The file that this process has locked while it makes a folder; None where that is there, or there are no locks.

    The kernel ends a lock with its process, so a dead one keeps nobody waiting. Waiting is done in small sleeps: a
    signal ends it.
    """
    began, told = time.monotonic(), False
    while not place.is_dir():
        try:
            file = path.open("ab")
        except OSError:  # somebody else's file: what can't be written is told when the folder is made
            return None
        try:
            lock(file)
        except OSError as error:
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                return None
            if not told and time.monotonic() - began > WAITS:
                told = True
                log.info("%s: another process makes it; waiting", place)
            time.sleep(0.1)
            continue
        with suppress(OSError):  # who had it before has removed it
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()
    return None


def at_work(place: Path) -> bool:
    """Whether a process of this machine, which runs, is about to let a folder appear there."""
    staged = place.parent.glob(f".{place.name[:16]}{OWNER}*")
    return any(dead(path.name.rsplit(OWNER, 2)[1]) is False for path in staged)


def sweep(cache: Path, folder: Path) -> None:
    """Remove what processes that were killed left half, in a folder and in all kinds of a cache, and say so."""
    with suppress(OSError):  # another process is faster
        places = {folder, *(kind for kind in cache.iterdir() if kind.is_dir())}
        left = [path for place in places for path in place.glob(".*") if path.is_dir() and _is_left(path)]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if gone := sum(not path.exists() for path in left):
            log.info("%s: what processes that were killed had left half is removed (%d)", cache, gone)


def _is_left(staging: Path) -> bool:
    """Whether nobody will finish a folder: its process is dead; or it is unknown here, and silent for a day."""
    _, signed, _ = f"{OWNER}{OWNER}{staging.name}".rsplit(OWNER, 2)
    over = dead(signed)
    if over is not None:
        return over
    try:
        last = max(path.stat().st_mtime for path in (staging, *staging.rglob("*")))
    except OSError:  # it goes while it is looked at
        return False
    return last < time.time() - SILENCE


def usual_mask() -> int:
    """What this process withholds from the files that it makes, as bits of their mode."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
