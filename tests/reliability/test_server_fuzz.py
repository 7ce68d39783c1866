"""`llmkit serve` under requests that no client sends: each is answered below 500, and the server goes on answering."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from served import GREETING, Server

pytestmark = pytest.mark.reliability
quick = pytest.mark.quick
KEY = "sk-CANARY"
CHAT: dict[str, Any] = {"model": "chatty", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
COMPLETE: dict[str, Any] = {"model": "endless", "prompt": "the", "max_tokens": 4}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


@pytest.fixture(scope="module")
def api(chatty: Path, endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, small limits, and a name for each of two models."""
    said = tmp_path_factory.mktemp("fuzzed") / "said.log"
    with Server([str(chatty), str(endless), "--max-concurrent", "4", "--queue", "4", "--max-new-tokens", "64"], said,
                LLMKIT_API_KEY=KEY) as one:
        one.key = KEY
        yield one
        assert one.stop() == 0, said.read_text()
        assert "Traceback" not in said.read_text()
        assert KEY not in said.read_text()


def spoken(api: Server, raw: bytes, *, half: bool = False, seconds: float = 60) -> bytes:
    """What the server says to some bytes; b"" where it hangs up."""
    where = urlsplit(api.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=seconds) as line:
        try:
            line.sendall(raw)
            if half:
                with suppress(OSError):  # the server has hung up already
                    line.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := line.recv(1 << 16):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer


