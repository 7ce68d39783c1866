"""A clock that jumps, next to no shared memory for loader workers, and first starts that share an empty cache."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from llmkit import recipe
from llmkit.training.fit import fit
from reliability import runs
from reliability.commands import Server
from reliability.test_resume import the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
DAY = 86_400


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_minutes_are_those_that_pass_though_the_clock_of_the_machine_jumps(
    jump: int, tree: Callable[..., Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a laptop wakes up, or a time server corrects it: the run neither ends at once nor goes on for a day."""
    true, asked = time.time, count()
    monkeypatch.setattr(time, "time", lambda: true() + jump * next(asked))
    began = time.perf_counter()
    summary = fit(recipe.load(tree(max_steps=None, max_minutes=0.05, save_steps=50, eval_steps=50)))
    assert summary["status"] == "completed"
    assert summary["steps"] > 3
    assert 3 <= time.perf_counter() - began < 60
    assert 0 < summary["wall_seconds"] < 60


def test_loader_workers_need_no_shared_memory(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """As in a container, whose /dev/shm has 64 MB or less; here it has 64 kB."""
    small = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", small], capture_output=True, check=False).returncode:
        pytest.skip("only who may mount can make /dev/shm smaller")
    recipe = tree(dataloader_num_workers=2)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    command = f"{small} && exec {sys.executable} -m llmkit pretrain {path}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], env=llmkit.environment, capture_output=True,
                          text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    the_same(run, whole(recipe))


def test_first_starts_at_once_share_an_empty_cache(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path], tmp_path: Path
) -> None:
    """Three runs, as of an array of jobs: each trains the tokenizer or waits for it, and all are the same."""
    trees = [tree("causal_lm", f"run{i}") for i in range(3)]
    cache = {"LLMKIT_CACHE": str(tmp_path / "cache")}
    started = [llmkit.start("pretrain", runs.write(one), env=cache) for one in trees]
    for command, one in zip(started, trees, strict=True):
        done = command.wait()
        assert done.status == 0, done.err
        the_same(Path(one["output_dir"]), whole(trees[0]))
    left = [path.name for path in (tmp_path / "cache").rglob("*") if "staging" in path.name or path.suffix == ".tmp"]
    assert left == []
