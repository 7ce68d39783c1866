"""Commands in processes of their own that can be killed at any moment, without 5 seconds of imports for each.

A server imports the libraries once, has a single thread, and forks: a child runs `llmkit.cli.main` with the words that
it was given, in its own session, with outputs, folder, environment and limits of its own. What the outside sees is what
it sees of `python -m llmkit WORDS`. `own=True` starts just that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
"""Seconds that a command may take on a busy machine."""
IMPORTED = (
    "typer.main", "llmkit.cli", "llmkit.training.fit", "llmkit.training.spread.launch", "llmkit.inference.evaluate",
    "llmkit.inference.predict", "llmkit.inference.generate", "peft",
    "transformers.optimization", "transformers.models.auto.modeling_auto",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2", "t5", "roberta", "llama")),
    *(f"transformers.models.{name}.tokenization_{name}" for name in ("bert", "gpt2", "t5")))
VARIABLES = {
    "HF_HUB_OFFLINE": "1", "LLMKIT_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@dataclass(frozen=True)
class Done:
    """What a command left."""

    status: int
    """Its exit status; below 0, the signal that ended it."""
    out: str
    err: str
    peak: int = 0
    """The most memory that it held, in bytes; forked ones only."""

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip("\n").rpartition("\n")[2]

    @property
    def error(self) -> str:
        """What follows `llmkit: error: ` on the last line; empty where nothing failed."""
        return self.last.removeprefix("llmkit: error: ") if self.last.startswith("llmkit: error: ") else ""


class Command:
    """A command that was started."""

    def __init__(self, pid: int, said: Path, status: Callable[[], tuple[int, int] | None]) -> None:
        self.pid, self.said = pid, said
        self._status = status
        self.status: int | None = None
        self.peak = 0

    @property
    def out(self) -> str:
        """What it said on stdout so far."""
        return self._so_far(".out")

    @property
    def err(self) -> str:
        """What it said on stderr so far."""
        return self._so_far(".err")

    def _so_far(self, suffix: str) -> str:
        """A file of what was said; one that was killed at once has none."""
        path = self.said.with_suffix(suffix)
        return path.read_text(errors="replace") if path.exists() else ""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.status is None:
            found = self._status()
            if found is not None:
                self.status, self.peak = found
        return self.status

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def send_all(self, number: signal.Signals) -> None:
        """Signal the process and all of its session, as a terminal does."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def until(self, there: Callable[[], Any], seconds: float = PATIENCE, every: float = 0.002) -> bool:
        """Wait for a condition; False where the command ended first. It is killed where it takes too long."""
        deadline = time.monotonic() + seconds
        while not there():
            if self.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.send_all(signal.SIGKILL)
                raise AssertionError(f"waited {seconds} s in vain; so far it said:\n{self.err}")
            time.sleep(every)
        return True

    def wait(self, seconds: float = PATIENCE) -> Done:
        """Wait for the end."""
        self.until(lambda: self.poll() is not None, seconds, every=0.005)
        assert self.status is not None
        return Done(self.status, self.out, self.err, self.peak)


