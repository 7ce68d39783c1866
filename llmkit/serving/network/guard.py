"""Who may ask: a name that the server has, a key, and headers that keep a browser from more."""

from __future__ import annotations

import hmac
import re
import time
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmkit.serving.protocol import ApiError
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llmkit.serving.metrics import Metrics

CONTENT_SECURITY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "font-src 'self'",
    "connect-src 'self'", "manifest-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
HEADERS = {
    "content-security-policy": CONTENT_SECURITY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin"}
"""On every answer: a browser takes scripts, styles and data for the page from this server alone."""
PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")
LONGEST_KEY = 4096
"""Characters: proxies and clients take headers of 8 kB or more."""
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]*))(?::\d{0,5})?", re.ASCII)


class Guard:
    """What every request passes: its host, its key; and what every answer has: headers, a line in the figures."""

    def __init__(self, app: ASGIApp, key: str | None, hosts: frozenset[str] | None, metrics: Metrics) -> None:
        self.app, self.key, self.hosts, self.metrics = app, key, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        since, path = time.monotonic(), scope["path"]
        label = path if path in PATHS else "other"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}  # a page whose styles stand in it has its own policy
                given = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
                message = {**message, "headers": [*message["headers"], *given]}
                self.metrics.requests.labels(label, str(message["status"])).inc()
            await send(message)

        error = self._refused(Request(scope), path)
        if error is None:
            await self.app(scope, receive, answer)
        else:
            await failed(error)(scope, receive, answer)
        if label.startswith("/v1/"):
            self.metrics.whole.labels(label).observe(time.monotonic() - since)

    def _refused(self, request: Request, path: str) -> ApiError | None:
        host = request.headers.get("host", "")
        name = bare(host)
        if name is None:
            return ApiError(400, f"Host: {host[:80]!r} is no name of a server.")
        if self.hosts is not None and name not in self.hosts:
            # DNS rebinding: a foreign page whose name points at this machine would be taken for this server's own.
            return ApiError(403, f"this server is asked as {' or '.join(sorted(self.hosts))}, not as {host!r}.")
        if (path.startswith("/v1") or path == "/metrics") and not knows(request, self.key):
            return ApiError(
                401, "the API key is missing or wrong: send it as `Authorization: Bearer KEY`.",
                kind="authentication_error", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None


def knows(request: Request, key: str | None) -> bool:
    """Whether a request brings the key, or none is needed."""
    if key is None:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


def check_key(key: str | None) -> None:
    """RequestError where no client could send a key in a header: clients differ in what else they let through."""
    if key is None:
        return
    if not key.strip():
        raise RequestError("--api-key: is empty; leave it out, or give a key.")
    if key != key.strip():
        raise RequestError("--api-key: begins or ends with a space or a line's end, which no client can send; take it "
                           "away (a key read from a file: $(cat FILE)).")
    if odd := next((one for one in key if not " " <= one <= "~"), None):
        raise RequestError(f"--api-key: holds {odd!r}, which clients can't send in a header; use letters a-z, digits "
                           "and marks of ASCII.")
    if len(key) > LONGEST_KEY:
        raise RequestError(f"--api-key: has {len(key):,} characters; clients can send {LONGEST_KEY:,} at most.")


def bare(host: str) -> str | None:
    """A Host header without its port: `[::1]:8000` is `::1`; None where it is no name of a machine."""
    found = HOST.fullmatch(host)
    return None if found is None else (found[1] or found[2] or "").lower()


def failed(error: ApiError) -> Response:
    """An error as it is answered."""
    return JSONResponse(error.body(), error.status, error.headers)
