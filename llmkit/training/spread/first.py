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
from llmkit.system.errors import LlmkitError, PlaceError, Stopped

BROKEN = re.compile(r"gloo|nccl|connection (was )?(closed|reset)|broken pipe", re.IGNORECASE)
"""What torch says of processes that don't answer any more."""
LATE = re.compile(r"timed? ?out", re.IGNORECASE)
"""What it says, beside that, where they didn't answer in time."""
KEY = "first error"
GONE = "another process of this run ended before this one; what it says is why"
HEARD = 3.0
"""Seconds that the process which has the store stays when it fails, for the others to hear why."""


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
        """Nothing was left yet."""

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
                status = error.status if isinstance(error, LlmkitError) else 1
                self.asked("compare_set", KEY, "", f"{self.rank} {status} {in_words(error)}{here()}")
            self.heard()
            self.stay()
        elif (left := self.left()) is not None:
            raise left from error
        elif self.asked("check", [KEY]) is None:
            raise LlmkitError(GONE) from error
        elif LATE.search(str(error)):
            raise PlaceError(late(self.patience)) from error
        else:
            raise LlmkitError(f"{GONE} (here: {' '.join(str(error).split())[:200]})") from error

    def left(self) -> LlmkitError | None:
        """The error that a process left; None where none did."""
        left = self.asked("check", [KEY]) and self.asked("get", KEY)
        if not left:
            return None
        self.heard()
        rank, status, said = left.decode(errors="replace").split(" ", 2)
        return told(int(status), f"process {rank}: {said}", mine=int(rank) == self.rank)

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


def here() -> str:
    """` (on node1)` where the processes of the run are on several machines."""
    one = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return "" if one else f" (on {socket.gethostname()})"


def told(status: int, said: str, mine: bool = False) -> LlmkitError:
    """3, "process 1: a.txt:3: it is empty." -> a DataError; heard from another process unless it is `mine`."""
    kind = next((kind for kind in LlmkitError.__subclasses__() if kind.status == status), LlmkitError)
    error = kind(said)
    error.heard = not mine
    return error