@dataclass
class Server:
    """Starts commands; stop it in the end."""

    folder: Path
    """Where what commands say is kept."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The environment of all commands, over VARIABLES."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self.environment = {**os.environ, **VARIABLES, **self.variables}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment, text=True)
        self._ask({})  # ready

    def start(
        self, *words: object, cwd: Path | None = None, own: bool = False, env: Mapping[str, str] = {}, **limits: Any,
    ) -> Command:
        """Start `llmkit WORDS`.

        own     as a process of its own from the interpreter on; else forked from the server
        limits  of forked ones: uid (the user it runs as), umask, file_size (bytes that a file may have: RLIMIT_FSIZE),
                signal_at (n, folder, number): that signal at the n-th time that it opens, renames, makes or removes
                something in a folder; signal_after (n, number): as soon as step n stands in metrics.jsonl;
                kill_at_rename (n, folder, "before" or "after"): SIGKILL at the n-th rename in a folder
        """
        self.count += 1
        said = self.folder / f"{self.count:04d}"
        given = [str(word) for word in words]
        if own:
            with said.with_suffix(".out").open("wb") as out, said.with_suffix(".err").open("wb") as err:
                process = subprocess.Popen(
                    [sys.executable, "-m", "llmkit", *given], cwd=cwd, env={**self.environment, **env}, stdout=out,
                    stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
            return Command(process.pid, said, lambda: None if process.poll() is None else (process.returncode, 0))
        pid = self._ask({"words": given, "said": str(said), "cwd": str(cwd or Path.cwd()), "env": dict(env), **limits})
        return Command(pid, said, lambda: self._status(said))

    def run(self, *words: object, seconds: float = PATIENCE, **more: Any) -> Done:
        """Run `llmkit WORDS` to its end."""
        return self.start(*words, **more).wait(seconds)

    def start_all(self, *words: object, processes: int, **more: Any) -> list[Command]:
        """Start the same command as all processes of a launch."""
        if processes == 1:
            return [self.start(*words, **more)]
        from llmkit.training.spread.launch import free_port

        where = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        return [self.start(*words, env={**where, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **more)
                for rank in range(processes)]

    def run_all(self, *words: object, processes: int, **more: Any) -> Done:
        """Run a command as a launch of several processes; what the first says, and the worst status."""
        done = [one.wait() for one in self.start_all(*words, processes=processes, **more)]
        return Done(next((one.status for one in done if one.status), 0), done[0].out, done[0].err)

    def left(self, command: Command, mark: str) -> list[int]:
        """Processes that a command left behind: of its session, or with `mark` in their words."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
                words = (path / "cmdline").read_bytes().decode(errors="replace")
                if state != "Z" and int(path.name) != os.getpid() and (int(session) == command.pid or mark in words):
                    found.append(int(path.name))
        return found

    def stop(self) -> None:
        """End the server, and what it started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

    @staticmethod
    def _status(said: Path) -> tuple[int, int] | None:
        path = said.with_suffix(".status")
        if not path.exists():
            return None
        status, peak = path.read_text().split()
        return int(status), int(peak)

    def _ask(self, request: Mapping[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


# ---- in the server ----------------------------------------------------------------------------------------------


def serve() -> None:
    """Import, then fork a child for every line on stdin; `.status` beside what it said says how it ended."""
    import gc
    import importlib
    import select

    for name in IMPORTED:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread was started: what is forked could hang"
    gc.collect()
    gc.freeze()  # children copy no page only to count references
    running: dict[int, Path] = {}
    try:
        while True:
            ready, _, _ = select.select([0], [], [], 0.005)
            _reap(running)
            if not ready:
                continue
            line = _line()
            if not line:
                return
            request = json.loads(line)
            pid = 0
            if "words" in request:
                pid = os.fork()
                if pid == 0:
                    _child(**request)
                running[pid] = Path(request["said"])
            os.write(1, f"{pid}\n".encode())
    finally:
        for pid in running:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _line() -> bytes:
    """A line of stdin, without reading further."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1)
        if not more:
            return b""
        line += more
    return line


def _reap(running: dict[int, Path]) -> None:
    while running:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        said = running.pop(pid)  # not by its number: another process has it soon
        staging = said.with_suffix(".staging")
        staging.write_text(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss * 1024}")
        staging.rename(said.with_suffix(".status"))


def _child(
    words: Sequence[str], said: str, cwd: str, env: Mapping[str, str], uid: int | None = None,
    umask: int | None = None, file_size: int | None = None, signal_at: tuple[int, str, int] | None = None,
    signal_after: tuple[int, int] | None = None, kill_at_rename: tuple[int, str, str] | None = None,
) -> None:
    """Be `llmkit WORDS`; doesn't return."""
    status = 70
    try:
        os.setsid()
        for number, suffix in ((1, ".out"), (2, ".err")):
            handle = os.open(said + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, number)
            os.close(handle)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.chdir(cwd)
        os.environ.update(env)
        _watch(said)
        _limit(uid, file_size, umask)
        if signal_at is not None:
            _signal_at(*signal_at)
        if signal_after is not None:
            _signal_after(*signal_after)
        if kill_at_rename is not None:
            _kill_at_rename(*kill_at_rename)
        from llmkit.cli import main

        status = main(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(said: str) -> None:
    """SIGUSR1 writes where the program is to `.where`, so that a kill can be told by its phase."""
    import faulthandler

    faulthandler.register(signal.SIGUSR1, file=Path(said).with_suffix(".where").open("w"), all_threads=True)


def _limit(uid: int | None, file_size: int | None, umask: int | None) -> None:
    if umask is not None:
        os.umask(umask)
    if file_size is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if uid is not None:
        os.setuid(uid)


def _signal_at(count: int, folder: str, number: int) -> None:
    """Signal this process at the count-th file that is opened, renamed, made or removed in a folder."""
    left = [count]
    pid = os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod") or os.getpid() != pid:
            return
        where = arguments[0]
        if isinstance(where, bytes):
            where = os.fsdecode(where)
        if isinstance(where, str | Path) and str(where).startswith(folder):
            left[0] -= 1
            if left[0] == 0:
                os.kill(pid, number)

    sys.addaudithook(hook)


def _kill_at_rename(count: int, folder: str, when: str) -> None:
    """Kill this process before or after its count-th rename in a folder."""
    left, usual = [count], os.rename

    def rename(source: Any, target: Any, **more: Any) -> None:
        here = str(source).startswith(folder)
        left[0] -= here
        if here and left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        usual(source, target, **more)
        if here and left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = rename  # type: ignore[assignment]


def _signal_after(step: int, number: int) -> None:
    """Signal this process once the line of a step is written."""
    from llmkit.training.folder.run_folder import RunFolder

    write = RunFolder.log

    def log(run: RunFolder, event: Mapping[str, Any]) -> None:
        write(run, event)
        if event["event"] == "train" and event["step"] == step:
            os.kill(os.getpid(), number)

    RunFolder.log = log  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    serve()
