"""Connections: how many there may be, and how long each may take to say what it wants and to take what it is told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from llmkit.serving.protocol import ApiError

if TYPE_CHECKING:
    from llmkit.serving.network.limits import Limits
    from llmkit.serving.network.often import Often

BACKLOG = 32
"""Connections that asyncio takes at once; each has a descriptor before it is counted."""
SPARE = 2 * BACKLOG + 32
"""Descriptors for these, for those that are being closed, and for files."""
FEWEST = 8


def most(wanted: int) -> int:
    """Of the connections that are wanted, as many as this process has descriptors for."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(FEWEST, min(wanted, soft - len(os.listdir("/dev/fd")) - SPARE))


class Connections:
    """The connections of a server: where there are too many, those go that have asked nothing yet."""

    def __init__(self, most: int, limits: Limits, often: Often) -> None:
        self.most, self.limits, self.often = most, limits, often
        self.open: set[Line] = set()

    def has_room(self, line: Line) -> bool:
        """Count a connection; where it is one too many, hang up another that can be spared. False: there is none."""
        if len(self.open) >= self.most:
            spared = self._spared()
            if spared is None:
                self.often.count(f"connections refused: {self.most} clients are being answered already")
                return False
            self.often.count(f"connections closed before they had asked anything: there are more than {self.most}")
            self.open.discard(spared)
            spared.hang_up()
        self.open.add(line)
        return True

    def _spared(self) -> Line | None:
        """Who has waited longest without a whole request; else who has long taken nothing of the answer."""
        waiting = [line for line in self.open if line.waits]
        unsaid = waiting or [line for line in self.open if line.cycle.more_body]
        return min(unsaid or [line for line in self.open if line.stalled is not None],
                   key=lambda line: line.since, default=None)

    def check(self, now: float) -> None:
        """Hang up on those that took too long, and tell of it."""
        limits = self.limits
        for line in list(self.open):
            if line.waits and now - line.since > limits.head_seconds:
                self.often.count(f"connections closed that took more than {limits.head_seconds:g} s to ask")
                line.hang_up()
            elif line.stalled is not None and now - line.stalled > limits.unread_seconds:
                self.often.count(f"connections closed that took nothing for {limits.unread_seconds:g} s of what they "
                                 "had asked for")
                line.hang_up()
        self.often.tell(now)

    async def watch(self) -> None:
        """Check now and then, until it is cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.head_seconds / 4))
            self.check(time.monotonic())


class Line(H11Protocol):
    """A connection that knows since when it waits, and says what is wrong in the API's own form."""

    def __init__(self, lines: Connections, **given: Any) -> None:
        super().__init__(**given)
        self.lines = lines
        self.since = time.monotonic()
        """When it was made, or had its last answer."""
        self.stalled: float | None = None
        """Since when the client has taken nothing of what is there for it."""

    @property
    def waits(self) -> bool:
        """Whether there is no whole head of a request that is still to be answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.lines.has_room(self):
            self._say(ApiError(429, "too many clients are being answered; try again soon.", kind="rate_limit_error",
                               code="rate_limit_exceeded", headers={"Retry-After": "1"}))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lines.open.discard(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self.stalled = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stalled = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._say(ApiError(400, "this is no HTTP request that can be understood."))

    def hang_up(self) -> None:
        """End it; who has begun a request is told why."""
        begun = self.waits and self.stalled is None and bool(self.conn.trailing_data[0])
        if begun and self.conn.our_state is h11.IDLE:
            self._say(ApiError(408, "the request took too long to come."))
        else:
            self.transport.abort()

    def _say(self, error: ApiError) -> None:
        """An error that comes before any request is understood, and the end."""
        body = json.dumps(error.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close",
                   **error.headers}
        said = [h11.Response(status_code=error.status, headers=list(headers.items()),
                             reason=STATUS_PHRASES[error.status]),
                h11.Data(data=body), h11.EndOfMessage()]
        for event in said:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
