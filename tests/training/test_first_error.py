"""Two processes, one of which fails: both tell that one's own error, not that a connection broke."""

import errno
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny

import llmkit
from llmkit.system.errors import CheckpointError, DataError, LlmkitError, PlaceError, RequestError
from llmkit.system.locks import end_of, signature
from llmkit.training.spread.first import KEY, FirstError, in_words, is_broken
from llmkit.training.spread.launch import free_port


class FailsAt(llmkit.Callback):
    """A callback that fails in one process of a run, after a step."""

    def __init__(self, rank: int, error: Exception, step: int = 2) -> None:
        self.rank, self.error, self.step = rank, error, step

    def on_step(self, view: Any) -> None:
        if int(os.environ["RANK"]) == self.rank and view.step == self.step:
            raise self.error


def train(tree: dict[str, Any], rank: int, port: int, callback: llmkit.Callback, out: Path) -> None:
    """What one of two processes comes to: {class, message, status}."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    try:
        llmkit.fit(tree, callbacks=[callback])
    except Exception as error:
        out.write_text(json.dumps([type(error).__name__, str(error), getattr(error, "status", None)]))


def both(tree: dict[str, Any], folder: Path, callback: llmkit.Callback) -> list[Any]:
    """What both processes of a run come to; None for one that ended well."""
    context, port = multiprocessing.get_context("fork"), free_port()
    outs = [folder / f"{rank}.json" for rank in range(2)]
    children = [context.Process(target=train, args=(tree, rank, port, callback, out)) for rank, out in enumerate(outs)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode is not None, "a process waits for ever"
    return [json.loads(out.read_text()) if out.exists() else None for out in outs]


@pytest.mark.parametrize(("error", "name", "status", "said"), [
    (ValueError("the loss looks wrong"), "LlmkitError", 1, r"ValueError: the loss looks wrong, in .+\.py:\d+"),
    (DataError("a.txt:3: it is empty."), "DataError", 3, r"a\.txt:3: it is empty\."),
])
def test_both_tell_the_error_of_the_second_process(error, name, status, said, text, tmp_path):
    first, second = both(tiny("bert", text, tmp_path / "run"), tmp_path, FailsAt(1, error))
    assert second[:2] == [type(error).__name__, str(error)]
    assert first[0] == name
    assert first[2] == status
    assert re.fullmatch(f"process 1: {said}", first[1]), first[1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["why"] == first[1]


def test_what_the_first_process_raises_is_never_told_as_a_broken_connection(text, tmp_path):
    first, second = both(tiny("bert", text, tmp_path / "run"), tmp_path, FailsAt(0, ValueError("enough")))
    assert first[:2] == ["ValueError", "enough"]
    assert second[0] == "LlmkitError"
    assert second[1].startswith(("process 0: ValueError: enough", "another process of this run ended before this one;"))


def test_each_raises_its_own_where_both_do(text, tmp_path):
    class Enough(llmkit.Callback):
        def on_step(self, view: Any) -> None:
            raise KeyError(os.environ["RANK"])

    assert both(tiny("bert", text, tmp_path / "run"), tmp_path, Enough()) == [
        ["KeyError", "'0'", None], ["KeyError", "'1'", None]]


@pytest.mark.parametrize(("left", "kind", "message"), [
    ("1 3 a.txt:3: it is empty.", DataError, "process 1: a.txt:3: it is empty."),
    ("0 4 step-00000002: damaged", CheckpointError, "process 0: step-00000002: damaged"),
    ("3 2 data.max_length: 4 is short", RequestError, "process 3: data.max_length: 4 is short"),
    ("2 1 ValueError: no", LlmkitError, "process 2: ValueError: no")])
def test_an_error_that_was_left_has_its_kind_and_its_process(left, kind, message):
    store = torch.distributed.HashStore()
    first = FirstError(0, 4, store, 60)
    assert first.left() is None
    store.set(KEY, left)
    error = first.left()
    assert type(error) is kind
    assert str(error) == message
    assert error.heard is (left[0] != "0")


def test_where_processes_are_on_several_machines_the_machine_is_named(monkeypatch):
    monkeypatch.setattr("llmkit.training.spread.first.SAME", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    store = torch.distributed.HashStore()
    with pytest.raises(DataError), FirstError(1, 4, store, 60):
        raise DataError("a.txt: no such file or folder.")
    assert store.get(KEY).decode() == f"1 3 a.txt: no such file or folder. (on {socket.gethostname()})"


@pytest.mark.parametrize(("error", "broken"), [
    (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]"), True),
    (RuntimeError("NCCL communicator was aborted on rank 0."), True),
    (RuntimeError("Connection reset by peer"), True), (RuntimeError("The size of tensor a (8) must match"), False),
    (ValueError("gloo"), False), (DataError("gloo.txt: no row is left"), False)])
def test_a_broken_connection_is_known(error, broken):
    assert is_broken(error) is broken


def test_an_error_stands_in_one_line():
    assert in_words(DataError("a.txt:3:\n it is empty.")) == "a.txt:3: it is empty."
    assert in_words(KeyError("label")) == "KeyError: 'label'"


BROKE = RuntimeError("[pair.cc:538] Connection closed by peer [127.0.0.1]:4711")


def ended_by(number: int) -> tuple[subprocess.Popen[bytes], str]:
    """(a process that is killed, whose parent hasn't asked yet; what it was called)."""
    child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    space, *_ = signature().split("-")
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    os.kill(child.pid, number)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child, f"{space}-{child.pid}-{started}"


def told_by_first(signed: str, host: str | None = None) -> LlmkitError:
    """What the first process tells whose connection broke, of a second one that was called so."""
    store = torch.distributed.HashStore()
    store.set("signed/1", f"{signed} {host or socket.gethostname()}")
    with pytest.raises(LlmkitError) as error, FirstError(0, 2, store, 60):
        raise BROKE
    return error.value


@pytest.mark.parametrize(("number", "said"), [
    (signal.SIGKILL, "was killed by SIGKILL, as a machine does that is out of memory."),
    (signal.SIGSEGV, "was killed by SIGSEGV.")])
def test_a_process_that_was_killed_is_named_with_its_signal(number, said):
    child, signed = ended_by(number)
    error = told_by_first(signed)
    assert str(error) == f"process 1: it (pid {child.pid}) {said} The same command goes on from the last checkpoint"
    assert error.status == 128 + number
    child.wait()
    error = told_by_first(signed)  # its parent has asked: nobody knows how it ended
    assert str(error).startswith(f"process 1: it (pid {child.pid}) was killed, most likely by SIGKILL, as a machine")
    assert error.status == 137


def test_a_process_that_ended_by_itself_was_not_killed(monkeypatch):
    monkeypatch.setattr("llmkit.training.spread.first.HEARD", 0.1)
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    signed = f"{signature().split('-')[0]}-{child.pid}-{started}"
    assert end_of(signed) == 5
    error = told_by_first(signed)
    assert (error.status, str(error)[:40]) == (1, "another process of this run ended before")
    child.wait()


def test_of_another_machine_it_is_said_that_nobody_knows(monkeypatch):
    monkeypatch.setattr("llmkit.training.spread.first.HEARD", 0.1)
    error = told_by_first("00000000-7-7", "node1")
    assert str(error).startswith("a process on node1 was ended from outside and could say nothing, or the network ")
    assert error.status == 137


def test_what_the_first_process_tells_too_isn_t_told_twice():
    """A request that no process can run: each finds out by itself."""
    store = torch.distributed.HashStore()
    heard = []
    for rank, said in ((0, "no"), (1, "no"), (2, "else")):
        error = RequestError(said)
        with pytest.raises(RequestError), FirstError(rank, 1, store, 60):
            raise error
        heard.append(error.heard)
    assert heard == [False, True, False]


def test_a_full_disk_of_another_process_is_told_with_its_status():
    store = torch.distributed.HashStore()
    first = FirstError(1, 1, store, 60)
    with pytest.raises(OSError, match="No space left"), first:
        raise OSError(errno.ENOSPC, "No space left on device")
    left = FirstError(0, 1, store, 60).left()
    assert (type(left), left.status) == (PlaceError, 6)


class Sleeps(llmkit.Callback):
    """A callback that keeps the second process for longer than the first waits."""

    def on_step(self, view: Any) -> None:
        if os.environ["RANK"] == "1" and view.step == 2:
            time.sleep(14)


@pytest.mark.slow
def test_a_process_that_does_not_answer_in_time_ends_both_with_6_and_the_field_that_says_how_long(text, tmp_path):
    first, second = both(tiny("bert", text, tmp_path / "run", ddp_timeout=6), tmp_path, Sleeps())
    said = "the other processes didn't answer within 6 s (training.ddp_timeout): one of them is slower than that, hangs"
    assert (first[0], first[2]) == ("PlaceError", 6)
    assert first[1].startswith(said)
    assert second[1].startswith((f"process 0: {said}", "another process of this run ended before this one"))
    left = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (left["status"], left["message"]) == (6, first[1])
