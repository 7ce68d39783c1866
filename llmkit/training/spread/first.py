"""Several processes of a run: where one fails, the others' connections break, and its own error is what all tell."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

import torch

from llmkit.backbones.kernels.privates import shared_store
from llmkit.recipe.watching import own_line
from llmkit.system.errors import LlmkitError

BROKEN = re.compile(r"gloo|nccl|connection (was )?(closed|reset)|broken pipe", re.IGNORECASE)
"""What torch says of processes that don't answer any more."""
KEY = "llmkit/first error"


class FirstError:
    """While the block runs, the first process that fails leaves its error where all find it.

    In another process, a connection that breaks because of that is then told as this error, with its exit status.
    """

    def __init__(self, rank: int, processes: int) -> None:
        self.rank = rank
        self.store: Any = shared_store() if processes > 1 else None

    def __enter__(self) -> None:
        """What an earlier run of the same processes left goes."""
        if self.store is not None and self.rank == 0:
            self.store.delete_key(KEY)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        """Leave it, or tell the one that was left."""
        if self.store is None or not isinstance(error, Exception):
            return
        if not is_broken(error):
            status = error.status if isinstance(error, LlmkitError) else 1
            self.asked("compare_set", KEY, "", f"{self.rank} {status} {in_words(error)}")
        elif (left := self.asked("check", [KEY])) and (left := self.asked("get", KEY)):
            raise told(left.decode(errors="replace")) from error
        elif left is None:
            raise LlmkitError("another process of this run ended before this one; what it says is why") from error

    def asked(self, name: str, *words: Any) -> Any:
        """What the store answers; None where the process that has it is gone."""
        try:
            return getattr(self.store, name)(*words)
        except (RuntimeError, torch.distributed.DistError):
            return None


def is_broken(error: BaseException) -> bool:
    """Whether an error only says that another process doesn't answer."""
    return isinstance(error, RuntimeError) and BROKEN.search(str(error)) is not None


def in_words(error: Exception) -> str:
    """An error as the command line tells it."""
    said = " ".join(str(error).split())
    return said if isinstance(error, LlmkitError) else f"{type(error).__name__}: {said}{own_line(error)}"


def told(left: str) -> LlmkitError:
    """`1 3 a.txt:3: it is empty.` -> a DataError that names process 1."""
    rank, status, said = left.split(" ", 2)
    kind = next((kind for kind in LlmkitError.__subclasses__() if kind.status == int(status)), LlmkitError)
    return kind(f"process {rank}: {said}")
