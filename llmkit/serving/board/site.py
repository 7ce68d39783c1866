"""The board's application: its page, what it asks for, and the chat of a run that somebody opened."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from llmkit.models import layout
from llmkit.serving.board.children import Children
from llmkit.serving.board.forwarding import forward
from llmkit.serving.board.reading import plain
from llmkit.serving.board.shelf import Shelf
from llmkit.serving.network.bodies import json_body
from llmkit.serving.network.guard import Guard, bare, failed
from llmkit.serving.network.limits import Limits
from llmkit.serving.protocol import ApiError, told
from llmkit.system.errors import LlmkitError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from llmkit.serving.metrics import Metrics

Made = TypeVar("Made")
LOOKED_AT = 3
"""Rows that are drawn at a time."""
MOST_ROW = 10**12
NOTHING = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""What a report may do: show itself, in its own styles."""


def build(shelf: Shelf, children: Children, limits: Limits, metrics: Metrics, hosts: frozenset[str]) -> ASGIApp:
    """The board's application. `hosts`: the names that it may be asked as."""
    site = Site(shelf, children, limits, hosts)

    async def wrong(request: Request, error: Exception) -> Response:
        return failed(told(error))

    async def nowhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        said = {404: f"there is nothing at {path}.", 405: f"{request.method} isn't served here."}
        return failed(ApiError(error.status_code, said.get(error.status_code, error.detail)))

    asked = [
        Route("/runs", site.runs), Route("/run", site.run), Route("/lines", site.lines), Route("/chat", site.chat),
        Route("/rows", site.rows, methods=["POST"]), Route("/predict", site.predict, methods=["POST"]),
        Route("/open", site.open, methods=["POST"]), Route("/close", site.close, methods=["POST"])]
    talking = [Route("/models", site.models), Route("/chat/completions", site.completions, methods=["POST"])]
    pages = files("llmkit.serving")
    inner = Starlette(
        routes=[Mount("/api", routes=asked), Mount("/chat/v1", routes=talking), Route("/report", site.report),
                Mount("/chat", StaticFiles(directory=str(pages / "page"), html=True)),
                Mount("/", StaticFiles(directory=str(pages / "board" / "page"), html=True))],
        exception_handlers={ApiError: wrong, LlmkitError: wrong, HTTPException: nowhere, Exception: wrong})
    return Guard(inner, None, hosts, metrics)


class BoardAnswer(JSONResponse):
    """JSON that can be sent whatever the files of a run hold."""

    def render(self, content: Any) -> bytes:
        """As UTF-8."""
        return super().render(plain(content))


