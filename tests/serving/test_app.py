"""The application without a network: every error is told by one handler, in one form."""

import asyncio
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from llmkit.serving.api import Api, finite
from llmkit.serving.app import build
from llmkit.serving.jobs import NOT_FINITE, End, Job, Piece, Wish
from llmkit.serving.metrics import Metrics
from llmkit.serving.protocol import ApiError, CompletionRequest, told, too_long
from llmkit.serving.requests import Limits
from llmkit.serving.window import TextWindow
from llmkit.serving.worker import Worker
from llmkit.system.errors import CheckpointError, DataError, LlmkitError, NumberError, PlaceError, RequestError

JSON = {"content-type": "application/json", "host": "localhost"}


def ask(app, path, body=b"", method="POST", chunks=None, headers=JSON):
    """(status, JSON) of what an application answers to a body, which comes whole or in chunks with pauses."""
    sent = []
    parts = [(body, 0.0)] if chunks is None else list(chunks)

    async def receive():
        if not parts:
            await asyncio.sleep(60)
        piece, pause = parts.pop(0)
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": piece, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    async def all_of_it():
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                 "root_path": "", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
        await app(scope, receive, send)

    try:
        asyncio.run(all_of_it())
    except RuntimeError:
        assert sent, "nothing was answered"
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(answer) if answer else None


def application(limits=None, key=None, served=None):
    metrics = Metrics()
    return build(served or {}, Worker([], 1, 1, metrics), limits or Limits(), metrics, key, frozenset({"localhost"}))


@pytest.mark.parametrize(("error", "status", "message", "param"), [
    (RequestError("top_p: 2 must be at most 1."), 400, "top_p: 2 must be at most 1.", "top_p"),
    (RequestError("max_new_tokens: 0 must be 1 or more."), 400, "max_tokens: 0 must be 1 or more.", "max_tokens"),
    (RequestError("num_return_sequences: ask for one."), 400, "n: ask for one.", "n"),
    (DataError("the examples: there are 2, and k is 4."), 400, "the examples: there are 2, and k is 4.", None),
    (NumberError(NOT_FINITE), 422, "the model's numbers stopped being finite.", None),
    (CheckpointError("x: is damaged."), 400, "x: is damaged.", "x"), (PlaceError("full."), 400, "full.", None),
    (LlmkitError("another."), 400, "another.", None),
    (too_long("too long.", "input"), 400, "too long.", "input"),
    (ApiError(429, "try again."), 429, "try again.", None),
    (RuntimeError("a secret"), 500, "the server made a mistake; its log says which.", None)])
def test_each_error_has_one_form(monkeypatch, error, status, message, param):
    async def fails(self, http):
        raise error

    monkeypatch.setattr(Api, "complete", fails)
    found, body = ask(application(), "/v1/completions", b"{}")
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["message"], body["error"]["param"]) == (message, param)


@pytest.mark.parametrize("error", [
    RecursionError("deep"), ValueError("9" * 5000), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"),
    OverflowError("large"), KeyError("role"), TypeError("a list"), MemoryError(), ZeroDivisionError("by zero")])
def test_what_a_request_makes_the_reading_end_with_is_the_requests(error, caplog):
    def work():
        raise error

    made = Api({}, Worker([], 1, 1, Metrics()), Limits(), Metrics())
    with pytest.raises(ApiError) as said:
        asyncio.run(made._read(work))
    assert said.value.status == 400
    assert said.value.message.startswith(f"the request can't be read: {type(error).__name__}")
    assert len(said.value.message) < 350
    assert "a request couldn't be read" in caplog.text


def test_an_error_of_ours_in_the_reading_is_left_to_the_handler():
    def work():
        raise RequestError("seed: is no number.")

    made = Api({}, Worker([], 1, 1, Metrics()), Limits(), Metrics())
    with pytest.raises(RequestError, match="seed: is no number"):
        asyncio.run(made._read(work))
    assert told(RequestError("seed: is no number.")).param == "seed"
    assert told(RequestError("two words: no field.")).param is None


def test_a_body_is_bounded_in_bytes_and_in_time():
    app = application(Limits(body_bytes=10, body_seconds=0.2))
    assert ask(app, "/v1/completions", b" " * 11)[0] == 413
    status, body = ask(app, "/v1/completions", chunks=[(b"{", 0.0), (b"}", 5.0)])
    assert (status, body["error"]["message"]) == (408, "the request's body took more than 0.2 s to come.")
    assert ask(app, "/v1/completions", chunks=[(b"1", 0.05)] * 30)[0] == 408
    in_time = ask(app, "/v1/completions", chunks=[(b"{", 0.0), (b"}", 0.01)])
    assert in_time[1]["error"]["message"] == "prompt is missing."


