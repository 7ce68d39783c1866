"""S: SIGTERM and SIGINT end a run in order, whatever it is at: what was learned is saved, and nobody is left behind."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import signal
import string
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reliability import runs
from reliability.commands import PATIENCE, Command, Server
from reliability.test_checkpoints import is_whole
from reliability.test_resume import cases, the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}
BOTH = [pytest.param(number, id=number.name) for number in STATUS]


def nobody_left(llmkit: Server, command: Command, mark: Path) -> bool:
    """Whether all that a command started is gone 5 seconds after its end."""
    deadline = time.monotonic() + 5
    while llmkit.left(command, str(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not llmkit.left(command, str(mark))


def saved_in_order(run: Path, said: str, number: signal.Signals) -> int:
    """The step of the newest checkpoint, after which a signal ended the run."""
    newest = runs.checkpoints(run)[-1]
    step = int(newest.name.removeprefix("step-"))
    assert is_whole(newest)
    assert said == (f"stopped by {number.name} after step {step}, which is saved; the same command goes on from there")
    assert runs.events(run)[-1]["step"] == step
    assert runs.summary(run)["status"] == "stopped"
    assert not (run / "model").exists()
    return step


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("workers", cases(("S01", 0), ("S01-workers", 2), quick=("S01-workers",)))
def test_a_signal_ends_the_run_after_the_step_it_is_in(
    workers: int, number: signal.Signals, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """Loader workers get the signal too, as from a terminal."""
    recipe = tree(max_steps=40, save_steps=100, eval_steps=None, dataloader_num_workers=workers)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path, signal_after=(4, signal.SIGSTOP))
    assert first.until(lambda: runs.steps(run) == 4 and stopped(first.pid))
    first.send_all(number)
    first.send_all(signal.SIGCONT)
    done = first.wait()
    assert done.status == STATUS[number], done.err
    assert saved_in_order(run, done.error, number) in (4, 5)
    assert nobody_left(llmkit, first, path)
    assert llmkit.run("pretrain", path, "--resume", "must").status == 0
    the_same(run, whole(recipe))


def stopped(pid: int) -> bool:
    """Whether a process waits for SIGCONT."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize(("processes", "workers", "number"), cases(
    ("S02-1", 1, 0, signal.SIGTERM), ("S02-1-workers", 1, 2, signal.SIGINT), ("S02-2", 2, 0, signal.SIGINT),
    ("S02-2-workers", 2, 2, signal.SIGTERM)))
def test_a_signal_to_the_parent_alone_ends_all_of_its_processes_in_order(
    processes: int, workers: int, number: signal.Signals, llmkit: Server, tree: Callable[..., Tree],
    whole: Callable[..., Path],
) -> None:
    recipe = tree(max_steps=600, save_steps=1000, eval_steps=None, dataloader_num_workers=workers, micro_batch_size=4)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path, "--processes", processes, own=True)
    assert first.until(lambda: runs.steps(run) >= 4)
    first.send(number)
    done = first.wait()
    assert done.status == STATUS[number], done.err
    step = saved_in_order(run, done.error, number)
    assert 4 <= step < 600
    assert nobody_left(llmkit, first, path)
    again = llmkit.start_all("pretrain", path, processes=processes)
    assert [one.wait().status for one in again] == [0] * processes
    the_same(run, whole(recipe, processes))


@pytest.mark.parametrize("killed", cases(("S05-rank", "rank"), ("S05-parent", "parent")))
def test_a_killed_process_takes_the_others_with_it(
    killed: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = tree(max_steps=400, save_steps=30, eval_steps=None, micro_batch_size=4)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path, "--processes", 2, own=True)
    assert first.until(lambda: runs.steps(run) >= 40)
    ranks = sorted(pid for pid in llmkit.left(first, str(path)) if pid != first.pid)
    assert len(ranks) == 2
    os.kill(ranks[1] if killed == "rank" else first.pid, signal.SIGKILL)
    done = first.wait(60)
    assert done.status not in (0, 75)
    assert nobody_left(llmkit, first, path)
    again = llmkit.start_all("pretrain", path, processes=2)
    assert [one.wait().status for one in again] == [0, 0], again[0].err
    the_same(run, whole(recipe, 2))


