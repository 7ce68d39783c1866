"""Whether other programs work on the cores of a run: then its threads wait for each other, step by step."""

from __future__ import annotations

import logging
import time
from types import TracebackType

import torch

log = logging.getLogger("llmkit")

SECONDS, SHARE = 5.0, 0.6
"""How long steps are looked at, and of that time the least share in which their own thread has a core.

That thread computes all the while, and while it waits for the others it looks for them again and again; on a machine
of its own it has a core for nearly all of the time. Time asleep is that of a core lost, or of threads that are late.
"""


class Crowding:
    """Looks at the first seconds of steps on a CPU, without their wait for data, and says at most one sentence.

    The first step isn't looked at: it allocates, and reads weights from disk.
    """

    def __init__(self, on: bool) -> None:
        self.on, self.steps = on and torch.get_num_threads() > 1, 0
        self.wall = self.own = 0.0
        """Seconds of the steps, and those in which their thread had a core."""
        self.began = (0.0, 0.0)

    def __enter__(self) -> None:
        if self.on:
            self.began = (time.monotonic(), time.thread_time())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        if not self.on:
            return
        self.steps += 1
        if self.steps > 1:
            self.add(time.monotonic() - self.began[0], time.thread_time() - self.began[1])

    def add(self, wall: float, own: float) -> None:
        """The seconds of a step; once enough is known, it is said and never looked at again."""
        self.wall, self.own = self.wall + wall, self.own + own
        if self.wall < SECONDS:
            return
        self.on = False
        if self.own < SHARE * self.wall:
            log.warning("steps of %.1f s had a core for only %.1f s of that: other programs work on the same cores, "
                        "and %d threads wait for each other; fewer may be faster: OMP_NUM_THREADS=1", self.wall,
                        self.own, torch.get_num_threads())
