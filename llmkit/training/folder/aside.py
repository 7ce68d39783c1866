"""The checkpoint that is written while the run goes on, in a thread: one at a time; what goes wrong the loop raises."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("llmkit")

PATIENCE = 60.0
"""Seconds that a run which fails waits for the checkpoint that is on its way."""


class Aside:
    """At most one checkpoint that is on its way; the next begins once somebody has heard how this one ended.

    aside.start(500, write)  ->  steps go on  ->  aside.end()
    """

    def __init__(self) -> None:
        self.step = 0
        """The step that it is of."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether there is one whose end nobody has heard yet, be it there or not."""
        return self._thread is not None

    @property
    def over(self) -> bool:
        """Whether that one is there, or went wrong."""
        return self._thread is not None and not self._thread.is_alive()

    def start(self, step: int, work: Callable[[], None]) -> None:
        """Begin to write the checkpoint of a step; the end of the one before must have been heard."""
        if self._thread is not None:
            raise RuntimeError(f"nobody heard how the checkpoint after step {self.step} ended")

        def do() -> None:
            try:
                work()
            except BaseException as error:  # `end` raises it
                self._error = error

        self.step = step
        self._thread = threading.Thread(target=do, name=f"step-{step}", daemon=True)
        self._thread.start()

    def end(self, seconds: float | None = None) -> None:
        """Wait until it is there, and raise what went wrong; TimeoutError where it takes more than so many seconds."""
        if self._thread is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"it isn't whole after {seconds:g} s")
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error

    def leave(self) -> None:
        """Where the run fails: let it be written if it can be; what made the run fail is told, and this beside it."""
        try:
            self.end(PATIENCE)
        except Exception as error:
            log.warning("the checkpoint after step %d isn't there: %s", self.step, " ".join(str(error).split()))
