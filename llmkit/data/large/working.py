"""Several processes that do one thing to many tasks, and give the results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Literal, TypeVar

from llmkit.system.errors import RequestError
from llmkit.system.machine import cores
from llmkit.system.signals import deaf, end_quietly

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 2
"""Tasks that each process has at once: one that it does, and one that waits for it."""
FORKS = sys.platform == "linux"
"""Whether a process can be copied as it is; elsewhere each would import the libraries anew, for seconds."""
WORTH = 8_000_000
"""Bytes of text from which on several processes are faster than one, their start included."""
QUIET = "TOKENIZERS_PARALLELISM"
"""Said before a fork, so that tokenizers doesn't warn of threads that it had: a copy has none."""


def several(asked: int | Literal["auto"], text: int) -> int:
    """How many processes share the work on so many bytes of text; 1 where none can be made of this one."""
    if not FORKS or multiprocessing.current_process().daemon:
        return 1
    return asked if asked != "auto" else cores() if text >= WORTH else 1


def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], processes: int, option: str = "data.num_proc",
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order of the tasks, whichever of the processes did it.

    work        what is done; it must give the same whatever was done before. Each process has a copy of it
    processes   1: in this one
    option      what of a request says how many, for an error

    At most twice as many tasks as processes are held. What `work` raises is raised here. RequestError where a process
    was killed, as by a system that has no memory left.
    """
    if processes < 2:
        yield from ((task, work(task)) for task in tasks)
        return
    with _forked(work, processes, option) as hands:
        waiting = deque[tuple[Task, _Hand[Task, Result]]]()
        for task, hand in zip(tasks, cycle(hands)):
            if len(waiting) == AHEAD * processes:  # the oldest is this one's
                first, by = waiting.popleft()
                yield first, by.result()
            hand.take(task)
            waiting.append((task, hand))
        for task, hand in waiting:
            yield task, hand.result()


class _Hand(Generic[Task, Result]):
    """One of the processes, as the one that forked it sees it."""

    def __init__(self, work: Callable[[Task], Result], others: list[Connection], processes: int, option: str) -> None:
        context: Any = multiprocessing.get_context("fork")  # Windows has none, and no other way is used there
        self.ours, theirs = context.Pipe()
        self.processes, self.option = processes, option
        self.process = context.Process(target=_serve, args=(work, theirs, [*others, self.ours]), daemon=True)
        self.process.start()
        theirs.close()

    def take(self, task: Task) -> None:
        """Give it something to do."""
        try:
            self.ours.send(task)
        except OSError as error:
            raise self._gone() from error

    def result(self) -> Result:
        """What came of the oldest of its tasks."""
        try:
            done, result = self.ours.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if not done:
            raise result
        found: Result = result
        return found

    def end(self) -> None:
        """Let it go; it has nothing that must be kept."""
        self.ours.close()
        self.process.terminate()
        self.process.join()

    def _gone(self) -> RequestError:
        self.process.join(1)
        return RequestError(f"{self.option}: one of {self.processes} processes was ended by the system (status "
                            f"{self.process.exitcode}), as where no memory is left; ask for fewer: {self.option} 1 "
                            "works in this process alone.")


@contextmanager
def _forked(work: Callable[[Task], Result], processes: int, option: str) -> Iterator[list[_Hand[Task, Result]]]:
    """Copies of this process; they end with the block, and with this process however that ends."""
    hands: list[_Hand[Task, Result]] = []
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "false"
    try:
        for _ in range(processes):
            hands.append(_Hand(work, [hand.ours for hand in hands], processes, option))
    finally:
        os.environ.pop(QUIET) if before is None else os.environ.update({QUIET: before})
    try:
        yield hands
    finally:
        for hand in hands:
            hand.end()


def _serve(work: Callable[[Any], Any], mine: Connection, others: list[Connection]) -> None:
    """What a forked process does until nobody asks any more."""
    deaf()
    end_quietly()
    for other in others:
        other.close()
    asked: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_listen, args=(mine, asked), daemon=True).start()  # so that nobody waits for a full pipe
    while (given := asked.get()) is not None:
        try:
            answer = True, work(given[0])
        except Exception as error:  # it is raised where it was asked for
            answer = False, error
        try:
            mine.send(answer)
        except OSError:
            return
        except Exception as error:  # what can't be sent is said
            mine.send((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _listen(mine: Connection, asked: SimpleQueue[Any]) -> None:
    while True:
        try:
            asked.put((mine.recv(),))
        except (EOFError, OSError):
            asked.put(None)
            return
