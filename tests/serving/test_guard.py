"""Who may ask: keys that can be sent, names that a server may be asked as, and what is told without a key."""

import asyncio
import json

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from llmkit.cli import main
from llmkit.serving.metrics import Metrics
from llmkit.serving.network.guard import Guard, bare, check_key, knows
from llmkit.system.errors import RequestError


@pytest.mark.parametrize("key", [None, "x", "sk-0123456789abcdef", "a b", "~!@#$%^&*()_+=[]{}", "k" * 4096])
def test_a_key_that_clients_can_send_is_taken(key):
    check_key(key)


@pytest.mark.parametrize(("key", "said"), [
    ("", "is empty"), ("   ", "is empty"), ("\n", "is empty"), ("abc ", "begins or ends with a space"),
    (" abc", "begins or ends with a space"), ("abc\n", "begins or ends with a space or a line's end"),
    ("abc\r\nX: y", "holds '\\r'"), ("a\tb", "holds '\\t'"), ("钥匙123", "holds '钥'"), ("clé", "holds 'é'"),
    ("a\x7f", "holds '\\x7f'"), ("a\x00b", "holds '\\x00'"), ("\u00a0abc", "begins or ends with a space"),
    ("a\u00a0b", "holds '\\xa0'"), ("\ud800", "holds '\\ud800'"), ("k" * 4097, "has 4,097 characters")])
def test_a_key_that_no_client_can_send_is_refused(key, said):
    with pytest.raises(RequestError, match="--api-key: ") as error:
        check_key(key)
    assert said in str(error.value)


@pytest.mark.parametrize("key", ["钥匙123", "abc ", "a\tb", " ", "clé"])
def test_the_server_doesnt_start_with_one(chatty, capsys, monkeypatch, key):
    monkeypatch.setenv("LLMKIT_API_KEY", key)
    assert main(["serve", str(chatty)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("llmkit: error: --api-key: ")


@pytest.mark.parametrize(("host", "name"), [
    ("localhost", "localhost"), ("LOCALHOST:8000", "localhost"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:8000", "::1"),
    ("[::1]", "::1"), ("", ""), ("my-host.example", "my-host.example"), ("a_b", "a_b"), ("localhost:", "localhost"),
    ("localhost:[", None), ("127.0.0.1:]", None), ("localhost:@evil.example", None), ("[::1", None), ("a:b:c", None),
    ("localhost/..", None), ("é", None), ("localhost:123456", None), ("a b", None), ("user@localhost", None),
    ("localhost\x00", None), ("localhost?x", None), ("localhost#x", None)])
def test_a_host_is_a_name_and_a_port_and_nothing_else(host, name):
    assert bare(host) == name


def asked(guard, path="/health", **headers):
    """(status, body, headers) of what a guard answers."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [
        (name.encode(), value.encode("latin-1")) for name, value in headers.items()]}
    asyncio.run(guard(scope, receive, send))
    return (sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:]),
            {name.decode(): value.decode() for name, value in sent[0]["headers"]})


async def app(scope, receive, send):
    await JSONResponse({"path": scope["path"], "knows": knows(Request(scope), "s3cret")})(scope, receive, send)


@pytest.fixture
def guard():
    return Guard(app, "s3cret", frozenset({"localhost"}), Metrics())


@pytest.mark.parametrize(("path", "key", "status"), [
    ("/v1/models", None, 401), ("/v1/models", "Bearer s3cret", 200), ("/v1/models", "bearer s3cret", 200),
    ("/v1/models", "Bearer  s3cret ", 200), ("/v1/models", "Bearer s3cre", 401), ("/v1/models", "Basic s3cret", 401),
    ("/v1/models", "s3cret", 401), ("/v1/models", "Bearer", 401), ("/v1/models", "Bearer é", 401),
    ("/metrics", None, 401), ("/health", None, 200), ("/", None, 200), ("/page.js", None, 200), ("/v1", None, 401)])
def test_a_key_opens_the_api_and_nothing_else_needs_it(guard, path, key, status):
    found = asked(guard, path, host="localhost", **({} if key is None else {"authorization": key}))
    assert found[0] == status
    assert found[2]["content-security-policy"].startswith("default-src 'none'")
    if status == 401:
        assert json.loads(found[1])["error"]["code"] == "invalid_api_key"
        assert found[2]["www-authenticate"] == "Bearer"


def test_foreign_and_malformed_names_are_refused(guard):
    assert asked(guard, host="localhost:8000")[0] == 200
    status, body, _ = asked(guard, host="evil.example")
    assert (status, json.loads(body)["error"]["message"]) == (
        403, "this server is asked as localhost, not as 'evil.example'.")
    status, body, _ = asked(guard, host="localhost:@evil.example")
    assert (status, json.loads(body)["error"]["message"]) == (
        400, "Host: 'localhost:@evil.example' is no name of a server.")
    assert asked(guard)[0] == 403
    anybody = Guard(app, None, None, Metrics())
    assert asked(anybody, host="any.example")[0] == asked(anybody)[0] == 200
    assert asked(anybody, host="any.example:[")[0] == 400


def test_every_answer_is_counted_by_its_path_and_status(guard):
    for path in ("/health", "/health", "/v1/models", "/nowhere"):
        asked(guard, path, host="localhost")
    lines = guard.metrics.text().decode().splitlines()
    assert 'llmkit_requests_total{path="/health",status="200"} 2.0' in lines
    assert 'llmkit_requests_total{path="/v1/models",status="401"} 1.0' in lines
    assert 'llmkit_requests_total{path="other",status="200"} 1.0' in lines
