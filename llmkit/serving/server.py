"""From a command line to a server: what is asked is checked first, then models are opened, then it listens."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from llmkit.system.errors import PlaceError, RequestError
from llmkit.system.report import log
from llmkit.system.signals import tell

if TYPE_CHECKING:
    from llmkit.serving.network.connections import Connections
    from llmkit.serving.network.limits import Limits
    from llmkit.serving.network.often import Often

QUEUE = 1024
"""Connections that the kernel keeps until they are taken."""
GRACE = 5.0
"""Seconds that what runs may go on for once the server is asked to stop."""


def serve(
    given: Sequence[str], adapters: Sequence[str] = (), *, host: str = "127.0.0.1", port: int = 8000,
    key: str | None = None, limits: Limits | None = None, ready: Callable[[str, bool], None] | None = None,
    where: Sequence[str] = (), embedder: str = "minilm-l6", mix: bool = False, dtype: str | None = None,
) -> None:
    """Serve models until SIGTERM or SIGINT. `ready` gets the address once it answers, and whether a model writes.

    where   files and folders that are searched by `embedder`, and with `mix` by words, too, for who asks for passages
    dtype   the numbers of models that write, as for `Writer.open`; None: what is fast here

    RequestError where the request is wrong, PlaceError where the port can't be had.
    """
    need()
    from llmkit.inference.search import Searcher
    from llmkit.inference.writing.opening import check_numbers
    from llmkit.serving import app, requests, served
    from llmkit.serving.metrics import Metrics
    from llmkit.serving.network.guard import check_key
    from llmkit.serving.worker import Worker

    limits = limits or requests.Limits()
    check_key(key)
    if not loopback(host) and not key:
        raise RequestError(f"--host {host}: whoever reaches it could use the models. Give a key (--api-key, or "
                           "LLMKIT_API_KEY), or listen on 127.0.0.1.")
    check_numbers(dtype)
    folders = served.named(given)
    under = served.adapters(adapters, folders)
    with bound(host, port) as listener:
        searcher = Searcher.open(where, embedder, mix=mix) if where else None
        models = served.open_all(folders, under, dtype)
        metrics = Metrics()
        engines = [one.engine for one in models.values() if isinstance(one, served.WritingModel)]
        worker = Worker(engines, limits.places, limits.queue, metrics)
        names = frozenset({"localhost", "127.0.0.1", "::1", host.lower()}) if loopback(host) else None
        application = app.build(models, worker, limits, metrics, key, names, searcher)
        worker.start()
        asyncio.run(listen(application, listener, worker, limits,
                           None if ready is None else lambda address: ready(address, bool(engines))))


def need() -> None:
    """RequestError where the extra isn't installed."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise RequestError(f"serving needs {error.name}: pip install 'llmkit-train[serve]'.") from error


def loopback(host: str) -> bool:
    """Whether only this machine reaches a host's address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at an address, which doesn't listen yet; PlaceError where it can't be had."""
    try:
        where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise RequestError(f"--host {host}: no such address ({error.strerror}).") from error
    with socket.socket(where[0], socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where[4])
        except OSError as error:
            raise _taken(host, port, error) from error
        yield listener


def _taken(host: str, port: int, error: OSError) -> PlaceError:
    way_out = {
        errno.EADDRINUSE: f"something listens there already; stop it, or choose another port: --port {port + 1} "
                          "(0: any that is free).",
        errno.EACCES: "ports below 1024 are for the administrator; use --port 8000.",
        errno.EADDRNOTAVAIL: "this machine has no such address; use 127.0.0.1, or 0.0.0.0 for all that it has."}
    return PlaceError(f"--host {host} --port {port}: {way_out.get(error.errno or 0, str(error.strerror))}")


class AtWork(Protocol):
    """What works behind an application, and ends with it."""

    def stop(self, seconds: float) -> None:
        """Take nothing new, and let what runs go on for so long."""
    def join(self, seconds: float) -> None:
        """Wait for its end, but no longer than this."""


async def listen(
    application: Any, listener: socket.socket, worker: AtWork, limits: Limits, ready: Callable[[str], None] | None
) -> None:
    """Serve until a signal comes; then take nothing new, and let what runs end within some seconds."""
    from llmkit.serving.network.often import listening

    with listening() as often:
        await _serve(application, listener, worker, _lines(limits, often), ready)


def _lines(limits: Limits, often: Often) -> Connections:
    """The connections that there may be: as many as are wanted, or as this process may open."""
    from llmkit.serving.network.connections import Connections, most

    few = most(limits.connections)
    if few < limits.connections:
        log.info("at most %d connections at once, not %d: this process may open no more files (ulimit -n)",
                 few, limits.connections)
    return Connections(few, limits, often)


async def _serve(
    application: Any, listener: socket.socket, worker: AtWork, lines: Connections, ready: Callable[[str], None] | None
) -> None:
    import uvicorn

    from llmkit.serving.network.connections import BACKLOG, Line

    config = uvicorn.Config(
        application, http=partial(Line, lines), ws="none", backlog=BACKLOG,  # type: ignore[arg-type]
        log_config=None, access_log=False, lifespan="off", server_header=False,
        timeout_graceful_shutdown=round(GRACE) + 5)
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]  # signals are handled here
    host, port = listener.getsockname()[:2]

    def stop() -> None:
        server.force_exit = server.should_exit  # asked twice: at once
        server.should_exit = True
        worker.stop(0 if server.force_exit else GRACE)

    loop = asyncio.get_running_loop()
    tell(loop, stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    watching = asyncio.create_task(lines.watch())
    listener.listen(QUEUE)  # the kernel's queue may be longer than what asyncio takes from it at once
    if ready is not None and not serving.done():
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        await serving
    except OSError as error:
        raise _taken(host, port, error) from error
    finally:
        watching.cancel()
        worker.stop(0)
        worker.join(GRACE)
