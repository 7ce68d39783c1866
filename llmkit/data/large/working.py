"""Several processes that do one thing to many tasks, and give the results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
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
HELD = 4
"""Tasks for each process whose results are waited for, or wait for those before them."""
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

    Whoever is free gets the next one. At most HELD times as many tasks as processes are held. What `work`, or who gives
    the tasks, raises is raised here, after the results before it. RequestError where a process was killed, as by a
    system that has no memory left.
    """
    if processes < 2:
        yield from ((task, work(task)) for task in tasks)
        return
    with _forked(work, processes, option) as hands:
        yield from _shared(iter(tasks), hands)


def _shared(tasks: Iterator[Task], hands: Sequence[_Hand[Task, Result]]) -> Iterator[tuple[Task, Result]]:
    given, answers = deque[Task](), dict[int, tuple[bool, Any]]()
    first, more, fault = 0, True, None
    while more or given:
        free = min(hands, key=lambda hand: len(hand.tasks))
        if more and len(free.tasks) < AHEAD and len(given) < HELD * len(hands):
            try:
                task = next(tasks)
            except StopIteration:
                more = False
            except Exception as error:  # it is raised behind what came before
                more, fault = False, error
            else:
                free.take(first + len(given), task)
                given.append(task)
        elif first in answers:
            done, result = answers.pop(first)
            if not done:
                raise result
            yield given.popleft(), result
            first += 1
        else:
            busy: dict[Any, _Hand[Task, Result]] = {hand.ours: hand for hand in hands if hand.tasks}
            answers.update(busy[connection].answer() for connection in wait(list(busy)))
    if fault is not None:
        raise fault


class _Hand(Generic[Task, Result]):
    """One of the processes, as the one that forked it sees it."""

    def __init__(self, work: Callable[[Task], Result], others: list[Connection], processes: int, option: str) -> None:
        context: Any = multiprocessing.get_context("fork")  # Windows has none, and no other way is used there
        self.ours, theirs = context.Pipe()
        self.processes, self.option = processes, option
        self.tasks = deque[int]()
        """The numbers of what it has to do."""
        self.process = context.Process(target=_serve, args=(work, theirs, [*others, self.ours]), daemon=True)
        self.process.start()
        theirs.close()

    def take(self, number: int, task: Task) -> None:
        """Give it something to do."""
        self.tasks.append(number)
        try:
            self.ours.send(task)
        except OSError as error:
            raise self._gone() from error

    def answer(self) -> tuple[int, tuple[bool, Any]]:
        """The number of the oldest of its tasks, whether it was done, and what came of it, or what went wrong."""
        try:
            return self.tasks.popleft(), self.ours.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error

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
