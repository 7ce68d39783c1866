"""Several processes of a run: where one fails, the others' connections break, and its own error is what all tell."""

from __future__ import annotations

import os
import re
import socket
import time
from types import TracebackType
from typing import Any

import torch

from llmkit.recipe.watching import own_line
from llmkit.system.errors import LlmkitError, PlaceError, Stopped, status_of
from llmkit.system.locks import dead, end_of, signature
from llmkit.system.signals import GOES_ON, killer

BROKEN = re.compile(r"gloo|nccl|connection (was )?(closed|reset)|broken pipe", re.IGNORECASE)
"""What torch says of processes that don't answer any more."""
LATE = re.compile(r"timed? ?out", re.IGNORECASE)
"""What it says, beside that, where they didn't answer in time."""
KEY = "first error"
GONE = "another process of this run ended before this one; what it says is why"
HEARD = 3.0
"""Seconds that the process which has the store stays when it fails, for the others to hear why."""
SAME = 1.0
"""Seconds that another process waits for the first one to fail of what it fails of."""


class KilledError(LlmkitError):
    """A process was ended from outside, as by a system that has no memory left; it could say nothing itself."""

    status = 128 + 9  # as a shell says it of SIGKILL


class FirstError:
    """While the block runs, the first process that fails leaves its error where all find it.

    In another process, a connection that breaks because of that is then told as this error, with its exit status.
    """

    def __init__(self, rank: int, processes: int, store: Any, patience: float) -> None:
        """`store` is one of torch's, of this run alone, or None; `patience`: what `training.ddp_timeout` says."""
        self.rank, self.processes, self.store, self.patience = rank, processes, store, patience
        self.connected = False
        """Whether a process that is gone is seen by the others without the store."""

    def __enter__(self) -> None:
        """Nothing was left yet; say which process this is, for the others to find out where it is killed."""
        if self.store is not None:
            self.asked("set", f"signed/{self.rank}", f"{signature()} {socket.gethostname()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        """Leave it, or tell the one that was left: a launcher ends the others by a signal then."""
        if self.store is None or error is None:
            return
        if isinstance(error, Stopped) and (left := self.left()) is not None:
            raise left from error
        if not isinstance(error, Exception):
            return
        if not is_broken(error):
            if not (isinstance(error, LlmkitError) and error.heard):
                said = f"{status_of(error)} {in_words(error)}"
                self.asked("compare_set", KEY, "", f"{self.rank} {said}{here()}")
                if isinstance(error, LlmkitError):
                    error.heard = self.is_told(said)
            self.heard()
            self.stay()
        elif (left := self.found(0 if LATE.search(str(error)) else HEARD)) is not None:
            raise left from error
        elif self.asked("check", [KEY]) is None:
            raise LlmkitError(GONE) from error
        elif LATE.search(str(error)):
            raise PlaceError(late(self.patience)) from error
        elif away := self.away():
            raise KilledError(f"a process on {away} was ended from outside and could say nothing, or the network "
                              f"between is gone. {GOES_ON}") from error
        else:
            raise LlmkitError(f"{GONE} (here: {' '.join(str(error).split())[:200]})") from error

    def is_told(self, said: str) -> bool:
        """Whether the first process fails of this too, as of a request that no process can run: it alone tells it."""
        self.asked("set", f"failed/{self.rank}", said)
        deadline = time.monotonic() + SAME
        while self.rank and not self.connected and time.monotonic() < deadline:
            if self.asked("check", ["failed/0"]):
                return bool(self.asked("get", "failed/0") == said.encode())
            time.sleep(0.02)
        return False

    def left(self) -> LlmkitError | None:
        """The error that a process left; None where none did."""
        left = self.asked("check", [KEY]) and self.asked("get", KEY)
        if not left:
            return None
        self.heard()
        rank, status, said = left.decode(errors="replace").split(" ", 2)
        return told(int(status), f"process {rank}: {said}", mine=int(rank) == self.rank)

    def found(self, seconds: float) -> LlmkitError | None:
        """The error that a process left, or what killed one of this machine; None where it isn't known after so long.

        One that is killed leaves nothing, and the others' connections break at once.
        """
        deadline = time.monotonic() + seconds
        while (left := self.left()) is None and not self._leave_killed():
            if time.monotonic() > deadline or self.asked("check", [KEY]) is None:
                return None
            time.sleep(0.02)
        return left or self.left()

    def _leave_killed(self) -> bool:
        """Leave, for one that can't any more, that it was killed; whether there is one."""
        for rank, (signed, _) in self.signed().items():
            end = end_of(signed)  # before it is known to be dead: its parent may ask at any time, and then it is gone
            if dead(signed) and (end is None or end < 0) and self.asked("check", [KEY]) is False:
                said = f"{killed(signed, end)}{here()}. {GOES_ON}"
                self.asked("compare_set", KEY, "", f"{rank} {128 - (end or -9)} {said}")
                return True
        return False

    def signed(self) -> dict[int, tuple[str, str]]:
        """(which process it is, its machine) of the others, by their number."""
        found = {}
        for rank in range(self.processes):
            if rank != self.rank and self.asked("check", [f"signed/{rank}"]):
                signed, _, host = self.asked("get", f"signed/{rank}").decode().partition(" ")
                found[rank] = signed, host
        return found

    def away(self) -> str:
        """The other machines of the run: `node1 or node2`; "" where it has none."""
        return " or ".join(sorted({host for _, host in self.signed().values()} - {socket.gethostname()}))

    def heard(self) -> None:
        """Say that this process knows why the run ends."""
        self.asked("set", f"heard/{self.rank}", "")

    def stay(self) -> None:
        """Where the store ends with this process, give the others the time to hear why."""
        deadline = time.monotonic() + HEARD
        others = [f"heard/{rank}" for rank in range(1, self.processes)]
        while self.rank == 0 and not self.connected and time.monotonic() < deadline and not self.asked("check", others):
            time.sleep(0.02)

    def asked(self, name: str, *words: Any) -> Any:
        """What the store answers; None where the process that has it is gone."""
        try:
            return getattr(self.store, name)(*words)
        except (RuntimeError, torch.distributed.DistError):
            return None


def is_broken(error: BaseException) -> bool:
    """Whether an error only says that another process doesn't answer."""
    return isinstance(error, RuntimeError) and BROKEN.search(str(error)) is not None


def late(patience: float) -> str:
    """What is told where a process waited in vain."""
    return (f"the other processes didn't answer within {patience:g} s (training.ddp_timeout): one of them is slower "
            "than that, hangs, or can't be reached. Look at what they say; where one only needs longer, make it more.")


def in_words(error: Exception) -> str:
    """An error as the command line tells it."""
    said = " ".join(str(error).split())
    return said if isinstance(error, LlmkitError) else f"{type(error).__name__}: {said}{own_line(error)}"


def killed(signed: str, end: int | None) -> str:
    """`it (pid 4711) was killed by SIGKILL, as a machine does that is out of memory`

    end   minus the signal, as subprocess has it; None where nobody knows it
    """
    return f"it (pid {signed.split('-')[1]}) was killed{'' if end else ', most likely'} by {killer(-(end or -9))}"


def here() -> str:
    """` (on node1)` where the processes of the run are on several machines."""
    one = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return "" if one else f" (on {socket.gethostname()})"


def told(status: int, said: str, mine: bool = False) -> LlmkitError:
    """3, "process 1: a.txt:3: it is empty." -> a DataError; heard from another process unless it is `mine`."""
    kind = KilledError if status > 128 else next(
        (kind for kind in LlmkitError.__subclasses__() if kind.status == status), LlmkitError)
    error = kind(said)
    error.status = status
    error.heard = not mine
    return error
