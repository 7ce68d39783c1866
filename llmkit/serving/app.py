"""The server's application: who may ask, what every answer has, and which route answers."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from llmkit.serving.api import Api
from llmkit.serving.protocol import ApiError
from llmkit.serving.requests import Limits
from llmkit.serving.served import Served
from llmkit.serving.worker import Worker

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
                given = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *given]}
                self.metrics.requests.labels(label, str(message["status"])).inc()
            await send(message)

        error = self._refused(Request(scope), path)
        if error is None:
            await self.app(scope, receive, answer)
        else:
            await _failed(error)(scope, receive, answer)
        if label.startswith("/v1/"):
            self.metrics.whole.labels(label).observe(time.monotonic() - since)

    def _refused(self, request: Request, path: str) -> ApiError | None:
        host = request.headers.get("host", "")
        if self.hosts is not None and bare(host) not in self.hosts:
            # DNS rebinding: a foreign page whose name points at this machine would be taken for this server's own.
            return ApiError(403, f"this server is asked as {' or '.join(sorted(self.hosts))}, not as {host!r}.")
        if self.key is not None and (path.startswith("/v1") or path == "/metrics"):
            given = request.headers.get("authorization", "")
            scheme, _, key = given.partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.key.encode()):
                return ApiError(
                    401, "the API key is missing or wrong: send it as `Authorization: Bearer KEY`.",
                    kind="authentication_error", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None


def bare(host: str) -> str:
    """A Host header without its port: `[::1]:8000` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")


def _failed(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


def build(
    served: Mapping[str, Served], worker: Worker, limits: Limits, metrics: Metrics, key: str | None,
    hosts: frozenset[str] | None,
) -> ASGIApp:
    """The server's application. `hosts`: the names that it may be asked as; None: any."""
    api = Api(served, worker, limits, metrics)

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _failed(error)

    async def nowhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        if status in (404, 405):  # where no route fits, the page's files were asked
            status = 405 if request.url.path in PATHS[1:] else 404
        said = {404: f"there is nothing at {request.url.path}.", 405: f"{request.method} isn't served here."}
        return _failed(ApiError(status, said.get(status, error.detail)))

    api_routes = [  # mounted, so that another method is told so and doesn't look for a file of the page
        Route("/models", api.models), Route("/models/{name:path}", api.models),
        Route("/chat/completions", api.chat, methods=["POST"]), Route("/completions", api.complete, methods=["POST"]),
        Route("/embeddings", api.embed, methods=["POST"])]
    routes = [Mount("/v1", routes=api_routes), Route("/health", api.health), Route("/metrics", api.figures)]
    page = files("llmkit.serving") / "page"
    if page.is_dir():
        routes.append(Mount("/", StaticFiles(directory=str(page), html=True)))
    inner = Starlette(routes=routes, exception_handlers={ApiError: wrong, HTTPException: nowhere})
    return Guard(inner, key, hosts, metrics)
