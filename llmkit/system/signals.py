"""SIGTERM, SIGINT and SIGHUP end a run in order: at once while it is set up, after a checkpoint once it trains."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from llmkit.system import terminal
from llmkit.system.errors import Stopped

if TYPE_CHECKING:
    import asyncio

STATUS = {signal.Signals[name]: status for name, status in (("SIGTERM", 75), ("SIGINT", 130), ("SIGHUP", 75))
          if name in signal.Signals.__members__}
"""The signals that end a run, and its exit status then; SIGHUP comes when a terminal is closed, but not on Windows."""
PATIENCE = 3.0
"""Seconds that the program has to end by itself where a signal ends it at once; a long call into a library doesn't."""
HANGS = 60.0
"""Seconds that the processes of a run have to agree on a signal; where one is gone, the others would wait for it."""
STEPS = 3.0
"""How many of its slowest steps a run has at least."""
SAME = 0.5
"""Seconds in which a repeated signal is the same one: schedulers send theirs to a launcher and to its children too."""
GOES_ON = "The same command goes on from the last checkpoint"
"""What is said where processes were killed."""


class Stopping:
    """Whether, and by which signal, the run was asked to stop; `when` is said of one that ends it at once."""

    def __init__(self, when: str = " before the first step") -> None:
        self.when = when
        self.by: signal.Signals | None = None
        self.at_once = True
        """While nothing is there to be saved, a signal ends the program where it is."""
        self.since = 0.0
        self.over = threading.Event()
        self.agreed = threading.Event()
        """Set once all processes know of the signal: what is left is to save."""
        self.within: float | None = None
        """Seconds that they have for that; None where there is only one."""
        self.leave: Callable[[int, str], None] = lambda status, said: None
        """Is told the status and the reason where the program is ended in the middle of a call."""

    def error(self, message: str, by: int) -> Stopped:
        """What ends the program, with the exit status of the signal."""
        return Stopped(message, STATUS[signal.Signals(by)])

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal is noted, the second ends the program."""
        leave_terminal()
        first = self.by is None or (self.by == number and time.monotonic() - self.since < SAME)
        if self.by is None:
            self.by, self.since = signal.Signals(number), time.monotonic()
        if self.at_once or not first:
            raise self.error(self.said(number, first), number)

    def said(self, number: int, first: bool) -> str:
        """What the last line says of it."""
        return f"stopped by {signal.Signals(number).name}" + (self.when if first else " at once")

    def flags(self) -> list[float]:
        """1 for the signal that came, 0 for the others: what processes sum up, for `heard`."""
        return [float(self.by is number) for number in STATUS]

    def train(self, together: bool = False) -> None:
        """From here on the first signal is only noted. Stopped, if one came that some library swallowed.

        together   whether several processes train, and must agree on it
        """
        if self.by is not None:
            raise self.error(self.said(self.by, first=True), self.by)
        self.at_once, self.within = False, HANGS if together else None

    def paced(self, seconds: float) -> None:
        """A step took so long: several processes have the time of some steps to agree on a signal."""
        if self.within is not None:
            self.within = max(self.within, STEPS * seconds)

    def watch(self, signals: socket.socket) -> None:
        """End the program where its main thread doesn't: Python's handlers wait until a call into a library returns."""
        first: tuple[int, float] | None = None
        while True:
            signals.settimeout(None if first is None or self.within is None else 1.0)
            try:
                number = signals.recv(1)[0]
            except TimeoutError:
                assert first is not None
                if self.hangs(first[1]):
                    self.quit(first[0], f"stopped by {signal.Signals(first[0]).name} at once, for the other processes "
                              f"didn't answer for {self.within:g} s; the same command goes on from the last checkpoint")
                continue
            if number == 0:
                return
            if number not in STATUS:
                continue
            now = time.monotonic()
            again = first is not None and (number != first[0] or now - first[1] >= SAME)
            first = first or (number, now)
            if (self.at_once or again) and not self.over.wait(PATIENCE):
                self.quit(number, self.said(number, not again))

    def hangs(self, since: float) -> bool:
        """Whether the processes had a signal for too long, and didn't agree on it."""
        return self.within is not None and not self.agreed.is_set() and time.monotonic() - since > self.within

    def quit(self, number: int, said: str) -> None:
        """End the program in the middle of a call, with the exit status of a signal."""
        status = STATUS[signal.Signals(number)]
        self.leave(status, said)
        if os.environ.get("RANK", "0") == "0":
            with suppress(OSError):  # the terminal is gone
                terminal.err(f"llmkit: error: {said}")
        os._exit(status)


def killer(number: int) -> str:
    """`SIGKILL, as a machine does that is out of memory` of 9; `SIGSEGV` of 11."""
    name = signal.Signals(number).name
    return f"{name}, as a machine does that is out of memory" if name == "SIGKILL" else name


def heard(flags: Sequence[float]) -> signal.Signals | None:
    """The signal that any of the processes got, by the sum of their flags."""
    return next((number for number, flag in zip(STATUS, flags, strict=True) if flag), None)


def listened() -> list[signal.Signals]:
    """The signals that end a run here: `nohup` has SIGHUP ignored."""
    return [number for number in STATUS
            if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN]


def tell(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Let an event loop do something at each SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, act)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(act))


def leave_terminal() -> None:
    """Let nothing be said to a terminal that was closed: writing to it fails."""
    for output in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output)
                os.close(nowhere)


@contextmanager
def stopping(when: str = " before the first step") -> Iterator[Stopping]:
    """Listen while the block runs; in a thread other than the main one, there is nothing to listen to."""
    state = Stopping(when)
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    old = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, state) for number in listened()}
    watcher = threading.Thread(target=state.watch, args=(ear,), daemon=True)
    watcher.start()
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old)
        state.over.set()
        mouth.setblocking(True)
        mouth.send(b"\0")  # no number of a signal; workers that were forked may keep the socket open
        watcher.join()
        mouth.close()
        ear.close()


def deaf(worker: int = 0) -> None:
    """For a process that a run forks: signals are the run's affair, and with the run it ends.

    A group of its own keeps a terminal's or a launcher's signals from it.
    """
    signal.set_wakeup_fd(-1)
    if sys.platform != "win32":  # there, a worker isn't forked
        os.setpgid(0, 0)
    end_with_parent()


def end_quietly() -> None:
    """A signal ends this process without a word: it is forked, and the run's handler isn't its own."""
    for number in STATUS:
        signal.signal(number, signal.SIG_DFL)


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that ends; only Linux can."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