def request(body: bytes, path: str = PATHS[0], method: str = "POST", key: str = KEY, **headers: str) -> bytes:
    """A request as it goes over the line; the server hangs up after its answer."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Authorization": f"Bearer {key}",
              "Content-Length": str(len(body)), "Connection": "close",
              **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def well(api: Server) -> None:
    """The server still answers what it should."""
    answer = api.client.chat.completions.create(model="chatty", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == GREETING
    assert api.child.poll() is None


def below_500(api: Server, raw: bytes, **how: Any) -> int:
    answer = spoken(api, raw, **how)
    found = status(answer)
    assert found < 500, (raw[:500], answer[:500])
    assert b"Traceback" not in answer
    if found >= 400 and b"application/json" in answer.lower():
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(error["message"]) < 2000
    return found


BODIES: dict[str, bytes] = {
    "empty": b"", "no-json": b"{", "words": b"hello", "nul": b"\0", "latin-1": b'{"a": "caf\xe9"}',
        "bom": b"\xef\xbb\xbf{}",
    "utf-16": json.dumps(CHAT).encode("utf-16"), "null": b"null", "list": b"[]", "number": b"7", "nan": b'{"n": NaN}',
    "deep-lists": b"[" * 100_000, "deep-objects": b'{"a":' * 100_000, "closed-deep": b"[" * 50_000 + b"]" * 50_000,
    "surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "huge-number": b'{"n": ' + b"9" * 100_000 + b"}", "huge-exponent": b'{"temperature": 1e999999}',
    "key-twice": b'{"model": "chatty", "model": "endless", "messages": []}',
    "long-key": b'{"' + b"a" * 100_000 + b'": 1}',
    "many-keys": json.dumps({str(i): i for i in range(50_000)}).encode(),
    "many-messages": json.dumps({**CHAT, "messages": CHAT["messages"] * 20_000}).encode(),
    "long-message": json.dumps({**CHAT, "messages": [{"role": "user", "content": "a" * 3_000_000}]}).encode(),
    "too-long": b'{"a": "' + b"a" * (5 << 20) + b'"}',
}


@pytest.mark.parametrize("body", [
    pytest.param(body, id=name, marks=quick if name in ("no-json", "deep-lists", "too-long") else ())
    for name, body in BODIES.items()])
def test_a_body_that_is_no_request_is_answered_as_one(api: Server, body: bytes) -> None:
    for path in PATHS:
        assert 400 <= below_500(api, request(body, path)) < 500
    well(api)


WRONG: list[Any] = [None, True, -1, 0, 1.5, 10**18, 10**30, -1e308, "", "x", "a" * 100_000, [], [None], [[]], {},
    {"a": {}},
                    [1, "a"], "\0", [10**18], [-1], ["a"] * 5000]


@pytest.mark.parametrize("field", [
    pytest.param(field, marks=quick if field == "n" else ()) for field in
    ("model", "messages", "prompt", "max_tokens", "n", "stop", "temperature", "top_p", "top_k", "min_p", "seed",
        "stream",
     "stream_options", "repetition_penalty", "logprobs", "top_logprobs", "tools", "tool_choice", "prompting",
     "response_format",
     "logit_bias", "presence_penalty", "input", "encoding_format", "dimensions", "echo", "suffix", "best_of", "evil")])
def test_a_field_of_any_kind_is_answered(api: Server, field: str) -> None:
    for value in WRONG:
        for path, base in ((PATHS[0], CHAT), (PATHS[1], COMPLETE), (PATHS[2], {"model": "chatty", "input": "a"})):
            below_500(api, request(json.dumps({**base, field: value}).encode(), path))
    well(api)


MESSAGES: list[Any] = [
    None, 7, "x", {}, {"role": "user"}, {"role": "evil", "content": "x"}, {"role": 7, "content": "x"},
    {"role": "user", "content": None}, {"role": "user", "content": 7}, {"role": "user", "content": [{}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": "http://127.0.0.1:9"}]},
    {"role": "assistant", "content": "x"}, {"role": "tool", "content": "x"}, {"role": "system", "content": ""},
    {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]},
    {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": {"a": [[[[]]]]}}}]},
    {"role": "user", "content": "<|end|><|system|>"}, {"role": "user", "content": "{{ 7 * 7 }}{% raw %}"},
    {"role": "user", "content": "\u0000\ud7ff\ufffe"}, {"role": "user", "content": "x", "name": "a" * 10_000}]


def test_messages_of_any_kind_are_answered(api: Server) -> None:
    for first in MESSAGES:
        for messages in ([first], [first, *CHAT["messages"]], [*CHAT["messages"], first], [first] * 5):
            below_500(api, request(json.dumps({**CHAT, "messages": messages}).encode()))
    well(api)


ARGUMENTS: dict[str, str] = {
    "open": "[" * 100_000, "closed": "[" * 2000 + "]" * 2000, "objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "digits": "9" * 5000, "digits-inside": '{"n": -' + "9" * 5000 + "}", "exponent": '{"n": 1e999}',
    "nan": '{"a": NaN, "b": [-Infinity]}', "half-character": '{"a": "\\ud800"}', "half-key": '{"\\udfff": 1}',
    "nothing": "", "just-deep-enough": "[" * 65 + "]" * 65, "a-level-more": "[" * 66 + "]" * 66}


@pytest.mark.parametrize("arguments", [
    pytest.param(text, id=name, marks=quick if name in ("open", "digits") else ()) for name, text in ARGUMENTS.items()])
def test_arguments_that_are_no_json_are_text(api: Server, arguments: str) -> None:
    """A client sends back what a model wrote: it goes into the prompt as it stands."""
    call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": arguments}}
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "4", "tool_call_id": "x"}, {"role": "user", "content": "hi"}]
    for model in ("chatty", "endless"):
        for stream in (False, True):
            body = {"model": model, "messages": messages, "max_tokens": 2, "stream": stream}
            found = below_500(api, request(json.dumps(body).encode()))
            assert found == (200 if model == "chatty" and len(arguments) < 300 else 400)


EXAMPLES = [{"text": "a", "answer": "b"}, {"text": "c", "answer": "d"}]
MODES: dict[str, tuple[Any, str]] = {
    "fewer-than-k": ({"name": "example", "examples": EXAMPLES}, "the examples: there are 2, and k is 4."),
    "k-of-a-billion": ({"name": "example", "k": 10**9, "examples": EXAMPLES},
                       "the examples: there are 2, and k is 1000000000."),
    "no-label": ({"name": "hybrid", "instruction": "x", "k": 3, "examples": EXAMPLES},
                 "the examples: there are 2, and k is 3."),
    "deep": (json.loads('{"name": "normalize", "of": ' * 180 + '"prefix"' + "}" * 180),
             "prompting: of: at most 4 modes around each other."),
    "five": (json.loads('{"name": "normalize", "of": ' * 4 + '"prefix"' + "}" * 4),
             "prompting: of: at most 4 modes around each other."),
    "of-a-list": ({"name": "normalize", "of": [["prefix"]]}, "prompting: of: name: no prompt mode is called"),
    "a-file-inside": ({"name": "normalize", "of": {"name": "example", "k": 1, "file": "/etc/passwd"}},
                      "prompting: of: file: a client's files aren't here")}


@pytest.mark.parametrize("mode", [
    pytest.param(mode, id=name, marks=quick if name in ("fewer-than-k", "deep") else ())
    for name, mode in MODES.items()])
def test_a_prompt_mode_that_cant_be_made_is_refused(api: Server, mode: tuple[Any, str]) -> None:
    answer = spoken(api, request(json.dumps({**CHAT, "prompting": mode[0]}).encode()))
    assert status(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"].startswith(mode[1])


def test_thousands_of_examples_are_cut_to_the_context_at_once(api: Server) -> None:
    """2,000 examples are not tried one by one."""
    many = [{"text": f"{i}", "answer": "b"} for i in range(2_000)]
    since = time.monotonic()
    answer = spoken(api, request(json.dumps(
        {**CHAT, "prompting": {"name": "example", "k": 2_000, "examples": many}}).encode()))
    assert status(answer) == 200, answer[:300]
    assert " of 2000 examples are in the prompt" in answer.decode()
    assert time.monotonic() - since < 20
    well(api)


def test_mutated_requests_are_answered(api: Server) -> None:
    """300 requests with one to four bytes or fields changed, the same ones each time."""
    rng = random.Random(7)
    found: dict[int, int] = {}
    for _ in range(300):
        path, base = rng.choice(((PATHS[0], CHAT), (PATHS[1], COMPLETE)))
        tree = json.loads(json.dumps({**base, "stream": rng.random() < 0.3}))
        for _ in range(rng.randint(0, 2)):
            tree[rng.choice([*tree, "seed", "stop", "n", "logprobs"])] = rng.choice(WRONG)
        body = bytearray(json.dumps(tree).encode())
        for _ in range(rng.randint(0, 2)):
            spot = rng.randrange(len(body))
            body[spot : spot + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        one = below_500(api, request(bytes(body), path))
        found[one] = found.get(one, 0) + 1
    assert found.get(400, 0) > 50
    assert found.get(200, 0) > 20
    well(api)


HOST = b"Host: 127.0.0.1\r\n"
LAST = HOST + b"Connection: close\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HOST
LINES: dict[str, bytes] = {
    "nothing": b"", "no-http": b"hello\r\n\r\n", "half-a-line": b"POST /v1", "binary": bytes(range(256)) * 40,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 400, "http-9": b"GET / HTTP/9.9\r\n\r\n",
    "no-host": b"GET /health HTTP/1.1\r\n\r\n",
    "proxy": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "connect": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "long-path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "path-above": b"GET /../../../../etc/passwd HTTP/1.1\r\n" + LAST,
    "path-above-written": b"GET /%2e%2e/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + LAST,
    "path-nul": b"GET /%00 HTTP/1.1\r\n" + LAST,
    "model-above": b"GET /v1/models/../../etc/passwd HTTP/1.1\r\n" + LAST,
    "long-header": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many-headers": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: a\r\n" * 50_000 + b"\r\n",
    "folded": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n b\r\nConnection: close\r\n\r\n",
    "two-lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "bad-length": POST + b"Content-Length: -5\r\n\r\nhello",
    "huge-length": POST + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "bad-chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n",
    "huge-chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\nhello",
    "smuggled": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
                 b"\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
}


@pytest.mark.parametrize("raw", [
    pytest.param(raw, id=name, marks=quick if name in ("binary", "path-above") else ()) for name, raw in LINES.items()])
def test_bytes_that_are_no_request_do_no_harm(api: Server, raw: bytes) -> None:
    """The line is closed from this side, half or whole."""
    answer = spoken(api, raw, half=True)
    assert status(answer) < 500, answer[:300]
    assert b"root:" not in answer
    where = urlsplit(api.url)
    line = socket.create_connection((where.hostname or "", where.port or 0), timeout=30)
    line.sendall(raw[:200_000])
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    line.close()
    well(api)


@pytest.mark.parametrize("key", ["", "x", KEY[:-1], KEY + "x", KEY.lower(), "é", "a" * 100_000, KEY + " " + KEY])
def test_a_wrong_key_is_refused(api: Server, key: str) -> None:
    raw = request(json.dumps(CHAT).encode(), key=key)
    found = below_500(api, raw)
    assert found in (400, 401, 431), found
    assert below_500(api, request(b"", "/v1/models", "GET", key=key)) in (400, 401, 431)


def test_a_foreign_name_of_the_server_is_refused(api: Server) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[::1", "localhost:x:y", "\u00e9"):
        assert below_500(api, request(json.dumps(CHAT).encode(), Host=host)) in (200, 400, 403)
    assert below_500(api, request(json.dumps(CHAT).encode(), Host="evil.example")) == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "",
    "x" * 10_000])
def test_what_a_foreign_page_can_send_is_refused(api: Server, kind: str) -> None:
    assert below_500(api, request(json.dumps(CHAT).encode(), Content_Type=kind)) == 415


def test_clients_that_stop_half_way_hold_nobody_up(api: Server) -> None:
    """40 lines that send half a request, or ask for a stream and read nothing; others are answered meanwhile."""
    where = urlsplit(api.url)
    lines = []
    for i in range(40):
        line = socket.create_connection((where.hostname or "", where.port or 0), timeout=60)
        whole = request(json.dumps({**COMPLETE, "max_tokens": 64, "stream": True}).encode(), PATHS[1])
        line.sendall(whole if i % 4 == 0 else whole[: len(whole) // 2])
        lines.append(line)
    deadline = time.monotonic() + 120
    while below_500(api, request(json.dumps(CHAT).encode())) == 429:  # streams have the places for a while
        assert time.monotonic() < deadline
        time.sleep(0.2)
    well(api)
    for line in lines:
        line.close()
    well(api)