def test_a_killed_loader_worker_ends_the_run_and_it_can_go_on(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """S05, of the workers that prepare batches."""
    recipe = tree(max_steps=300, save_steps=10, eval_steps=None, dataloader_num_workers=2)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path)
    assert first.until(lambda: runs.steps(run) >= 12)
    workers = [pid for pid in llmkit.left(first, str(path)) if pid != first.pid]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    done = first.wait(60)
    assert done.status == 1, done.err
    assert "DataLoader worker" in done.error
    assert nobody_left(llmkit, first, path)
    assert llmkit.run("pretrain", path, "--resume", "must").status == 0
    the_same(run, whole(recipe))


# ---- before the first step ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 6 MB with 100,000 different words: seconds of work."""
    rng = random.Random(1)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9))) for _ in range(100_000)]
    path = tmp_path_factory.mktemp("long") / "long.txt"
    path.write_text("".join(" ".join(rng.choices(words, k=40)) + "\n" for _ in range(22_000)))
    return path


def mapped(pid: int, library: str) -> bool:
    """Whether a process has loaded a library."""
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(("phase", "number"), cases(
    ("S04-imports", "imports", signal.SIGTERM), ("S04-imports-INT", "imports", signal.SIGINT),
    ("S04-launch", "launch", signal.SIGTERM), ("S04-tokenizer", "tokenizers", signal.SIGTERM),
    ("S04-tokenizer-INT", "tokenizers", signal.SIGINT), ("S04-tokens", "tokens", signal.SIGTERM),
    ("S04-tokens-INT", "tokens", signal.SIGINT), ("S04-first-evaluation", "evaluation", signal.SIGTERM),
    ("S04-first-evaluation-INT", "evaluation", signal.SIGINT)))
def test_a_signal_before_the_first_step_ends_the_run_at_once(
    phase: str, number: signal.Signals, llmkit: Server, tree: Callable[..., Tree], long_text: Path, tmp_path: Path
) -> None:
    recipe = tree("masked_lm")
    recipe["data"]["train"] = str(long_text)
    recipe["tokenizer"] = {"train": {"vocab_size": 8000}}
    path, run, cache = runs.write(recipe), Path(recipe["output_dir"]), tmp_path / "cache"
    words = ("--processes", 2) if phase == "launch" else ()
    first = llmkit.start("pretrain", path, *words, own=phase in ("imports", "launch"), env={"LLMKIT_CACHE": str(cache)})
    there = {
        "imports": lambda: mapped(first.pid, "libtorch_cpu"),
        "launch": lambda: any(mapped(pid, "libtorch_cpu") for pid in llmkit.left(first, str(path))),
        "tokenizers": lambda: list(cache.glob("tokenizers/.*")), "tokens": lambda: list(cache.glob("tokens/.*")),
        "evaluation": lambda: (run / "metrics.jsonl").exists()}[phase]
    assert first.until(there)
    time.sleep(0.1)
    began = time.monotonic()
    first.send(number)
    done = first.wait()
    assert done.status == STATUS[number], done.err
    assert time.monotonic() - began < 60  # 3 s alone
    if phase != "launch":
        assert done.error == f"stopped by {number.name} before the first step"
    assert "Traceback" not in done.err
    assert nobody_left(llmkit, first, path)
    assert runs.checkpoints(run) == []
    assert not (run / "model").exists()


# ---- while something else is done ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "number"), cases(
    ("S04-evaluation", 1, signal.SIGTERM), ("S04-evaluation-INT", 1, signal.SIGINT),
    ("S04-evaluation-processes", 2, signal.SIGTERM)))
