"""The API over HTTP: a request is checked, becomes a job, and its events become an answer or a stream."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from llmkit.inference.writing.completion import Scored
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.sampling import Choosing
from llmkit.serving import modes, tools
from llmkit.serving.jobs import End, Job, Piece, Wish
from llmkit.serving.protocol import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    NamedTool,
    identifier,
    now,
    parse,
    usage,
)
from llmkit.serving.served import Embedding, Served, Writing, find
from llmkit.serving.worker import Full, Worker
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

AT_ONCE = 32
"""Texts that are embedded between two steps of those that are written."""
NAMES = {"num_return_sequences": "n", "max_new_tokens": "max_tokens"}
"""What the API calls options that have another name here."""


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    places: int = 16
    """Texts written at once."""
    queue: int = 32
    """Texts that may wait; more are answered with 429."""
    new_tokens: int = 1024
    """Tokens of a text."""
    prompt_tokens: int | None = None
    """Tokens of a prompt; none: what the model's context takes."""
    body_bytes: int = 4 << 20
    """Bytes of a request."""


# --- from a request to a job ---

@dataclass(frozen=True)
class Asked:
    """A prompt, read, and how its texts are to be written."""

    model: Writing
    ids: list[int]
    wish: Wish
    seed: int
    count: int
    begun: str = ""
    """What every text begins with: it was put in the model's mouth."""
    notes: tuple[str, ...] = ()
    """What was left out of the prompt."""


