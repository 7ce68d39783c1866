"""D: a disk that is full, read-only or too small, and files in the way: told at once where it can be known; else 6."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reliability import runs
from reliability.commands import Server
from reliability.test_checkpoints import is_whole
from reliability.test_resume import cases, the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
MB = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(bytes)`: a folder on a disk of its own; only root can have one."""
    made: list[Path] = []

    def make(size: int) -> Path:
        place = tmp_path / f"disk{len(made)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True,
                              check=False)
        if done.returncode:
            pytest.skip("only root can make a small disk")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def big(tree: Tree, folder: Path) -> Tree:
    """The recipe with a model of 1.3 MB, whose checkpoints have 4 MB, in another folder."""
    config = {**tree["backbone"]["config"], "hidden_size": 128, "intermediate_size": 512}
    return {**tree, "backbone": {**tree["backbone"], "config": config}, "output_dir": str(folder)}


@pytest.mark.parametrize("later", cases(("D01", False), ("D01-last-lines", True)))
def test_a_disk_that_fills_up_ends_the_run_with_6_and_it_goes_on_when_there_is_room(
    later: bool, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path],
    small_disk: Callable[[int], Path],
) -> None:
    """It is filled when step 6 is logged: by all but a part of a checkpoint, or wholly, so that no line finds room."""
    disk = small_disk(40 * MB)
    recipe = big(tree(eval_steps=None), disk / "run")
    path, run = runs.write(recipe, disk.parent), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path, signal_after=(6, signal.SIGSTOP))
    assert first.until(lambda: runs.steps(run) == 6), first.err
    assert is_whole(runs.checkpoints(run)[-1])
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler = disk / "filler"
    filler.write_bytes(b"\0" * (free - (0 if later else 2 * MB)))
    first.send(signal.SIGCONT)
    done = first.wait()
    assert done.status == 6, done.err
    assert "No space left on device" in done.error
    assert [one.name for one in runs.checkpoints(run)] == ["step-00000005"]
    assert is_whole(runs.checkpoints(run)[0])
    assert not list((run / "checkpoints").glob(".step-*"))
    filler.unlink()
    again = llmkit.run("pretrain", path, "--resume", "must")
    assert again.status == 0, again.err
    the_same(run, whole(recipe))


@pytest.mark.parametrize("limit", cases(("D01-optimizer", 2_500_000), ("D01-weights", 500_000)))
def test_a_file_that_may_not_grow_ends_the_run_with_6(
    limit: int, llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    """A limit on the size of files, as batch systems set it: the weights have 1.3 MB, the optimizer's state 2.6 MB."""
    recipe = big(tree(), tmp_path / "run")
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    done = llmkit.run("pretrain", path, file_size=limit)
    assert done.status == 6, done.err
    assert "File too large" in done.error
    assert "What was saved before is whole." in done.error
    assert list((run / "checkpoints").iterdir()) == []
    assert llmkit.run("pretrain", path).status == 0


def test_a_cache_without_room_is_told_too(
    llmkit: Server, tree: Callable[..., Tree], small_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    disk = small_disk(4096)
    recipe = tree()
    (tmp_path / "more.txt").write_text(Path(recipe["data"]["train"]).read_text() * 20)
    recipe["data"]["train"] = str(tmp_path / "more.txt")
    done = llmkit.run("pretrain", runs.write(recipe), env={"LLMKIT_CACHE": str(disk)})
    assert done.status == 6, done.err
    assert "No space left on device" in done.error


@pytest.mark.parametrize("where", cases(
    ("D02-file", "run"), ("D02-below-file", "run/below/this"), ("D02-checkpoints", "checkpoints"),
    ("D02-model", "model"), quick=("D02-model",)))
def test_a_file_in_the_way_is_told_before_a_model_is_built(
    where: str, llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    recipe = tree()
    if where.startswith("run"):
        (tmp_path / "run").write_text("mine")
        recipe["output_dir"] = str(tmp_path / where)
        named = f"{tmp_path}/run"
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / where).write_text("mine")
        named = f"{tmp_path}/run/{where}"
    began = time.monotonic()
    done = llmkit.run("pretrain", runs.write({**recipe, "output_dir": str(tmp_path / "r")}), "--output-dir",
                      recipe["output_dir"])
    assert done.status == 6, done.err
    assert done.error.startswith(named)
    assert "parameters train" not in done.err
    assert time.monotonic() - began < 60  # a second alone
    assert Path(named).read_text() == "mine"


def test_a_read_only_place_is_told_before_a_model_is_built(
    llmkit: Server, tree: Callable[..., Tree], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """D02."""
    if os.geteuid() == 0:  # whom no mode of a folder stops
        place = request.getfixturevalue("small_disk")(MB)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    else:
        place = tmp_path / "place"
        place.mkdir(0o555)
    done = llmkit.run("pretrain", runs.write(tree()), "--output-dir", place / "run")
    assert done.status == 6, done.err
    assert done.error.startswith(f"{place}/run")
    assert "Read-only file system" in done.error or "Permission denied" in done.error
    assert "parameters train" not in done.err


def test_too_little_room_for_what_a_run_saves_is_told_before_the_first_step(
    llmkit: Server, tree: Callable[..., Tree], small_disk: Callable[[int], Path]
) -> None:
    """D03: with both numbers. One checkpoint fewer to keep, and it fits."""
    disk = small_disk(14 * MB)
    recipe = big(tree(save_steps=2, eval_steps=None), disk / "run")
    path, run = runs.write(recipe, disk.parent), Path(recipe["output_dir"])
    done = llmkit.run("pretrain", path)
    assert done.status == 6, done.err
    found = re.match(rf"{run}: ([\d.]+) MB are free, and this run needs ([\d.]+) MB: 3 checkpoints of ([\d.]+) MB "
                     r"and a model of ([\d.]+) MB", done.error)
    assert found, done.error
    free, needed, each, model = map(float, found.groups())
    assert 13 < free < 14.1 < needed
    assert needed == pytest.approx(3 * each + model, abs=0.2)
    assert runs.steps(run) == 0
    fits = llmkit.run("pretrain", path, "--set", "training.save_total_limit=1")
    assert fits.status == 0, fits.err
    written = sum(one.stat().st_size for one in runs.checkpoints(run)[-1].iterdir()) / MB
    assert written == pytest.approx(each, rel=0.05)