def test_a_signal_in_an_evaluation_cuts_it_short_and_it_is_made_anew(
    processes: int, number: signal.Signals, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path],
) -> None:
    """Of 12 steps with evaluations after 4, 8 and 12; the signal comes in the second and in the last."""
    recipe = tree(save_steps=100)
    recipe["data"]["validation"] = 0.9
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    for step in (8, 12):
        several = llmkit.start_all("pretrain", path, processes=processes, signal_after=(step, number))
        done = several[0].wait()
        assert done.status == STATUS[number], done.err
        others = [one.wait().status for one in several[1:]]
        assert set(others) <= {STATUS[number], 1}  # one that got no signal itself ends by the same agreement
        assert saved_in_order(run, done.error, number) == step
        assert [event["step"] for event in runs.events(run, "evaluate")] == list(range(0, step, 4))
    assert llmkit.run_all("pretrain", path, processes=processes).status == 0
    assert [event["step"] for event in runs.events(run, "evaluate")] == [0, 4, 8, 12]
    the_same(run, whole(recipe, processes))


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("nth", cases(*((f"S04-save-{n}", n) for n in (1, 3, 6, 9))))
def test_a_signal_in_a_save_lets_it_end(
    nth: int, number: signal.Signals, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = tree()
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    done = llmkit.run("pretrain", path, signal_at=(nth, str(run / "checkpoints" / ".step-00000005"), number))
    assert done.status == STATUS[number], done.err
    assert saved_in_order(run, done.error, number) in (5, 6)
    assert llmkit.run("pretrain", path).status == 0
    the_same(run, whole(recipe))


@pytest.mark.parametrize("nth", cases(*((f"S04-model-{n}", n) for n in (1, 3, 6)), quick=("S04-model-3",)))
def test_a_signal_while_the_model_is_written_leaves_none(
    nth: int, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = tree()
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    done = llmkit.run("pretrain", path, signal_at=(nth, str(run / ".model"), signal.SIGTERM))
    assert done.status == 75, done.err
    assert saved_in_order(run, done.error, signal.SIGTERM) == 12
    assert llmkit.run("pretrain", path).status == 0
    the_same(run, whole(recipe))


# ---- a closed terminal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "kept"), cases(
    ("S06-terminal", 1, False), ("S06-terminal-2", 2, False), ("S06-nohup", 1, True)))
def test_a_closed_terminal_ends_the_run_in_order_but_with_nohup(
    processes: int, kept: bool, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """Its SIGHUP is as SIGTERM; where that is ignored, nothing that can't be said any more ends the run."""
    length = 60 if kept else 600
    recipe = tree(max_steps=length, save_steps=1000, eval_steps=None, micro_batch_size=4)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    terminal, inside = pty.openpty()

    def enter() -> None:
        os.setsid()
        fcntl.ioctl(inside, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if kept else signal.SIG_DFL)

    first = subprocess.Popen(
        [sys.executable, "-m", "llmkit", "pretrain", str(path), "--processes", str(processes)], stdin=inside,
        stdout=inside, stderr=inside, preexec_fn=enter, env=llmkit.environment)
    os.close(inside)
    deadline = time.monotonic() + PATIENCE
    while runs.steps(run) < 4 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.set_blocking(terminal, False)
    time.sleep(0.1)
    heard = os.read(terminal, 100_000)
    os.close(terminal)
    status = first.wait(PATIENCE)
    assert b"parameters" in heard
    if kept:
        assert status == 0
        assert runs.summary(run)["status"] == "completed"
        return
    assert status == 75
    assert 4 <= runs.events(run)[-1]["step"] < length
    assert is_whole(runs.checkpoints(run)[-1])
    assert runs.summary(run)["status"] == "stopped"
    assert not (run / "model").exists()
    again = llmkit.start_all("pretrain", path, processes=processes)
    assert [one.wait().status for one in again] == [0] * processes
    the_same(run, whole(recipe, processes))


# ---- twice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", BOTH)
def test_a_second_signal_stops_at_once(number: signal.Signals, llmkit: Server, tree: Callable[..., Tree]) -> None:
    """S03: in a step that takes a minute."""
    recipe = tree(max_steps=4, save_steps=1, eval_steps=None, global_batch_size=65536)
    run = Path(recipe["output_dir"])
    first = llmkit.start("pretrain", runs.write(recipe))
    assert first.until(lambda: "rows a step" in first.err)
    time.sleep(2)
    first.send(number)
    time.sleep(1.5)
    assert first.poll() is None
    began = time.monotonic()
    first.send(number)
    done = first.wait()
    assert done.status == STATUS[number], done.err
    assert done.error == f"stopped by {number.name} at once"
    assert time.monotonic() - began < 30
    assert runs.checkpoints(run) == []
    assert runs.summary(run)["status"] == "stopped"


def test_the_same_signal_from_two_sides_is_one(llmkit: Server, tree: Callable[..., Tree]) -> None:
    """Schedulers send theirs to every process of a job, and a launcher passes its own on."""
    recipe = tree(max_steps=4000, save_steps=1000, eval_steps=None)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path)
    assert first.until(lambda: runs.steps(run) >= 2)
    first.send(signal.SIGTERM)
    first.send_all(signal.SIGTERM)
    done = first.wait()
    assert done.status == 75
    saved_in_order(run, done.error, signal.SIGTERM)
