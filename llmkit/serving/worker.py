"""The thread that all models work in: jobs wait here for a place, and every model takes its turn."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from llmkit.serving.protocol import ApiError, told
from llmkit.serving.window import TextWindow
from llmkit.system import devices
from llmkit.system.errors import LlmkitError, device_full
from llmkit.system.report import log

if TYPE_CHECKING:
    from llmkit.serving.jobs import Job
    from llmkit.serving.metrics import Metrics


class QueueFull(Exception):
    """More waits than may wait."""


class TextEngine(Protocol):
    """What writes a model's texts."""

    @property
    def busy(self) -> bool: ...
    def admit(self, job: Job) -> None: ...
    def turn(self) -> int: ...
    def fail(self, error: Exception) -> None: ...


class Worker:
    """Jobs in, events out. `places` texts are written at once, `queue` more may wait, in the order they came."""

    def __init__(self, engines: Sequence[TextEngine], places: int, queue: int, metrics: Metrics) -> None:
        self.engines, self.places, self.queue, self.metrics = list(engines), places, queue, metrics
        self._waiting: deque[tuple[TextEngine, Job]] = deque()
        self._inside: list[Job] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._deadline = float("inf")
        for engine in self.engines:
            if isinstance(engine, TextWindow):
                engine.meanwhile = self._meanwhile
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, engine: TextEngine, job: Job) -> None:
        """Let a job wait for its places; Full where too many do."""
        with self._changed:
            there = sum(one.count for _, one in self._waiting) + sum(one.left for one in self._inside)
            if self._stopping or there + job.count > self.places + self.queue:
                raise QueueFull
            self._waiting.append((engine, job))
            self._changed.notify()

    def call(self, work: Callable[[], None]) -> None:
        """Let something else be done in the models' thread, between two turns; Full where too much waits."""
        with self._changed:
            if self._stopping or len(self._calls) >= self.queue + 1:
                raise QueueFull
            self._calls.append(work)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Nobody listens to a job any more: what it has is free by the next step."""
        with self._changed:
            job.gone = True
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Take nothing new, let what runs go on for so long, then cut it, and end the thread."""
        with self._changed:
            self._stopping, self._deadline = True, time.monotonic() + seconds
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(seconds)

    @property
    def idle(self) -> bool:
        """Whether nothing is written and nothing waits."""
        with self._changed:
            return not self._waiting and not self._inside and not self._calls

    def _run(self) -> None:
        while self._admit():
            self._round()

    def _meanwhile(self) -> None:
        """The others' turn while a window's texts are being written."""
        if self._admit(sleep=False):
            self._round()

    def _round(self) -> None:
        for engine in self.engines:
            if engine.busy:
                self._turn(engine)
        if self._calls:
            self._calls.popleft()()

    def _admit(self, sleep: bool = True) -> bool:
        """Give places to those who waited longest; sleep while there is nothing to do. False: the end."""
        with self._changed:
            while True:
                self._waiting = deque(pair for pair in self._waiting if not pair[1].gone)
                self._inside = [job for job in self._inside if job.left]
                while self._waiting and self._used() + self._waiting[0][1].count <= self.places:
                    engine, job = self._waiting.popleft()
                    self._inside.append(job)
                    engine.admit(job)
                self.metrics.waiting.set(sum(job.count for _, job in self._waiting))
                self.metrics.writing.set(self._used())
                if self._stopping and (time.monotonic() > self._deadline or not (self._inside or self._waiting)):
                    self._cut()
                    return False
                if not sleep or self._calls or any(engine.busy for engine in self.engines):
                    return True
                self._changed.wait(0.5 if self._stopping else None)

    def _used(self) -> int:
        return sum(job.left for job in self._inside)

    def _cut(self) -> None:
        for engine, job in self._waiting:
            engine.admit(job)
        for engine in self.engines:
            engine.fail(ApiError(503, "the server stops.", kind="server_error"))
        self._waiting.clear()
        while self._calls:
            self._calls.popleft()()

    def _turn(self, engine: TextEngine) -> None:
        try:
            written = engine.turn()
        except Exception as error:  # whatever it was, nobody may wait for ever, and the other models go on
            if device_full(error):
                engine.fail(told(error))
                error.__traceback__ = error.__cause__ = None  # which hold tensors
                devices.release()
                log.warning("a GPU's memory ended: the texts of a model that were being written end with an error")
            elif isinstance(error, LlmkitError):
                engine.fail(error)
            else:
                log.error("%s", traceback.format_exc())
                engine.fail(ApiError(503, "the server made a mistake; its log says which.", kind="server_error"))
            return
        if written:
            self.metrics.batch.observe(written)