class Site:
    """What the routes share."""

    def __init__(self, shelf: Shelf, children: Children, limits: Limits, hosts: frozenset[str]) -> None:
        self.shelf, self.children, self.limits, self.hosts = shelf, children, limits, hosts

    # ---- looking ----

    async def runs(self, http: Request) -> Response:
        """GET /api/runs?lang=zh: every run in a line."""
        return BoardAnswer(await beside(lambda: self.shelf.listing(spoken(http))))

    async def run(self, http: Request) -> Response:
        """GET /api/run?run=NAME&lang=zh: one run, but for its curves."""
        return BoardAnswer(await beside(lambda: self.shelf.told(named(http), spoken(http))))

    async def lines(self, http: Request) -> Response:
        """GET /api/lines?run=NAME&since=BYTE&file=F: the lines of metrics.jsonl after a byte of that file."""
        since = http.query_params.get("since", "0")
        if not re.fullmatch(r"\d{1,18}", since):
            raise ApiError(400, f"since: {since[:40]!r} is no number of bytes.", param="since")
        file = http.query_params.get("file", "")
        return BoardAnswer(await beside(lambda: self.shelf.lines(named(http), int(since), file)))

    async def report(self, http: Request) -> Response:
        """GET /report?run=NAME&lang=zh: the page of `llmkit report`, made of the run's files as they are."""
        page = await beside(lambda: self.shelf.report(named(http), spoken(http)))
        (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)[:1] or [""]
        known = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        return HTMLResponse(plain(page), headers={"content-security-policy": f"{NOTHING}; style-src 'sha256-{known}'"})

    # ---- what a click asks for ----

    async def rows(self, http: Request) -> Response:
        """POST /api/rows {run, row}: some rows as the model sees them, by `llmkit inspect`."""
        asked = await self._asked(http)
        first = asked.get("row", 0)
        if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first <= MOST_ROW:
            raise ApiError(400, "row: a whole number from 0 is needed.", param="row")
        run = await beside(lambda: self.shelf.run(str(asked.get("run", ""))))
        recipe = str((run.folder / layout.RECIPE).absolute())
        name = str(asked.get("run", ""))
        if not (await beside(lambda: self.shelf.told(name, "en")))["can"]["rows"]:
            raise ApiError(422, f"{recipe}: can't be checked by this version, or names a plug-in of somebody's own, "
                                "whose code isn't run here; llmkit inspect shows its rows.")
        words = [word for row in range(first, first + LOOKED_AT) for word in ("--row", str(row))]
        found = json.loads(await self._inspected(recipe, words, first))
        return BoardAnswer({"rows": found["rows"], "notes": found["notes"], "drawn": [
            {"row": one["row"], "seen": one["seen"], "shown": one["shown"]} for one in found["drawn"]]})

    async def _inspected(self, recipe: str, words: list[str], first: int) -> str:
        """What inspect prints; of the last rows, fewer are there than were asked for."""
        try:
            return await self.children.once(["inspect", recipe, *words, "--json"])
        except ApiError as error:
            there = re.search(r"there are ([\d,]+) rows", error.message)
            count = int(there[1].replace(",", "")) if there else 0
            if not first < count < first + LOOKED_AT:
                raise
        words = [word for row in range(first, count) for word in ("--row", str(row))]
        return await self.children.once(["inspect", recipe, *words, "--json"])

    async def predict(self, http: Request) -> Response:
        """POST /api/predict {run, fields}: what the model says of one row, by `llmkit predict`."""
        asked = await self._asked(http)
        name, fields = str(asked.get("run", "")), asked.get("fields")
        able = (await beside(lambda: self.shelf.told(name, "en")))["can"]
        if able["predict"] is None:
            raise ApiError(422, f"{name}: no row can be predicted by it.", param="run")
        known = {one["name"]: one["lines"] for one in able["predict"]}
        if not isinstance(fields, dict) or set(fields) - set(known) or not all(
                isinstance(value, list if known[field] else str) for field, value in fields.items()):
            raise ApiError(400, f"fields: a text each for some of {', '.join(known)} is needed.", param="fields")
        given = {field: value for field, value in fields.items() if (value if known[field] else value.strip())}
        if lacks := next((one["name"] for one in able["predict"] if one["needed"] and one["name"] not in given), None):
            raise ApiError(400, f"{lacks}: is empty; write something there.", param="fields")
        run = self.shelf.run(name)
        said = await self.children.once(["predict", str(run.folder.absolute()), "-"], json.dumps(given) + "\n")
        return BoardAnswer({"said": json.loads(said.strip().splitlines()[-1])})

    async def open(self, http: Request) -> Response:
        """POST /api/open {run}: open its model to be talked to, at /chat/; another that is open is let go of."""
        asked = await self._asked(http)
        name = str(asked.get("run", ""))
        able = await beside(lambda: self.shelf.told(name, "en"))
        if not able["can"]["chat"]:
            raise ApiError(422, f"{name}: has no model that writes.", param="run")
        await self.children.open(name, str(able["name"]), str(self.shelf.run(name).folder.absolute()))
        return BoardAnswer({"chat": name})

    async def close(self, http: Request) -> Response:
        """POST /api/close {}: let go of the model that is open."""
        await self._asked(http)
        await self.children.close()
        return BoardAnswer({"chat": None})

    async def chat(self, http: Request) -> Response:
        """GET /api/chat: which run's model is open."""
        talk = self.children.talk
        return BoardAnswer({"chat": None if talk is None or not talk.port else talk.run})

    # ---- the chat's own API ----

    async def models(self, http: Request) -> Response:
        """GET /chat/v1/models."""
        return await forward(self.children.at(), "GET", "/v1/models")

    async def completions(self, http: Request) -> Response:
        """POST /chat/v1/chat/completions."""
        self._own(http)
        body = await json_body(http, self.limits)
        return await forward(self.children.at(), "POST", "/v1/chat/completions", body)

    async def _asked(self, http: Request) -> dict[str, Any]:
        """The object that a request of the page's own brings."""
        self._own(http)
        try:
            found = json.loads(await json_body(http, self.limits) or b"{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ApiError(400, "the request's body is no JSON object.")
        return found

    def _own(self, http: Request) -> None:
        """ApiError where a browser says that another site's page asks."""
        origin = http.headers.get("origin")
        if origin is not None and (bare(urlsplit(origin).netloc) not in self.hosts
                                   or urlsplit(origin).netloc.lower() != http.headers.get("host", "").lower()):
            raise ApiError(403, f"a page of {origin[:80]!r} may not ask this of the board.")


def named(http: Request) -> str:
    """The run that a request is about."""
    return http.query_params.get("run", "")


def spoken(http: Request) -> str:
    """The language that the page speaks."""
    return "zh" if http.query_params.get("lang") == "zh" else "en"


async def beside(work: Callable[[], Made]) -> Made:
    """What reads files, beside the event loop."""
    return await asyncio.to_thread(work)
