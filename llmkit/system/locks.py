"""Locks on files that a dead process can't leave behind: the kernel ends them with the process that holds them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import sys
from pathlib import Path
from typing import IO, Any

BEHIND = 1 << 30
"""Where the byte is that Windows locks: behind all that the file may hold, for nobody can read a locked byte."""


def lock(file: IO[Any]) -> None:
    """Lock an open file for this process alone, until the file is closed or the process ends, however that ends.

    OSError: EACCES or EAGAIN where another process has locked it, another number where the place knows no locks.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError:
        _lock_a_byte(file)
    else:
        lockf(file, LOCK_EX | LOCK_NB)  # unlike flock's, no forked worker keeps it


def _lock_a_byte(file: IO[Any]) -> None:
    """Windows' way; untested there."""
    if sys.platform != "win32":
        raise OSError(errno.ENOLCK, "this system has no locks on files")
    import msvcrt

    at = file.tell()
    file.seek(BEHIND)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    finally:
        file.seek(at)


def alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    if sys.platform == "win32":  # signal 0 would be Ctrl-C there
        import psutil

        return bool(psutil.pid_exists(process))
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def this_process(path: Path = Path("/proc/self/stat")) -> str:
    """A name that no other process of this machine has or had: its number, and when it started."""
    try:
        started = path.read_text().rpartition(")")[2].split()[19]  # in ticks since the machine started (proc(5))
    except OSError:  # no Linux
        import psutil  # type: ignore[import-untyped]

        started = str(int(1000 * psutil.Process().create_time()))
    return f"{os.getpid()}-{started}"


def runs(name: str) -> bool:
    """Whether the process of this machine that `this_process` gave a name still runs.

    One that has ended and whose parent hasn't asked how doesn't.
    """
    number, _, started = name.partition("-")
    if not number.isdecimal() or not alive(int(number)):
        return False
    try:
        said = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no Linux, or it ended just now
        import psutil

        try:
            return str(int(1000 * psutil.Process(int(number)).create_time())) == started
        except psutil.Error:
            return False
    return said[19] == started and said[0] != "Z"


def signature() -> str:
    """What this process is among those of all machines and containers: `dead` tells whether it still runs.

    "5f0c6a1e-4711-183920": what counts processes here, the number, and when it started.
    """
    return f"{_space()}-{this_process()}"


def dead(signed: str) -> bool | None:
    """Whether the process that signed so has ended; None where that can't be known from here.

    Only what numbers processes as it was numbered can tell: the same machine, since it started, and the same container.
    """
    found = re.fullmatch(r"([0-9a-f]{8})-(\d+-\d+)", signed)
    return None if found is None or found[1] != _space() else not runs(found[2])


def end_of(signed: str) -> int | None:
    """How a process of this machine ended whose parent hasn't asked yet: its status, or minus its signal; else None."""
    found = re.fullmatch(r"([0-9a-f]{8})-(\d+)-(\d+)", signed)
    if found is None or found[1] != _space():
        return None
    try:
        said = Path(f"/proc/{found[2]}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no Linux, or its parent has asked
        return None
    code = int(said[49]) if said[0] == "Z" and said[19] == found[3] else 0  # what wait() will give (proc(5))
    return -(code & 0x7F) or code >> 8 or None  # 0: it isn't told to everybody


def _space(proc: Path = Path("/proc")) -> str:
    """What numbers this process: one start of one kernel, and in it a space of numbers, as each container has one."""
    try:
        about = (proc / "sys/kernel/random/boot_id").read_text() + os.readlink(proc / "self/ns/pid")
    except OSError:  # no Linux
        about = socket.gethostname()
    return hashlib.sha256(about.encode()).hexdigest()[:8]
