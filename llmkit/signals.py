"""SIGTERM and SIGINT end a run in order: at once while it is set up, after a checkpoint once it trains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llmkit.errors import Stopped

STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}


class Stopping:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self.at_once = True
        """While nothing is there to be saved, a signal ends the program where it is."""

    def error(self, message: str, by: int) -> Stopped:
        """What ends the program, with the exit status of the signal."""
        return Stopped(message, STATUS[signal.Signals(by)])

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal is noted, the second ends the program."""
        first, self.by = self.by is None, signal.Signals(number)
        if self.at_once or not first:
            raise self.error(f"stopped by {self.by.name}" + (" before the first step" if first else " at once"), number)


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Listen while the block runs; in a thread other than the main one, there is nothing to listen to."""
    state = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = {number: signal.signal(number, state) for number in STATUS}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
