"""The server's application: which route answers, and how every error is told."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from llmkit.serving.api import Api
from llmkit.serving.network.guard import PATHS, Guard, failed
from llmkit.serving.network.limits import Limits
from llmkit.serving.protocol import ApiError, told
from llmkit.serving.served import Served
from llmkit.serving.worker import Worker
from llmkit.system.errors import LlmkitError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from llmkit.inference.search import Searcher
    from llmkit.serving.metrics import Metrics

def build(
    served: Mapping[str, Served], worker: Worker, limits: Limits, metrics: Metrics, key: str | None,
    hosts: frozenset[str] | None, searcher: Searcher | None = None,
) -> ASGIApp:
    """The server's application. `hosts`: the names that it may be asked as; None: any. `searcher`: of its files."""
    api = Api(served, worker, limits, metrics, key, searcher)

    async def wrong(request: Request, error: Exception) -> Response:
        return failed(told(error))

    async def nowhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status, path = error.status_code, request.scope["path"]
        if status in (404, 405):  # where no route fits, the page's files were asked
            status = 405 if path in PATHS[1:] else 404
        said = {404: f"there is nothing at {path}.", 405: f"{request.method} isn't served here."}
        return failed(ApiError(status, said.get(status, error.detail)))

    api_routes = [  # mounted, so that another method is told so and doesn't look for a file of the page
        Route("/models", api.models), Route("/models/{name:path}", api.models),
        Route("/chat/completions", api.chat, methods=["POST"]), Route("/completions", api.complete, methods=["POST"]),
        Route("/embeddings", api.embed, methods=["POST"]), Route("/search", api.search, methods=["POST"])]
    routes = [Mount("/v1", routes=api_routes), Route("/health", api.health), Route("/metrics", api.figures)]
    page = files("llmkit.serving") / "page"
    if page.is_dir():
        routes.append(Mount("/", StaticFiles(directory=str(page), html=True)))
    inner = Starlette(routes=routes, exception_handlers={
        ApiError: wrong, LlmkitError: wrong, HTTPException: nowhere, Exception: wrong})
    return Guard(inner, key, hosts, metrics)
