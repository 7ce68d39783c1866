"""`llmkit serve` among clients that take their time: they go, others are answered, and the log stays short."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from served import Server, limited

pytestmark = pytest.mark.reliability
quick = pytest.mark.quick
HALF = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
"""A request whose headers never end."""
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def line(server: Server, said: bytes = b"", seconds: float = 20) -> socket.socket:
    where = urlsplit(server.url)
    made = socket.create_connection((where.hostname or "", where.port or 0), timeout=seconds)
    made.sendall(said)
    return made


def rest(one: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := one.recv(1 << 16):
            answer += piece
    return answer


def health(server: Server) -> bytes:
    with line(server, HEALTH) as one:
        return rest(one)


def posted(body: bytes, more: bytes = b"") -> bytes:
    return (b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" + more
            + b"Content-Length: %d\r\n\r\n" % len(body) + body)


@contextmanager
def crowd(server: Server, said: list[bytes]) -> Iterator[list[socket.socket]]:
    """So many clients, each of which has said something and says no more."""
    lines: list[socket.socket] = []
    try:
        for one in said:
            lines.append(line(server, one))
        yield lines
    finally:
        for made in lines:
            made.close()


@pytest.fixture(scope="module")
def small(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may open 160 files and waits two seconds for a head, and three for a body."""
    said = tmp_path_factory.mktemp("crowd") / "said.log"
    with limited([endless], said, files=160, head_seconds=2.0, body_seconds=3.0, unread_seconds=3.0, places=4,
                 queue=4, new_tokens=16000) as one:
        yield one
        assert one.stop() == 0, said.read_text()
        assert "Traceback" not in said.read_text()


@pytest.mark.parametrize("said", [
    pytest.param([HALF] * 300, id="half-heads", marks=quick), pytest.param([b""] * 300, id="silent"),
    pytest.param([posted(b"{}", b"X: y\r\n")[:-1]] * 300, id="half-bodies"),
    pytest.param([HALF, b"", posted(b'{"a": 1}')[:-3]] * 100, id="mixed")])
def test_half_a_request_of_hundreds_holds_nobody_up(small: Server, said: list[bytes]) -> None:
    before = small.said.stat().st_size
    with crowd(small, said):
        for _ in range(5):
            assert health(small).startswith(b"HTTP/1.1 200")
        assert len(os.listdir(f"/proc/{small.child.pid}/fd")) < 160
    assert health(small).startswith(b"HTTP/1.1 200")
    assert small.said.stat().st_size - before < 2000


@quick
def test_what_takes_too_long_to_be_asked_is_told_so(small: Server) -> None:
    """The head by a line's own clock, the body by the route; who has said nothing at all is left without a word."""
    since = time.monotonic()
    with line(small, HALF) as head, line(small) as silent, line(small, posted(b'{"a": 1}')[:-3]) as body:
        assert rest(head).startswith(b"HTTP/1.1 408")
        assert rest(silent) == b""
        assert time.monotonic() - since < 8
        answer = rest(body)
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == (
            "the request's body took more than 3 s to come.")


def test_a_head_that_drips_has_no_more_time_than_one_that_stops(small: Server) -> None:
    since = time.monotonic()
    with line(small, HALF) as one, suppress(BrokenPipeError, ConnectionResetError):
        one.settimeout(0.1)
        while time.monotonic() - since < 10:
            one.sendall(b"X: y\r\n")
            with suppress(TimeoutError):
                assert one.recv(100).startswith(b"HTTP/1.1 408")
                break
    assert time.monotonic() - since < 6


def test_a_second_request_on_a_line_has_time_of_its_own(small: Server) -> None:
    """Three requests on one line with pauses that together are longer than a head may take."""
    ask = HEALTH.replace(b"Connection: close\r\n", b"")
    with line(small) as one:
        for _ in range(3):
            one.sendall(ask)
            said = one.recv(1 << 16)
            while not said.endswith(b"}"):
                said += one.recv(1 << 16)
            assert said.startswith(b"HTTP/1.1 200")
            time.sleep(1.2)


def test_who_reads_nothing_of_a_long_stream_is_hung_up_on(small: Server) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 16000, "stream": True, "temperature": 1, "logprobs": 20}).encode()
    where = urlsplit(small.url)
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.connect((where.hostname or "", where.port or 0))
        one.sendall(posted(body))
        deadline = time.monotonic() + 60
        while "took nothing for 3 s" not in small.said.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert health(small).startswith(b"HTTP/1.1 200")


@quick
def test_what_is_no_http_is_answered_in_the_apis_form_and_told_once(small: Server) -> None:
    before = len(small.said.read_text().splitlines())
    for _ in range(50):
        with line(small, b"hello\r\n\r\n") as one:
            head, _, body = rest(one).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["error"]["message"] == "this is no HTTP request that can be understood."
    assert len(small.said.read_text().splitlines()) - before <= 3


def test_upgrades_are_plain_requests_and_told_once(small: Server) -> None:
    before = len(small.said.read_text().splitlines())
    for _ in range(30):
        with line(small, HEALTH.replace(b"Connection: close", b"Connection: Upgrade, close\r\nUpgrade: websocket")
                  ) as one:
            assert rest(one).startswith(b"HTTP/1.1 200")
    assert len(small.said.read_text().splitlines()) - before <= 4


def resident(server: Server) -> int:
    """Bytes of memory that a server has."""
    status = Path(f"/proc/{server.child.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) << 10


def test_memory_stays_level_where_a_third_of_the_clients_leave(small: Server) -> None:
    """An hour of it, scaled down: 600 streams, after as many that fill what is kept of texts."""
    def rounds(count: int) -> None:
        for i in range(count):
            body = {"prompt": "abc def"[: 1 + i % 7] * (1 + i % 5), "max_tokens": 1 + i % 24, "stream": True, "seed": i,
                    "temperature": 1, "logprobs": i % 3}
            with line(small, posted(json.dumps(body).encode(), b"Connection: close\r\n")) as one:
                if i % 3:
                    assert rest(one).rstrip(b"0\r\n").endswith(b"[DONE]")
                else:
                    assert one.recv(200)

    rounds(600)
    before, files = resident(small), len(os.listdir(f"/proc/{small.child.pid}/fd"))
    rounds(600)
    assert resident(small) - before < 12 << 20
    assert len(os.listdir(f"/proc/{small.child.pid}/fd")) <= files + 2


def test_clients_that_reset_and_come_again_leave_no_descriptor(small: Server) -> None:
    time.sleep(0.2)
    before = len(os.listdir(f"/proc/{small.child.pid}/fd"))
    for i in range(300):
        one = line(small, (HALF, b"", HEALTH, posted(b'{"prompt": "a", "stream": true, "max_tokens": 50}'))[i % 4])
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    deadline = time.monotonic() + 20
    while len(os.listdir(f"/proc/{small.child.pid}/fd")) > before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert health(small).startswith(b"HTTP/1.1 200")