class Api:
    """What the routes share."""

    def __init__(self, served: Mapping[str, Served], worker: Worker, limits: Limits, metrics: Metrics) -> None:
        self.served, self.worker, self.limits, self.metrics = served, worker, limits, metrics
        self.reader = ThreadPoolExecutor(1, "reader")  # long prompts are split into tokens beside the event loop

    async def models(self, request: Request) -> Response:
        """GET /v1/models and /v1/models/NAME."""
        told = {one.name: {
            "id": one.name, "object": "model", "created": one.since, "owned_by": "llmkit", "kind": one.kind,
            **({"parent": one.base} if one.base else {})} for one in self.served.values()}
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": list(told.values())})
        if name not in told:
            raise self._unknown(str(find(self.served, name, "text")))
        return JSONResponse(told[name])

    async def health(self, request: Request) -> Response:
        """GET /health."""
        return JSONResponse({"status": "ready", "models": list(self.served)})

    async def figures(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = parse(ChatRequest, await self._body(request))
        asked.refuse()
        model = self._model(asked.model, "text")
        job = await self._read(lambda: self._chat(model, asked))
        told = _Chat(model.name, job, asked.names)
        return await self._answer(request, [job], told, asked.stream, _with_usage(asked))

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked = parse(CompletionRequest, await self._body(request))
        asked.refuse()
        model = self._model(asked.model, "text")
        jobs = await self._read(lambda: [self._completion(model, asked, prompt) for prompt in asked.prompts])
        most, count = self.limits.places + self.limits.queue, sum(job.count for job in jobs)
        if count > most:
            raise ApiError(400, f"prompt: {count} texts are more than the {most} that this server takes at a time.",
                           param="prompt")
        told = _Completion(model.name, jobs, asked)
        return await self._answer(request, jobs, told, asked.stream, _with_usage(asked))

    async def embed(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        asked = parse(EmbeddingRequest, await self._body(request))
        model = self._model(asked.model, "embedding")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if asked.dimensions not in (None, model.embedder.width):
            raise ApiError(400, f"dimensions: {model.name} gives vectors of {model.embedder.width} numbers, no others.",
                           param="dimensions")
        tokens = await self._read(lambda: _counted(model, texts))
        vectors = []
        for start in range(0, len(texts), AT_ONCE):
            vectors += list(await self._embedded(model, texts[start : start + AT_ONCE]))
        self.metrics.read.labels(model.name).inc(tokens)
        data = [{"object": "embedding", "index": i, "embedding": vector.tolist() if asked.encoding_format == "float"
                 else base64.b64encode(vector.astype("<f4").tobytes()).decode()} for i, vector in enumerate(vectors)]
        return JSONResponse({"object": "list", "model": model.name, "data": data,
                             "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    async def _embedded(self, model: Embedding, texts: Sequence[str]) -> Any:
        """The vectors (texts, width) of some texts, computed in the models' thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def tell(what: Callable[[Any], None], value: Any) -> None:
            if not future.done():  # the client may have gone
                what(value)

        def work() -> None:
            try:
                if not future.done():
                    loop.call_soon_threadsafe(tell, future.set_result, model.embedder.embed(texts))
            except Exception as error:  # it is the request's to say, and the thread goes on
                loop.call_soon_threadsafe(tell, future.set_exception, error)

        try:
            self.worker.call(work)
        except Full:
            raise self._busy() from None
        return await future

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

    async def _body(self, request: Request) -> bytes:
        """A request's JSON, of a limited size."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a foreign page can send without asking first is no JSON
            raise ApiError(415, f"Content-Type must be application/json, not {kind or 'nothing'}.")
        body, limit = b"", self.limits.body_bytes
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise ApiError(413, f"the request has more than the {limit:,} bytes that this server takes.")
        return body

    async def _read(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.reader, work)
        except RequestError as error:
            message = str(error)
            for ours, theirs in NAMES.items():
                message = message.replace(ours, theirs)
            name = message.partition(":")[0]
            raise ApiError(400, message, param=name if name.isidentifier() else None) from error

    def _chat(self, model: Writing, asked: ChatRequest) -> Asked:
        """A conversation's ids, through the model's template."""
        writer = model.writer
        messages = [message.plain() for message in asked.messages]
        offered = [tool.model_dump() for tool in asked.tools or []] if asked.names else []
        most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        begun = ""
        notes: list[str] = []
        if asked.prompting is not None:
            if offered:
                raise RequestError("prompting: goes with no tools; leave one of them out.")
            given, notes = modes.put(writer, asked.prompting, messages, Options(most or self.limits.new_tokens))
            ids = writer.ids(given, raw=isinstance(given, str))
        elif writer.chats:
            knows = tools.known(writer.opened.tokenizer)
            ids = writer.ids(messages if knows else tools.written_out(messages, offered),
                             tools=offered if knows and offered else None)
            if offered:
                choice = asked.tool_choice
                begun = tools.beginning(choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto")
                ids += writer.opened.tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else []
        elif offered or any(message["role"] == "tool" for message in messages):
            raise RequestError(f"tools: {model.name} has no chat template, so it can't be told of tools.")
        else:  # it goes on with what was said, a line a message
            ids = writer.ids("\n".join(message["content"] for message in messages))
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        return self._asked(model, asked, ids, most, logprobs, begun, notes)

    def _completion(self, model: Writing, asked: CompletionRequest, prompt: str | list[int]) -> Asked:
        """A text's ids as it stands."""
        if isinstance(prompt, str):
            ids = model.writer.ids(prompt, raw=True)
        else:
            size = len(model.writer.opened.tokenizer)
            wrong = next((one for one in prompt if not 0 <= one < size), None)
            if wrong is not None or not prompt:
                raise RequestError(f"prompt: {'it is empty' if wrong is None else f'{wrong} is no token'}; "
                                   f"{model.name} has the tokens 0 to {size - 1:,}.")
            ids = list(prompt)
        return self._asked(model, asked, ids, asked.max_tokens, asked.logprobs)

    def _asked(
        self, model: Writing, asked: ChatRequest | CompletionRequest, ids: list[int], most: int | None,
        logprobs: int | None, begun: str = "", notes: Sequence[str] = (),
    ) -> Asked:
        limits, count = self.limits, asked.n or 1
        if count > limits.places:
            raise RequestError(f"n: {count} is more than the {limits.places} texts that this server writes at once.")
        if most is not None and most > limits.new_tokens:
            raise RequestError(f"max_tokens: {most:,} is more than the {limits.new_tokens:,} that this server writes "
                               "(--max-new-tokens).")
        if limits.prompt_tokens is not None and len(ids) > limits.prompt_tokens:
            raise RequestError(f"the prompt's {len(ids):,} tokens are {len(ids) - limits.prompt_tokens:,} more than "
                               f"the {limits.prompt_tokens:,} that this server takes (--max-prompt-tokens).")
        room, _ = model.writer.room(len(ids), limits.new_tokens if most is None else most)
        chance = ("temperature", "top_p", "top_k", "min_p")
        given = {name: getattr(asked, name) for name in (*chance, "repetition_penalty", "seed")}
        if asked.temperature == 0:  # clients send both
            given |= dict.fromkeys(chance[1:])
        options = Options(
            max_new_tokens=room, num_return_sequences=count, stop=asked.stops, logprobs=logprobs, **given)
        config, ends, stop = model.writer.settings(options)
        wish = Wish(options, Choosing.of(config), frozenset(ends), stop)
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        return Asked(model, ids, wish, seed, count, begun, tuple(notes))

    # --- from events to an answer ---

    async def _answer(
        self, request: Request, asked: Sequence[Asked], told: _Told, stream: bool, with_usage: bool
    ) -> Response:
        events = Events(self, asked)
        try:
            events.submit()
        except Full:
            events.leave()
            raise self._busy() from None
        if stream:
            return _Stream(events, _server_sent(events, told, with_usage))
        try:
            done = await _unless_gone(request, _collected(events, told))
        finally:
            events.leave()
        return Response(status_code=499) if done is None else JSONResponse(done)


class Events:
    """What the models' thread says of a request's texts, in the event loop."""

    def __init__(self, api: Api, asked: Sequence[Asked]) -> None:
        self.api, self.asked = api, asked
        self.prompt = sum(len(one.ids) for one in asked)
        self.written = 0
        self._left = sum(one.count for one in asked)
        self._since = time.monotonic()
        self._queue: asyncio.Queue[tuple[int, Piece | End]] = asyncio.Queue()
        loop, first = asyncio.get_running_loop(), 0
        self._jobs = []
        for one in asked:
            def hear(number: int, event: Piece | End, first: int = first) -> None:
                loop.call_soon_threadsafe(self._queue.put_nowait, (first + number, event))

            self._jobs.append(Job(one.ids, one.wish, one.seed, one.count, hear))
            first += one.count

    def submit(self) -> None:
        """Let the jobs wait for their places; Full where they can't."""
        for one, job in zip(self.asked, self._jobs, strict=True):
            self.api.worker.submit(one.model.engine, job)
            self.api.metrics.read.labels(one.model.name).inc(len(one.ids))

    def leave(self) -> None:
        """Nobody listens any more."""
        for job in self._jobs:
            if job.left:
                self.api.worker.leave(job)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece | End]]:
        """Each event with the number of its text; ApiError where a text failed."""
        name, metrics, waits = self.asked[0].model.name, self.api.metrics, True
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
                    raise ApiError(503, event.error, kind="server_error")
            yield number, event


class _Told:
    """How a kind of answer is told: in chunks, and as a whole."""

    kind: str
    """What its identifier begins with."""

    def __init__(self, name: str, texts: int) -> None:
        self.name, self.id, self.created = name, identifier(self.kind), now()
        self.texts = ["" for _ in range(texts)]
        self.reasons: list[str] = [""] * texts
        self.chosen: list[list[Scored]] = [[] for _ in range(texts)]

    def frame(self, object_: str, choices: list[Any]) -> dict[str, Any]:
        """What surrounds choices."""
        return {"id": self.id, "object": object_, "created": self.created, "model": self.name, "choices": choices}

    def begin(self) -> list[dict[str, Any]]:
        """Chunks before the first token."""
        return []

    def chunks(self, number: int, event: Piece | End) -> list[dict[str, Any]]:
        """Chunks that tell of an event."""
        raise NotImplementedError

    def hear(self, number: int, event: Piece | End) -> None:
        """Keep an event for the whole."""
        if isinstance(event, End):
            self.reasons[number] = event.reason
            return
        self.texts[number] += event.text
        if event.chosen:
            self.chosen[number].append(event.chosen)

    def whole(self) -> dict[str, Any]:
        """The answer, all events heard."""
        raise NotImplementedError


class _Chat(_Told):
    """chat.completion, and its chunks."""

    kind = "chatcmpl"

    def __init__(self, name: str, asked: Asked, names: Sequence[str]) -> None:
        super().__init__(name, asked.count)
        self.names = names
        self.notes = {"notes": list(asked.notes)} if asked.notes else {}
        self.asks = asked.wish.options.logprobs is not None
        self.holding = [tools.Holding() for _ in range(asked.count)] if names else []
        self.texts = [asked.begun] * asked.count
        for holding in self.holding:
            holding.add(asked.begun)

    def begin(self) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": ""}
        return [{**self._chunk(number, role), **self.notes} for number in range(len(self.texts))]

    def chunks(self, number: int, event: Piece | End) -> list[dict[str, Any]]:
        if isinstance(event, Piece):
            text = self.holding[number].add(event.text) if self.holding else event.text
            logprobs = [self._logprob(event.chosen)] if event.chosen else []
            return [self._chunk(number, {"content": text}, logprobs=logprobs)] if text or logprobs else []
        rest, found = tools.calls(self.holding[number].held, self.names) if self.holding else ("", [])
        out = [self._chunk(number, {"content": rest})] if rest else []
        for i, call in enumerate(found):
            out.append(self._chunk(number, {"tool_calls": [{"index": i, **_call(call)}]}))
        return [*out, self._chunk(number, {}, "tool_calls" if found else event.reason)]

    def whole(self) -> dict[str, Any]:
        choices = []
        for number, text in enumerate(self.texts):
            said, found = tools.calls(text, self.names) if self.names else (text, [])
            message: dict[str, Any] = {"role": "assistant", "content": said if said or not found else None}
            if found:
                message["tool_calls"] = [_call(call) for call in found]
            choices.append({
                "index": number, "message": message, "finish_reason": "tool_calls" if found else self.reasons[number],
                "logprobs": {"content": [self._logprob(one) for one in self.chosen[number]]} if self.asks else None})
        return {**self.frame("chat.completion", choices), **self.notes}

    def _chunk(
        self, number: int, delta: dict[str, Any], reason: str | None = None, logprobs: Sequence[Any] = ()
    ) -> dict[str, Any]:
        return self.frame("chat.completion.chunk", [{
            "index": number, "delta": delta, "finish_reason": reason,
            "logprobs": {"content": list(logprobs)} if logprobs else None}])

    def _logprob(self, chosen: Scored) -> dict[str, Any]:
        return {**_token(chosen.token, chosen.logprob), "top_logprobs": [_token(*one) for one in chosen.likeliest]}


class _Completion(_Told):
    """text_completion, whose chunks have the same form."""

    kind = "cmpl"

    def __init__(self, name: str, asked: Sequence[Asked], request: CompletionRequest) -> None:
        super().__init__(name, sum(one.count for one in asked))
        self.asks = request.logprobs is not None
        if request.echo:
            tokenizer = asked[0].model.writer.opened.tokenizer
            prompts = [one if isinstance(one, str) else str(tokenizer.decode(one)) for one in request.prompts]
            self.texts = [prompt for prompt, one in zip(prompts, asked, strict=True) for _ in range(one.count)]
        self.offsets = [len(text) for text in self.texts]

    def begin(self) -> list[dict[str, Any]]:
        return [self._choice(number, text, None) for number, text in enumerate(self.texts) if text]

    def chunks(self, number: int, event: Piece | End) -> list[dict[str, Any]]:
        if isinstance(event, End):
            return [self._choice(number, "", event.reason)]
        logprobs = self._logprobs(number, [event.chosen]) if event.chosen else None
        return [self._choice(number, event.text, None, logprobs)] if event.text or logprobs else []

    def whole(self) -> dict[str, Any]:
        return self.frame("text_completion", [
            self._one(number, text, self.reasons[number],
                      self._logprobs(number, self.chosen[number]) if self.asks else None)
            for number, text in enumerate(self.texts)])

    def _choice(self, number: int, text: str, reason: str | None, logprobs: Any = None) -> dict[str, Any]:
        return self.frame("text_completion", [self._one(number, text, reason, logprobs)])

    def _one(self, number: int, text: str, reason: str | None, logprobs: Any) -> dict[str, Any]:
        return {"index": number, "text": text, "finish_reason": reason, "logprobs": logprobs}

    def _logprobs(self, number: int, chosen: Sequence[Scored]) -> dict[str, Any]:
        offsets = []
        for one in chosen:
            offsets.append(self.offsets[number])
            self.offsets[number] += len(one.token)
        return {
            "tokens": [one.token for one in chosen], "token_logprobs": [one.logprob for one in chosen],
            "text_offset": offsets, "top_logprobs": [dict(one.likeliest) for one in chosen]}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _counted(model: Embedding, texts: Sequence[str]) -> int:
    """Tokens of texts to be embedded; RequestError where one is empty or too long."""
    total, most = 0, model.embedder.max_length
    for i, text in enumerate(texts):
        (ids,), cut = model.embedder.ids([text])
        if cut or not ids or not text:
            raise RequestError(f"input: text {i + 1} of {len(texts)} "
                               + (f"has more than the {most} tokens that {model.name} reads; split it." if cut else
                                  "is empty."))
        total += len(ids)
    return total


def _call(call: tools.Call) -> dict[str, Any]:
    return {"id": identifier("call"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _with_usage(asked: ChatRequest | CompletionRequest) -> bool:
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options needs stream true.", param="stream_options")
    return asked.stream_options is not None and asked.stream_options.include_usage


async def _collected(events: Events, told: _Told) -> dict[str, Any]:
    """The whole answer."""
    async for number, event in events:
        told.hear(number, event)
    return {**told.whole(), "usage": usage(events.prompt, events.written)}


async def _server_sent(events: Events, told: _Told, with_usage: bool) -> AsyncIterator[str]:
    """The answer as it is written, in server-sent events."""
    more = {"usage": None} if with_usage else {}
    try:
        for chunk in told.begin():
            yield _event({**chunk, **more})
        async for number, event in events:
            for chunk in told.chunks(number, event):
                yield _event({**chunk, **more})
        if with_usage:
            last = told.begin() or told.chunks(0, End("stop", 0))
            yield _event({**last[0], "choices": [], "usage": usage(events.prompt, events.written)})
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())


class _Stream(StreamingResponse):
    """Server-sent events, whose places are free once nobody reads them, wherever that finds the stream."""

    def __init__(self, events: Events, told: AsyncIterator[str]) -> None:
        super().__init__(told, media_type="text/event-stream",
                         headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.events.leave()


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
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


# --- who may ask ---

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

    asked = [  # mounted, so that another method is told so and doesn't look for a file of the page
        Route("/models", api.models), Route("/models/{name:path}", api.models),
        Route("/chat/completions", api.chat, methods=["POST"]), Route("/completions", api.complete, methods=["POST"]),
        Route("/embeddings", api.embed, methods=["POST"])]
    routes = [Mount("/v1", routes=asked), Route("/health", api.health), Route("/metrics", api.figures)]
    page = files("llmkit.serving") / "page"
    if page.is_dir():
        routes.append(Mount("/", StaticFiles(directory=str(page), html=True)))
    inner = Starlette(routes=routes, exception_handlers={ApiError: wrong, HTTPException: nowhere})
    return Guard(inner, key, hosts, metrics)
