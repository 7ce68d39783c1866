"""Holding a run's folder: one run at a time has it, and asks before it writes whether it still does."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from llmkit.models.layout import HELD, LOCK, SILENCE
from llmkit.system.errors import LlmkitError, PlaceError, no_room
from llmkit.system.locks import alive, lock, this_process

log = logging.getLogger("llmkit")

SIGN_OF_LIFE = 20.0
"""Seconds between two times that a run touches its lock."""


class Hold:
    """A folder that this run has, as long as the lock's file is the one that it opened and says what it wrote there."""

    def __init__(self, folder: Path, file: IO[bytes]) -> None:
        self.folder = folder
        self._file = file
        self._place = folder / LOCK
        self.token = uuid4().hex
        """What no other run has."""
        self._text = f"process {os.getpid()} on {socket.gethostname()}\n{self.token}\n".encode()
        self._reading = threading.Lock()

    def said(self) -> str:
        """Who has the folder, as its lock says it; empty where nobody does."""
        return self._content().decode(errors="replace").partition("\n")[0].strip()

    def take(self) -> None:
        """Write down that this run has it."""
        self._file.truncate(0)
        self._file.write(self._text)
        os.fsync(self._file.fileno())  # processes on other machines look for it

    def leave(self) -> None:
        """Write down that nobody has it, unless another run took it."""
        with suppress(OSError):
            if self._content() == self._text:
                self._file.truncate(0)

    def check(self) -> None:
        """PlaceError where the folder isn't this run's any more: moved, removed, or another run's."""
        with suppress(OSError):
            if os.path.samestat(os.stat(self._place), os.fstat(self._file.fileno())):
                if self._content() == self._text:
                    return
                raise PlaceError(f"{self.folder}: another run ({self.said() or 'unknown'}) has taken it over from this "
                                 "one, which ends and leaves it as it is.")
        what = "is another run's now" if self._place.exists() else "was moved or removed"
        raise PlaceError(f"{self.folder}: {what}, while this run had it: its {LOCK} isn't the one that this run holds. "
                         "This run ends and writes nothing more.")

    def touch(self) -> None:
        """Give a sign of life."""
        with suppress(OSError, PlaceError):
            self.check()
            os.utime(self._file.fileno() if os.utime in os.supports_fd else self._place)

    def _content(self) -> bytes:
        """What stands in the lock; read through the file that is open, for to close another one would end the lock."""
        with self._reading:
            self._file.seek(0)
            return self._file.read(4096)


@contextmanager
def held(folder: Path) -> Iterator[Hold]:
    """Hold a folder; PlaceError where another run does, or where it can't be written.

    The lock is the kernel's: it ends with the process, however that ends. What stands in it is for places that
    several machines share and whose kernels don't tell each other: a run on another machine that didn't end in
    order counts as alive until its lock wasn't touched for some minutes.
    """
    with _within_process(folder):
        lock = folder / LOCK
        if os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file()):  # a link's file would be emptied
            raise PlaceError(f"{lock}: is no file, and a run's lock is one; remove it, or choose another --output-dir.")
        with telling(folder):
            file = lock.open("a+b", buffering=0)
        with file:
            holding = Hold(folder, file)
            _ask(holding, file)
            with telling(folder):
                holding.take()
            try:
                with _signs_of_life(holding):
                    yield holding
            finally:
                holding.leave()


@contextmanager
def _within_process(folder: Path) -> Iterator[None]:
    """Hold the folder among the runs of this process: the kernel's lock is one for all of them.

    Told by a file of its own, for to open and close the lock's file would let go of the kernel's lock.
    """
    mark = folder / f"{HELD}{this_process()}"
    try:
        with telling(folder), mark.open("x"):
            pass
    except PlaceError as error:
        if mark.exists() and isinstance(error.__cause__, FileExistsError):
            raise PlaceError(f"{folder}: in use by another run of this program (process {os.getpid()}); "
                             "choose another --output-dir, or wait.") from error
        if isinstance(error.__cause__, PermissionError):
            raise PlaceError(f"{folder}: {error.__cause__.strerror}: a run writes in its folder, and this one is "
                             "somebody else's; choose another --output-dir.") from error
        raise
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _ask(holding: Hold, file: IO[bytes]) -> None:
    """PlaceError where another run has the folder: by the kernel's lock, or by what stands in its file."""
    said = holding.said()
    try:
        lock(file)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise PlaceError(f"{holding.folder}: in use by another run ({said or 'unknown'}); "
                             "choose another --output-dir, or wait.") from error
        log.warning("%s: this place knows no locks (%s); two runs are kept apart by what stands in %s alone",
                    holding.folder, error.strerror or error, LOCK)
        _check_owner(holding.folder, said, locks=False)
    else:
        _check_owner(holding.folder, said, locks=True)


def _check_owner(folder: Path, said: str, locks: bool) -> None:
    """PlaceError where the run that a lock names may still be alive."""
    found = re.fullmatch(r"process (\d+) on (\S+)", said)
    if found is None:
        return
    if found[2] == socket.gethostname():
        if not locks and int(found[1]) != os.getpid() and alive(int(found[1])):
            raise PlaceError(f"{folder}: in use by another run ({said}); "
                             "choose another --output-dir, or wait.")
        return
    with telling(folder), tempfile.NamedTemporaryFile(prefix=".clock-", dir=folder) as clock:
        silent = os.stat(clock.name).st_mtime - (folder / LOCK).stat().st_mtime
    if silent < SILENCE:
        raise PlaceError(f"{folder}: in use by another run ({said}), which gave a sign of life {silent:.0f} s "
                         f"ago; choose another --output-dir, or wait. If it is dead, delete {folder / LOCK}.")
    log.warning("%s: taken over from %s, silent for %.0f minutes", folder, said, silent / 60)


@contextmanager
def _signs_of_life(holding: Hold) -> Iterator[None]:
    """Touch the lock now and then."""
    over = threading.Event()

    def touch() -> None:
        while not over.wait(SIGN_OF_LIFE):
            holding.touch()

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # it has the file's number, which may soon be another file's


@contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Turn what the file system says, itself or through a library, into PlaceError."""
    try:
        yield
    except LlmkitError:
        raise
    except Exception as error:
        if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding():
            raise PlaceError(f"{str(folder)!a}: file names are {error.encoding} here and can't say this one; set "
                             "PYTHONUTF8=1, or choose another --output-dir.") from error
        said = no_room(error)
        if said is None and not isinstance(error, OSError):
            raise
        where = getattr(error, "filename", None) or folder
        reason = said or getattr(error, "strerror", None) or str(error)
        raise PlaceError(f"{where}: {reason}. What was saved before is whole.") from error
