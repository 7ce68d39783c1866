"""A log that nobody can fill: what comes again and again is told once, then how often it came."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from llmkit.system.report import log

EVERY = 60.0
"""Seconds between two lines about the same thing."""
KINDS = 256
"""Different things that are told apart; the others count as one."""
LOGGERS = ("llmkit", "uvicorn.error", "asyncio")
"""Who tells of what clients do."""


class Often(logging.Filter):
    """Lets the first of all alike warnings and errors through, and tells each minute how many more there were."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        """How often each came since it was told last."""
        self.told: dict[str, float] = {}

    def count(self, what: str) -> None:
        """Something that `tell` is to tell of."""
        self.counts[self._kind(what)] = self.counts.get(self._kind(what), 0) + 1

    def tell(self, now: float) -> None:
        """A line for each thing that came, and wasn't told within the last minute."""
        for what in [one for one in self.counts if now - self.told.get(one, -EVERY) >= EVERY]:
            self.told[what] = now
            _plain(f"{what} (so many: {self.counts.pop(what):,})")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is told: it is no warning, or there was none like it within the last minute."""
        if record.levelno < logging.WARNING or getattr(record, "counted", False):
            return True
        error = record.exc_info[1] if record.exc_info else None
        what = record.getMessage().strip().splitlines() or [""]
        said = f"{what[0] if len(what) == 1 else f'{what[0]} … {what[-1]}'}"[:200]
        kind = self._kind(said if error is None else f"{said}: {type(error).__name__}: {error}"[:300])
        now = time.monotonic()
        if now - self.told.get(kind, -EVERY) >= EVERY and kind not in self.counts:
            self.told[kind] = now
            return True
        self.count(kind)
        return False

    def _kind(self, what: str) -> str:
        known = what in self.told or what in self.counts or len(self.told) + len(self.counts) < KINDS
        return what if known else "other warnings and errors"


def _plain(message: str) -> None:
    log.warning("%s", message, extra={"counted": True})


@contextmanager
def listening() -> Iterator[Often]:
    """While the block runs, loggers go through one filter."""
    often = Often()
    for name in LOGGERS:
        logging.getLogger(name).addFilter(often)
    try:
        yield often
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(often)
