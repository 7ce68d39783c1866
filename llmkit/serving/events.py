"""From what the models' thread tells of a request's texts to an answer, whole or streamed as it is written."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from llmkit.serving.jobs import End, Job, Piece
from llmkit.serving.protocol import ApiError, told, usage
from llmkit.system.errors import LlmkitError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from llmkit.serving.answers import Answer
    from llmkit.serving.metrics import Metrics
    from llmkit.serving.requests import TextRequest
    from llmkit.serving.worker import Worker


class Events:
    """What the models' thread says of a request's texts, in the event loop."""

    def __init__(self, worker: Worker, metrics: Metrics, requests: Sequence[TextRequest]) -> None:
        self.worker, self.metrics, self.requests = worker, metrics, requests
        self.prompt = sum(len(one.ids) for one in requests)
        self.written = 0
        self._left = sum(one.count for one in requests)
        self._since = time.monotonic()
        self._queue: asyncio.Queue[tuple[int, Piece | End]] = asyncio.Queue()
        loop, first = asyncio.get_running_loop(), 0
        self._jobs = []
        for one in requests:
            def hear(number: int, event: Piece | End, first: int = first) -> None:
                loop.call_soon_threadsafe(self._queue.put_nowait, (first + number, event))

            self._jobs.append(Job(one.ids, one.wish, one.seed, one.count, hear))
            first += one.count

    def submit(self) -> None:
        """Let the jobs wait for their places; Full where they can't."""
        for one, job in zip(self.requests, self._jobs, strict=True):
            self.worker.submit(one.model.engine, job)
            self.metrics.read.labels(one.model.name).inc(len(one.ids))

    def leave(self) -> None:
        """Nobody listens any more."""
        for job in self._jobs:
            if job.left:
                self.worker.leave(job)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece | End]]:
        """Each event with the number of its text; ApiError where a text failed."""
        name, metrics, waits = self.requests[0].model.name, self.metrics, True
        while self._left:
            number, event = await self._queue.get()
            if waits:
                metrics.first.labels(name).observe(time.monotonic() - self._since)
                waits = False
            if isinstance(event, End):
                self._left -= 1
                self.written += event.tokens
                metrics.written.labels(name).inc(event.tokens)
                if event.reason == "error":
                    raise told(event.error or RuntimeError())
            yield number, event


async def collected(events: Events, answer: Answer) -> dict[str, Any]:
    """The whole answer."""
    async for number, event in events:
        answer.hear(number, event)
    return {**answer.whole(), "usage": usage(events.prompt, events.written)}


async def server_sent(events: Events, answer: Answer, with_usage: bool) -> AsyncIterator[str]:
    """The answer as it is written, in server-sent events."""
    more = {"usage": None} if with_usage else {}
    try:
        for chunk in answer.begin():
            yield _event({**chunk, **more})
        async for number, event in events:
            for chunk in answer.chunks(number, event):
                yield _event({**chunk, **more})
        if with_usage:
            last = answer.begin() or answer.chunks(0, End("stop", 0))
            yield _event({**last[0], "choices": [], "usage": usage(events.prompt, events.written)})
        yield "data: [DONE]\n\n"
    except (ApiError, LlmkitError) as error:
        yield _event(told(error).body())


class Stream(StreamingResponse):
    """Server-sent events, whose places are free once nobody reads them, wherever that finds the stream."""

    def __init__(self, events: Events, chunks: AsyncIterator[str]) -> None:
        super().__init__(chunks, media_type="text/event-stream",
                         headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.events.leave()


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """What the work gives; None where the client went away first, and then the work is ended."""
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
