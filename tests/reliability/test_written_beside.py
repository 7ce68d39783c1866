"""A: two processes write checkpoints beside their steps, whole models and models in parts: the same ones, or none."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Child, tiny

import llmkit
from llmkit.training.folder.run_folder import verify
from llmkit.training.spread import ddp, shards
from reliability import runs

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]

STRATEGIES = ["ddp", "fsdp"]
SAVES = ["step-00000002", "step-00000004", "step-00000006"]


class Acts(llmkit.Callback):
    """Does something after a step, and notes what is whole."""

    def __init__(self, **acts: Callable[[], object]) -> None:
        self.acts = acts

    def on_step(self, view: Any) -> None:
        print(f"step {view.step}", flush=True)
        self.acts.get(f"after_{view.step}", lambda: None)()

    def on_save(self, view: Any, folder: Path) -> None:
        print(f"{folder.name} is {'whole' if verify(folder).step else ''}", flush=True)


def train(
    text: Path, folder: Path, strategy: str, prepare: Callable[[int], Acts] | None = None, resume: str = "auto",
) -> list[Child]:
    """Six steps with dropout on two processes, a checkpoint after each second; with `prepare`, beside the steps.

    prepare   what a process does before it trains, by its number: what it gives is told of the run
    """
    plan = {"max_steps": 6, "save_steps": 2, "save_total_limit": 9, "eval_steps": 2, "metric_for_best_model": "loss",
            "ddp_timeout": 20, "micro_batch_size": 2, "async_save": prepare is not None,
            "distributed": {"strategy": strategy}}
    recipe = tiny("gpt2", text, folder, **plan)
    recipe["data"]["validation"] = 0.1
    return runs.both(folder, lambda rank: llmkit.fit(
        recipe, resume, callbacks=[prepare(rank) if prepare is not None else Acts()]))


def held(strategy: str, work: Callable[[Callable[..., None], Path, tuple[Any, ...]], None]) -> None:
    """In a child of its own: what writes the files of a checkpoint, if it isn't the loop, does `work` instead."""
    module: Any = shards if strategy == "fsdp" else ddp
    write = module.write

    def instead(folder: Path, *given: Any, **more: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            write(folder, *given, **more)
        else:
            work(lambda: write(folder, *given, **more), folder, given)

    module.write = instead


def contents(run: Path) -> dict[str, Any]:
    """The tensors of each checkpoint, and the lines of metrics.jsonl."""
    found: dict[str, Any] = {folder.name: runs.digests_of(verify(folder).folder) for folder in runs.checkpoints(run)}
    found["events"] = [{name: value for name, value in event.items() if name not in runs.TIMED}
                       for event in runs.events(run, None)]
    return found


@pytest.fixture(scope="module")
def usual(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs that wait for their checkpoints."""
    folder = tmp_path_factory.mktemp("usual")
    for strategy in STRATEGIES:
        both = train(text, folder / strategy, strategy)
        assert runs.ended(both) == [0, 0], both[0].said.read_text()
    return {strategy: folder / strategy for strategy in STRATEGIES}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_they_are_the_same_when_steps_go_on(
    strategy: str, text: Path, tmp_path: Path, usual: dict[str, Path],
) -> None:
    """A01: what is of step 2 is written after step 3, what is of step 4 after step 5, by both processes."""
    def prepare(rank: int) -> Acts:
        go = threading.Event()

        def late(write: Callable[[], None], folder: Path, given: tuple[Any, ...]) -> None:
            assert go.wait(60)
            write()

        held(strategy, late)
        return Acts(after_3=go.set, after_4=go.clear, after_5=go.set)

    both = train(text, tmp_path / "run", strategy, prepare)
    assert runs.ended(both) == [0, 0], both[0].said.read_text() + both[1].said.read_text()
    assert [folder.name for folder in runs.checkpoints(tmp_path / "run")] == SAVES
    assert contents(tmp_path / "run") == contents(usual[strategy])
    for one in both:  # both hear of it at the same step
        said = one.said.read_text().split("\n")
        assert said.index("step-00000002 is whole") > said.index("step 3")
        assert [line for line in said if line.startswith("step-")] == [f"{name} is whole" for name in SAVES]
    assert len({one.said.read_text().partition("step-00000002")[0].count("step ") for one in both}) == 1


@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 0), ("fsdp", 0), ("fsdp", 1)])
def test_a_full_disk_of_one_ends_both_with_6(
    strategy: str, rank: int, text: Path, tmp_path: Path, usual: dict[str, Path],
) -> None:
    """A02: in the thread of one process; the half checkpoint goes, the one before stays, and the run goes on."""
    def prepare(mine: int) -> Acts:
        def full(write: Callable[[], None], folder: Path, given: tuple[Any, ...]) -> None:
            if mine == rank and "00000004" in folder.name:
                torch.save = safetensors.torch.save = fails  # what writes the optimizer, and what writes a part
            write()

        def fails(*given: object, **more: object) -> bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

        held(strategy, full)
        return Acts()

    both = train(text, tmp_path / "run", strategy, prepare)
    first, second = runs.ended(both)
    assert (first, second > 0) == (6, True), both[0].said.read_text() + both[1].said.read_text()
    assert "No space left on device. What was saved before is whole." in both[0].said.read_text()
    left = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert left == ["step-00000002"]
    both = train(text, tmp_path / "run", strategy, lambda rank: Acts(), "must")
    assert runs.ended(both) == [0, 0], both[0].said.read_text()
    assert contents(tmp_path / "run") == contents(usual[strategy])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_of_one_while_it_is_written_costs_that_checkpoint_alone(
    strategy: str, text: Path, tmp_path: Path, usual: dict[str, Path],
) -> None:
    """A03: the first process is killed in step 5, with the checkpoint of step 4 half written."""
    def prepare(rank: int) -> Acts:
        begun = threading.Event()

        def half(write: Callable[[], None], folder: Path, given: tuple[Any, ...]) -> None:
            if "00000004" in folder.name:
                begun.set()
                threading.Event().wait()
            write()

        def kill() -> None:
            begun.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)

        held(strategy, half)
        return Acts(after_5=kill) if rank == 0 else Acts()

    both = train(text, tmp_path / "run", strategy, prepare)
    first, second = runs.ended(both)
    assert first == -signal.SIGKILL
    assert second not in (0, -signal.SIGKILL)
    assert [folder.name for folder in runs.checkpoints(tmp_path / "run")] == ["step-00000002"]
    both = train(text, tmp_path / "run", strategy, lambda rank: Acts(), "must")
    assert runs.ended(both) == [0, 0], both[0].said.read_text()
    assert contents(tmp_path / "run") == contents(usual[strategy])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_to_one_waits_for_both_checkpoints(
    strategy: str, text: Path, tmp_path: Path, usual: dict[str, Path],
) -> None:
    """A04: SIGTERM to the second process after step 3, while that of step 2 is written."""
    def prepare(rank: int) -> Acts:
        go = threading.Event()

        def late(write: Callable[[], None], folder: Path, given: tuple[Any, ...]) -> None:
            assert go.wait(60)
            write()

        def stop() -> None:
            threading.Timer(0.3, go.set).start()
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        held(strategy, late)
        return Acts(after_3=stop)

    both = train(text, tmp_path / "run", strategy, prepare)
    assert runs.ended(both) == [75, 75], both[0].said.read_text() + both[1].said.read_text()
    assert runs.checkpoints(tmp_path / "run")[0].name == SAVES[0]
    assert len(runs.checkpoints(tmp_path / "run")) == 2
    both = train(text, tmp_path / "run", strategy, lambda rank: Acts(), "must")
    assert runs.ended(both) == [0, 0], both[0].said.read_text()
    found = contents(tmp_path / "run")
    assert {name: found[name] for name in (*SAVES, "events")} == contents(usual[strategy])
