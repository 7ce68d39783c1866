"""The routes of the API: a request is checked, becomes jobs, and their events become an answer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmkit.serving.answers import Answer, ChatAnswer, CompletionAnswer
from llmkit.serving.events import Events, Stream, collected, server_sent, unless_gone
from llmkit.serving.jobs import NOT_FINITE
from llmkit.serving.network.bodies import json_body
from llmkit.serving.network.guard import knows
from llmkit.serving.protocol import ApiError, ChatRequest, CompletionRequest, EmbeddingRequest, SearchRequest, parse
from llmkit.serving.requests import Limits, TextRequest, looked_for, of_chat, of_completion, to_embed
from llmkit.serving.served import EmbeddingModel, Served, WritingModel, find
from llmkit.serving.worker import QueueFull, Worker
from llmkit.system.errors import NumberError
from llmkit.system.report import log

if TYPE_CHECKING:
    from llmkit.inference.search import Searcher
    from llmkit.serving.metrics import Metrics

AT_ONCE = 32
"""Texts that are embedded between two steps of those that are written."""
UNREADABLE = (ValueError, ArithmeticError, LookupError, TypeError, RecursionError, MemoryError)
"""What a tokenizer, a template or a prompt mode may end with that was given something which nobody thought of."""


class Api:
    """What the routes share."""

    def __init__(
        self, served: Mapping[str, Served], worker: Worker, limits: Limits, metrics: Metrics, key: str | None = None,
        searcher: Searcher | None = None,
    ) -> None:
        self.searcher = searcher
        self.served, self.worker, self.limits, self.metrics, self.key = served, worker, limits, metrics, key
        self.reader = ThreadPoolExecutor(1, "reader")  # long prompts are split into tokens beside the event loop

    async def models(self, http: Request) -> Response:
        """GET /v1/models and /v1/models/NAME."""
        told = {one.name: {
            "id": one.name, "object": "model", "created": one.since, "owned_by": "llmkit", "kind": one.kind,
            **({"chinese": one.chinese} if isinstance(one, WritingModel) else {}),
            **({"parent": one.base} if one.base else {})} for one in self.served.values()}
        name = http.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": list(told.values())})
        if name not in told:
            raise self._unknown(str(find(self.served, name, "text")))
        return JSONResponse(told[name])

    async def health(self, http: Request) -> Response:
        """GET /health; which models there are is told to those alone who may ask them."""
        models = {"models": list(self.served)} if knows(http, self.key) else {}
        return JSONResponse({"status": "ready", **models})

    async def figures(self, http: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def chat(self, http: Request) -> Response:
        """POST /v1/chat/completions."""
        request = parse(ChatRequest, await json_body(http, self.limits))
        request.refuse()
        model = self._model(request.model, "text")
        text = await self._read(lambda: of_chat(model, request, self.limits, self.searcher))
        answer = ChatAnswer(model.name, text, request.names)
        return await self._answer(http, [text], answer, request.stream, _with_usage(request))

    async def complete(self, http: Request) -> Response:
        """POST /v1/completions."""
        request = parse(CompletionRequest, await json_body(http, self.limits))
        request.refuse()
        model = self._model(request.model, "text")
        most, count = self.limits.places + self.limits.queue, len(request.prompts) * (request.n or 1)
        if count > most:  # before any is read: a small body can hold 100,000
            raise ApiError(400, f"prompt: {count} texts are more than the {most} that this server takes at a time.",
                           param="prompt")
        texts = await self._read(lambda: [
            of_completion(model, request, prompt, self.limits) for prompt in request.prompts])
        answer = CompletionAnswer(model.name, texts, request)
        return await self._answer(http, texts, answer, request.stream, _with_usage(request))

    async def search(self, http: Request) -> Response:
        """POST /v1/search: the passages of the server's files that are closest to a query, or to several."""
        request = parse(SearchRequest, await json_body(http, self.limits))
        searcher = self.searcher
        if searcher is None:
            raise ApiError(404, "this server searches no files; start it with llmkit serve … --in FOLDER.")
        found = await self._read(lambda: looked_for(searcher, request))
        data = [{"query": query, "results": [hit.as_json() for hit in hits]}
                for query, hits in zip(request.queries, found, strict=True)]
        return JSONResponse({"object": "list", "data": data})

    async def embed(self, http: Request) -> Response:
        """POST /v1/embeddings."""
        request = parse(EmbeddingRequest, await json_body(http, self.limits))
        model = self._model(request.model, "embedding")
        if request.dimensions not in (None, model.embedder.width):
            raise ApiError(400, f"dimensions: {model.name} gives vectors of {model.embedder.width} numbers, no others.",
                           param="dimensions")
        ids = await self._read(lambda: to_embed(model, request.texts))
        tokens = sum(map(len, ids))
        vectors = []
        for start in range(0, len(ids), AT_ONCE):
            vectors += list(await self._embedded(model, ids[start : start + AT_ONCE]))
        self.metrics.read.labels(model.name).inc(tokens)
        data = [{"object": "embedding", "index": i, "embedding": vector.tolist() if request.encoding_format == "float"
                 else base64.b64encode(vector.astype("<f4").tobytes()).decode()} for i, vector in enumerate(vectors)]
        return JSONResponse({"object": "list", "model": model.name, "data": data,
                             "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    async def _embedded(self, model: EmbeddingModel, ids: Sequence[list[int]]) -> Any:
        """The vectors (texts, width) of some texts by their ids, computed in the models' thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def tell(what: Callable[[Any], None], value: Any) -> None:
            if not future.done():  # the client may have gone
                what(value)

        def work() -> None:
            try:
                if not future.done():
                    loop.call_soon_threadsafe(tell, future.set_result, finite(model.embedder.vectors(ids)))
            except Exception as error:  # it is the request's to say, and the thread goes on
                loop.call_soon_threadsafe(tell, future.set_exception, error)

        try:
            self.worker.call(work)
        except QueueFull:
            raise self._busy() from None
        return await future

    async def _answer(
        self, http: Request, texts: Sequence[TextRequest], answer: Answer, stream: bool, with_usage: bool
    ) -> Response:
        events = Events(self.worker, self.metrics, texts)
        try:
            events.submit()
        except QueueFull:
            events.leave()
            raise self._busy() from None
        if stream:
            return Stream(events, server_sent(events, answer, with_usage))
        try:
            done = await unless_gone(http, collected(events, answer))
        finally:
            events.leave()
        return Response(status_code=499) if done is None else JSONResponse(done)

    def _busy(self) -> ApiError:
        return ApiError(
            429, f"{self.limits.places} texts are being written and {self.limits.queue} wait; try again soon.",
            kind="rate_limit_error", code="rate_limit_exceeded", headers={"Retry-After": "1"})

    def _model(self, name: str | None, kind: str) -> Any:
        found = find(self.served, name, kind)
        if isinstance(found, str):
            raise self._unknown(found)
        return found

    def _unknown(self, message: str) -> ApiError:
        return ApiError(404, message, param="model", code="model_not_found")

    async def _read(self, work: Callable[[], Any]) -> Any:
        """What `work` makes of a request, beside the event loop; ApiError where it makes nothing of it."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.reader, work)
        except UNREADABLE as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            log.warning("a request couldn't be read: %s", said, exc_info=True)
            raise ApiError(400, f"the request can't be read: {said}.") from error


def finite(vectors: Any) -> Any:
    """Vectors (texts, width); NumberError where there is something else than numbers in them."""
    import numpy as np

    if not np.isfinite(vectors).all():
        raise NumberError(NOT_FINITE)
    return vectors


def _with_usage(request: ChatRequest | CompletionRequest) -> bool:
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream true.", param="stream_options")
    return request.stream_options is not None and request.stream_options.include_usage
