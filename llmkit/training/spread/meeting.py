"""Where the processes of a launch meet before they are connected: what each says to the others, at any pace."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch

from llmkit.backbones.kernels.privates import shared_store
from llmkit.system.environment import check_world
from llmkit.system.errors import LlmkitError, PlaceError
from llmkit.training.spread.first import GONE, FirstError, told
from llmkit.training.spread.processes import world

SIGN = 10.0
"""Seconds between two signs of life of a process; fewer where patience is short."""
ASKING = (0.01, 0.5)
"""Seconds between two looks for what another says: at first, and in the end."""
LONGER = 5.0
"""Seconds beside its patience that torch has to say that nobody came."""


class Meeting:
    """Values by name that all processes of a run reach.

    Nothing here is a collective. A process waits for another as long as that one lives, be it for hours: it may be
    tokenizing. One that fails leaves its error, and the others end with that at once.
    """

    def __init__(self, store: Any = None, rank: int = 0, processes: int = 1, patience: float = 0.0) -> None:
        """`store` is one of torch's; None where there is one process. `patience`: seconds without a sign of life."""
        self.store, self.rank, self.processes, self.patience = store, rank, processes, patience
        self.first = FirstError(rank, processes, store, patience)
        """Enter it once more around what tells of an error by itself."""

    @property
    def main(self) -> bool:
        """Whether this process is the first one."""
        return self.rank == 0

    def decide(self, about: str, mine: Any, judge: Callable[[list[Any]], Any]) -> Any:
        """What the first process makes of what all processes say; all get the same, or the same error.

        about   what it is about; each subject once
        mine    what this process says, and `judge` what the first makes of all in their order: what JSON can say

        Raises what `judge` raises, if that is an LlmkitError; PlaceError where a process gives no sign of life.
        """
        if self.store is None:
            return judge([mine])
        self._say(f"{about}/{self.rank}", mine)
        if self.main:
            every = [self._heard(f"{about}/{rank}", rank) for rank in range(self.processes)]
            try:
                self._say(f"{about}/decided", {"value": judge(every)})
            except LlmkitError as error:
                self._say(f"{about}/decided", {"status": error.status, "said": str(error)})
        decided = self._heard(f"{about}/decided", 0)
        if "said" in decided:
            self.first.heard()
            raise told(decided["status"], decided["said"], mine=self.main)
        return decided["value"]

    def first_says(self, about: str, make: Callable[[], Any]) -> Any:
        """What the first process makes, in JSON's terms; the others don't make it, and get the same."""
        return self.decide(about, make() if self.main else None, first)

    def everyone(self, about: str) -> None:
        """Wait until all processes have come so far."""
        self.decide(about, None, lambda every: None)

    def _say(self, name: str, value: Any) -> None:
        self._ask("set", name, json.dumps(value))

    def _heard(self, name: str, rank: int) -> Any:
        """What a process says, once it says it; LlmkitError where it, or another one, fails before."""
        pause, most = ASKING
        sign, since = "", time.monotonic()
        while not self._ask("check", [name]):
            if (error := self.first.left()) is not None:
                raise error
            time.sleep(pause)
            pause = min(most, pause * 1.5)
            now = self._life(rank)
            if now != sign:
                sign, since = now, time.monotonic()
            elif time.monotonic() - since > self.patience:
                raise PlaceError(f"process {rank}{f' on {sign.partition(chr(32))[2]}' if sign else ''} gave no sign of "
                                 f"life for {self.patience:g} s (training.ddp_timeout): it, its machine, or the "
                                 "network between is gone.")
        return json.loads(self._ask("get", name))

    def _life(self, rank: int) -> str:
        """`7 node1`: how often a process gave a sign of life, and where it is; "" before the first."""
        return kept(self.store, f"life/{rank}") or ""

    def _ask(self, verb: str, *words: Any) -> Any:
        return asked(self.store, verb, *words)

    @contextmanager
    def living(self) -> Iterator[None]:
        """Give signs of life while the block runs."""
        over = threading.Event()

        def signs() -> None:
            number = 0
            while not over.is_set():
                number += 1
                try:
                    self._ask("set", f"life/{self.rank}", f"{number} {socket.gethostname()}")
                except LlmkitError:
                    return
                over.wait(min(SIGN, self.patience / 3))

        thread = threading.Thread(target=signs, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(SIGN)


@contextmanager
def meet(patience: float) -> Iterator[Meeting]:
    """The meeting of this run's processes; alone where there is one process.

    patience   seconds that processes may come late, or give no sign of life: `training.ddp_timeout`

    While the block runs, the first error of any process is what all of them raise. PlaceError where not all come,
    RequestError where a launcher started others than were asked for.
    """
    check_world()
    if world() == 1:
        yield Meeting()
        return
    store, rank = _reached(patience)
    meeting = Meeting(store, rank, world(), patience)
    with meeting.first, meeting.living():
        yield meeting


def _reached(patience: float) -> tuple[Any, int]:
    """(the store that all processes of this run reach, the number of this one); each run has names of its own in it."""
    if torch.distributed.is_initialized():  # a program that trains again
        rank, name = torch.distributed.get_rank(), [uuid4().hex]
        torch.distributed.broadcast_object_list(name)
        return named(name[0], shared_store()), rank
    try:
        store, rank = _rendezvous(patience)
    except (RuntimeError, torch.distributed.DistError) as error:
        raise PlaceError(_not_met(str(error), patience)) from error
    return named(introduced(store, rank, world(), patience), store), rank


def _rendezvous(patience: float) -> tuple[Any, int]:
    """torch's, in a thread: where another program listens and says nothing, torch would wait for it for ever."""
    distributed: Any = torch.distributed  # whose types don't say that it has this
    came = list[tuple[Any, int] | BaseException]()

    def come() -> None:
        try:
            store, rank, _ = next(distributed.rendezvous("env://", timeout=timedelta(seconds=patience)))
            came.append((store, rank))
        except BaseException as error:  # it is raised where it is waited for
            came.append(error)

    thread = threading.Thread(target=come, daemon=True)
    thread.start()
    thread.join(patience + LONGER)
    if not came:
        raise PlaceError(f"{_place()}: what listens there doesn't answer as a run does: another program, or a first "
                         "process that hangs. Give another port (MASTER_PORT, --main_process_port).")
    if isinstance(came[0], BaseException):
        raise came[0]
    return came[0]


def introduced(store: Any, rank: int, processes: int, patience: float) -> str:
    """A name that the processes of this start, and no others, know: a launcher that restarts them keeps its store.

    Each says hello by a word of its own; the first one answers with a name and all these words; who finds his own in it
    agrees. Until all agree, a word that is new, for the one before was of a process that is dead, makes a new name.
    PlaceError where processes are missing for too long.
    """
    word, pause, since = uuid4().hex, ASKING[0], time.monotonic()
    said: list[str | None] = []
    name = ""
    asked(store, "set", f"hello/{rank}", word)
    while True:
        if rank == 0 and (now := [kept(store, f"hello/{other}") for other in range(processes)]) != said:
            said, name = now, uuid4().hex
            asked(store, "set", "name", json.dumps([name, said]) if all(said) else "")
        if found := kept(store, "name"):
            named_by_first, words = json.loads(found)
            if len(words) == processes and words[rank] == word:
                name = str(named_by_first)
                asked(store, "set", f"{name}/agreed/{rank}", "")
                if rank == 0 and asked(store, "check", [f"{name}/agreed/{other}" for other in range(processes)]):
                    asked(store, "set", f"{name}/go", "")
                if asked(store, "check", [f"{name}/go"]):
                    return name
        if time.monotonic() - since > patience:
            missing = [str(other) for other, there in enumerate(said) if there is None]
            who = f"process {', '.join(missing)}" if rank == 0 else "process 0, or another one,"
            raise PlaceError(f"{who} didn't come within {patience:g} s (training.ddp_timeout). Look whether all "
                             "machines were started, and what the missing ones say.")
        time.sleep(pause)
        pause = min(ASKING[1], pause * 1.5)


def asked(store: Any, verb: str, *words: Any) -> Any:
    """What a store answers; LlmkitError where the process that has it is gone."""
    try:
        return getattr(store, verb)(*words)
    except (RuntimeError, torch.distributed.DistError) as error:
        raise LlmkitError(GONE) from error


def kept(store: Any, name: str) -> str | None:
    """What a store has under a name; None where it has nothing."""
    return str(asked(store, "get", name).decode()) if asked(store, "check", [name]) else None


def named(name: str, store: Any) -> Any:
    """A store in which all names begin with one of their own."""
    distributed: Any = torch.distributed
    return distributed.PrefixStore(name, store)


def _not_met(said: str, patience: float) -> str:
    """What is wrong where processes don't come together, by what torch says of it."""
    came = re.search(r"(\d+)/(\d+) clients joined", said)
    place = _place()
    if came is not None:
        return (f"{came[1]} of {came[2]} processes came together at {place} within {patience:g} s "
                "(training.ddp_timeout). Look whether all machines were started with the same address and port, and "
                "what the missing ones say.")
    if "in use" in said:
        return f"{place}: another program listens there; give another port (MASTER_PORT, --main_process_port)."
    return (f"process {os.environ.get('RANK')} on {socket.gethostname()} can't reach the first one at {place} within "
            f"{patience:g} s (training.ddp_timeout). Look whether that is started, whether its name is known here, and "
            "whether a firewall lets the port through.")


def _place() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def where(every: Sequence[dict[str, Any]], rank: int) -> str:
    """`process 1 on node1`, by what all processes say of themselves under `host`."""
    return f"process {rank} on {every[rank]['host']}"


def first(every: Sequence[Any]) -> Any:
    """What the first process says."""
    return every[0]