@pytest.mark.parametrize(("path", "method", "status", "said"), [
    ("/v1/nothing", "POST", 404, "there is nothing at /v1/nothing."),
    ("/nope", "GET", 404, "there is nothing at /nope."),
    ("/v1/completions", "GET", 405, "GET isn't served here."), ("/health", "DELETE", 405, "DELETE isn't served here."),
    ("/" + "a" * 300, "GET", 404, "there is nothing at"), ("/\x00", "GET", 404, "there is nothing at")])
def test_a_place_where_nothing_is_says_so(path, method, status, said):
    found, body = ask(application(), path, method=method)
    assert (found, body["error"]["message"].startswith(said)) == (status, True)


@pytest.mark.parametrize(("key", "given", "models"), [
    (None, None, ["a"]), ("k", None, None), ("k", "Bearer x", None), ("k", "Bearer k", ["a"])])
def test_health_names_models_to_those_who_may_ask_them(key, given, models):
    served = {"a": SimpleNamespace(name="a")}
    headers = {**JSON, **({} if given is None else {"authorization": given})}
    status, body = ask(application(key=key, served=served), "/health", method="GET", headers=headers)
    assert (status, body) == (200, {"status": "ready", **({} if models is None else {"models": models})})


def test_vectors_that_are_no_numbers_are_an_error():
    whole = np.array([[1.0, 2.0]], dtype=np.float32)
    assert finite(whole) is whole
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(NumberError, match="stopped being finite"):
            finite(np.array([[1.0, wrong]]))


def test_embeddings_of_a_broken_model_are_422_and_not_json_that_is_none(monkeypatch):
    async def both():
        loop_worker = Worker([], 1, 1, Metrics())
        loop_worker.start()
        made = Api({}, loop_worker, Limits(), Metrics())
        model = SimpleNamespace(embedder=SimpleNamespace(vectors=lambda ids: np.full((len(ids), 2), np.nan)))
        try:
            with pytest.raises(NumberError):
                await made._embedded(model, [[1], [2]])
            model.embedder.vectors = lambda ids: np.ones((len(ids), 2))
            assert (await made._embedded(model, [[1], [2]])).tolist() == [[1, 1], [1, 1]]
        finally:
            loop_worker.stop(0)

    asyncio.run(both())


def test_a_text_of_a_window_whose_numbers_are_none_ends_with_an_error():
    """T5 and its kin, which transformers' generate writes."""
    def completion(score):
        return SimpleNamespace(text="abc", tokens=3, finish_reason="length", score=score, logprobs=None)

    class Scripted:
        def write(self, prompts, options, **more):
            return [[completion(math.nan)], [completion(-1.5)], [completion(None)]]

    heard = {}
    window = TextWindow(Scripted())
    wish = Wish(SimpleNamespace(seed=None), None, frozenset())
    for name in "abc":
        def hear(number, event, name=name):
            heard.setdefault(name, []).append(event)

        window.admit(Job([1], wish, 0, 1, hear))
    assert window.turn() == 3
    broken, fine, empty = (heard[name][-1] for name in "abc")
    assert broken.reason == "error"
    assert isinstance(broken.error, NumberError)
    assert fine == End("length", 3)
    assert empty == End("length", 3)
    assert not any(isinstance(event, Piece) for event in heard["a"])


def test_an_engine_that_breaks_ends_its_texts_and_says_what_broke(caplog):
    def engine(error):
        class Broken:
            busy = True
            said = []

            def admit(self, job):
                pass

            def turn(self):
                self.busy = False
                raise error

            def fail(self, error):
                self.said.append(error)

        return Broken()

    for error, status, message in ((NumberError(NOT_FINITE), 422, NOT_FINITE),
                                   (RequestError("a: b."), 400, "a: b."),
                                   (KeyError("x"), 503, "the server made a mistake; its log says which.")):
        one = engine(error)
        Worker([one], 1, 1, Metrics())._turn(one)
        (found,) = one.said[-1:]
        assert (told(found).status, told(found).message) == (status, message)
    assert "KeyError" in caplog.text


def test_a_request_without_a_prompt_is_told_by_its_field():
    with pytest.raises(ApiError, match="prompt: there is none"):
        CompletionRequest(prompt=[]).refuse()
