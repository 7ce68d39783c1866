"""From a command line to a board: the folder is looked at, the port is taken, then it listens until a signal comes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from llmkit.serving.network.limits import Limits
from llmkit.serving.server import bound, listen, need
from llmkit.system.errors import PlaceError
from llmkit.system.report import log
from llmkit.system.signals import end_with_parent

HOST, PORT = "127.0.0.1", 8010
NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""What the board may be asked as: any other name that points at this machine is a foreign page's."""
CONNECTIONS = 128
LAST = 3.0
"""Seconds that the board of a run has to end by itself."""


def board(folder: Path, port: int = PORT, ready: Callable[[str], None] | None = None, beside: bool = False) -> None:
    """Show the runs under a folder on loopback until SIGTERM or SIGINT. `ready` gets the address.

    beside   a run started it: it ends when its stdin does, takes any port that is free where this one isn't, and lets
             the run go first

    RequestError where the extra isn't installed, PlaceError where the port can't be had.
    """
    need()
    if beside:
        with suppress(AttributeError, OSError):  # Windows has no nice
            os.nice(19)
        threading.Thread(target=_until_alone, daemon=True).start()
    with ExitStack() as held:
        try:
            listener = held.enter_context(bound(HOST, port))
        except PlaceError as error:
            if not beside:
                raise PlaceError(str(error).removeprefix(f"--host {HOST} ")) from error
            listener = held.enter_context(bound(HOST, 0))
        asyncio.run(_show(folder, listener, ready))


async def _show(folder: Path, listener: socket.socket, ready: Callable[[str], None] | None) -> None:
    from llmkit.serving.board.children import Children
    from llmkit.serving.board.shelf import Shelf
    from llmkit.serving.board.site import build
    from llmkit.serving.metrics import Metrics

    children, limits = Children(), Limits(connections=CONNECTIONS)
    watching = asyncio.create_task(children.watch())
    try:
        await listen(build(Shelf(folder), children, limits, Metrics(), NAMES), listener, children, limits, ready)
    finally:
        watching.cancel()
        await children.close()


def _until_alone() -> None:
    """End this process when its stdin ends: the run that started it is over, however it ended."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def board_beside(folder: Path) -> Iterator[None]:
    """While the block runs, a board of the run in a folder, in a process of its own; its address is said.

    Where it can't be had that is said, and the block goes on: a run doesn't end for what only people look at.
    """
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "llmkit", "board", str(folder.absolute()), "--beside"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=end_with_parent)
    except OSError as error:
        log.warning("the board couldn't be started, and the run goes on without: %s", error.strerror)
        yield
        return
    threading.Thread(target=_tell, args=(child,), daemon=True).start()
    try:
        yield
    finally:
        assert child.stdin is not None
        with suppress(OSError):
            child.stdin.close()
        try:
            child.wait(LAST)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _tell(child: subprocess.Popen[bytes]) -> None:
    """Say where the board is, or why there is none; then read what it says, so that it never waits to say it."""
    assert child.stdout is not None
    assert child.stderr is not None
    address = child.stdout.readline().decode(errors="replace").strip()
    said = b""
    if address:
        log.info("the board of this run, until it ends: %s", address)
    while piece := child.stderr.readline():
        said = piece
    if not address and child.stdin is not None and not child.stdin.closed:
        why = said.decode(errors="replace").strip().removeprefix("llmkit: error: ")
        log.warning("the board couldn't be started, and the run goes on without: %s", why)
