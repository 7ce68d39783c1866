"""What is asked of the model that is open goes to its own process, and its answer comes back as it is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

import h11
from starlette.responses import Response, StreamingResponse

from llmkit.serving.protocol import ApiError

if TYPE_CHECKING:
    from llmkit.serving.board.children import Talk

PIECE = 1 << 16
GONE = ApiError(502, "the model's process broke off; open it again on the board.", kind="server_error", code="no_model")


async def forward(talk: Talk, method: str, path: str, body: bytes = b"") -> Response:
    """The answer of a model's process to a request; ApiError where it doesn't answer any more."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", talk.port)
    except OSError as error:
        raise GONE from error
    talk.used = time.monotonic()
    talk.open_questions += 1
    events = _events(reader, writer, talk, method, path, body)
    try:
        head = await anext(events)
    except (StopAsyncIteration, OSError, h11.ProtocolError) as error:
        await events.aclose()
        raise GONE from error
    assert isinstance(head, h11.Response)
    kind = dict(head.headers).get(b"content-type", b"application/json").decode("latin-1")
    return StreamingResponse(_pieces(events), head.status_code, media_type=None, headers={"content-type": kind})


async def _pieces(events: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async for event in events:
        if isinstance(event, h11.Data):
            yield bytes(event.data)


async def _events(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, talk: Talk, method: str, path: str, body: bytes,
) -> AsyncGenerator[Any, None]:
    """The answer's head and its pieces; whoever leaves ends the connection, and the model frees its place."""
    line = h11.Connection(h11.CLIENT)
    try:
        writer.write(line.send(h11.Request(method=method, target=path, headers=[
            ("Host", "127.0.0.1"), ("Content-Type", "application/json"), ("Content-Length", str(len(body))),
            ("Connection", "close")])) or b"")
        writer.write(line.send(h11.Data(data=body)) or b"")
        writer.write(line.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        while True:
            event = line.next_event()
            if event is h11.NEED_DATA:
                line.receive_data(await reader.read(PIECE))
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return
            else:
                yield event
    finally:
        talk.open_questions -= 1
        talk.used = time.monotonic()
        writer.close()
