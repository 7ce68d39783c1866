"""The body of a request: JSON of a limited size, within a limited time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from llmkit.serving.protocol import ApiError

if TYPE_CHECKING:
    from llmkit.serving.network.limits import Limits

FAR = 64
"""A body that says it is so many times the limit is refused before any of it comes."""


async def json_body(http: Request, limits: Limits) -> bytes:
    """A request's JSON, of a limited size; ApiError where it is something else, too much, or too slow."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a foreign page can send without asking first is no JSON
        raise ApiError(415, f"Content-Type must be application/json, not {kind or 'nothing'}.")
    body, limit, seconds = bytearray(), limits.body_bytes, limits.body_seconds
    large = ApiError(413, f"the request has more than the {limit:,} bytes that this server takes.",
                     headers={"Connection": "close"})
    length = http.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > FAR * limit):
        raise large  # a little too much is read first: who still sends when it is closed sees no answer
    try:
        async with asyncio.timeout(seconds):
            async for chunk in http.stream():
                body += chunk
                if len(body) > limit:
                    raise large
    except TimeoutError:
        raise ApiError(408, f"the request's body took more than {seconds:g} s to come.",
                       headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ApiError(400, "the client left before its request was whole.") from None
    return bytes(body)
