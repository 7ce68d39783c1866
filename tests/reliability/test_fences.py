"""Z: a run whose folder is taken away ends and writes nothing more; links; files of others; what a shell left over."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reliability import runs
from reliability.commands import Done, Server
from reliability.test_resume import the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
SAID = "This run ends and writes nothing more."


@pytest.mark.parametrize("seed", [7, None])
def test_a_run_that_sleeps_while_its_folder_becomes_another_runs_leaves_it_alone(
    seed: int | None, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path],
) -> None:
    """Z1: SIGSTOP, rm -r, another run there, SIGCONT."""
    recipe = tree(max_steps=120, save_steps=20, eval_steps=None)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    old = llmkit.start("pretrain", path)
    assert old.until(lambda: runs.steps(run) >= 30)
    old.send(signal.SIGSTOP)
    shutil.rmtree(run)
    new = llmkit.start("pretrain", path, *([] if seed is None else ["--seed", seed]))
    assert new.until(lambda: runs.steps(run) >= 25)
    old.send(signal.SIGCONT)
    ended, done = old.wait(), new.wait()
    assert (ended.status, done.status) == (6, 0), ended.err
    assert f"{run}: is another run's now, while this run had it" in ended.error
    assert ended.error.endswith(SAID)
    the_same(run, whole({**recipe, **({} if seed is None else {"seed": seed})}))


@pytest.mark.parametrize("way", ["moved", "removed"])
def test_a_run_whose_folder_goes_ends_and_makes_no_new_one(
    way: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path],
) -> None:
    """Z2: what was moved goes on where it is now."""
    recipe = tree(max_steps=120, save_steps=20, eval_steps=None)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    command = llmkit.start("pretrain", path)
    assert command.until(lambda: runs.steps(run) >= 30)
    command.send(signal.SIGSTOP)
    moved = run.with_name("moved")
    run.rename(moved)
    if way == "removed":
        shutil.rmtree(moved)
    command.send(signal.SIGCONT)
    ended = command.wait()
    assert ended.status == 6
    assert f"{run}: was moved or removed, while this run had it" in ended.error
    assert not run.exists()
    if way == "moved":
        assert llmkit.run("pretrain", path, "--output-dir", moved).status == 0
        the_same(moved, whole(recipe))


def test_a_run_that_wakes_up_after_it_was_taken_over_ends(llmkit: Server, tree: Callable[..., Tree]) -> None:
    """Z3: on a disk that machines share; the other machine's run has written its name into the lock."""
    recipe = tree(max_steps=120, save_steps=20, eval_steps=None)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    command = llmkit.start("pretrain", path)
    assert command.until(lambda: runs.steps(run) >= 5)
    command.send(signal.SIGSTOP)
    (run / ".lock").write_text("process 77 on elsewhere\n0123\n")
    before = runs.trees(run)
    command.send(signal.SIGCONT)
    ended = command.wait()
    assert ended.status == 6
    assert "another run (process 77 on elsewhere) has taken it over from this one" in ended.error
    after = runs.trees(run)
    assert {name for name in before if before[name] != after.get(name)} <= {"metrics.jsonl"}  # a step may be under way
    assert (run / ".lock").read_text() == "process 77 on elsewhere\n0123\n"


def test_a_longer_run_goes_on_where_its_model_and_checkpoints_were_moved_to_a_big_disk(
    llmkit: Server, tree: Callable[..., Tree], tmp_path: Path,
) -> None:
    """Z4."""
    recipe = tree(max_steps=6, save_steps=2, eval_steps=None, lr_scheduler_type="constant")
    path, run, big = runs.write(recipe), Path(recipe["output_dir"]), tmp_path / "big"
    assert llmkit.run("pretrain", path).status == 0
    big.mkdir()
    for folder in (*runs.checkpoints(run), run / "model"):
        shutil.move(folder, big / folder.name)
        folder.symlink_to(big / folder.name)
    before = runs.trees(big)
    for steps in (8, 10, 12):
        done = llmkit.run("pretrain", path, "--set", f"training.max_steps={steps}")
        assert done.status == 0, done.err
    assert runs.summary(run)["steps"] == 12
    assert runs.trees(big) == before


def test_a_project_keeps_what_stands_where_a_run_would_write(llmkit: Server, tree: Callable[..., Tree]) -> None:
    """Z5: --output-dir . beside a README and a recipe of the user's; other files are nobody's affair."""
    recipe = tree(max_steps=2)
    Path("slurm-1.out").write_text("x")
    Path("recipe.yaml").write_text("# my notes\n" + yaml.safe_dump(recipe))
    Path("README.md").write_text("# my thesis\n")
    for _ in range(2):
        done = llmkit.run("pretrain", "recipe.yaml", "--output-dir", ".")
        assert done.status == 6
        assert "recipe.yaml, README.md are there, and no run of llmkit wrote them" in done.error
    assert Path("README.md").read_text() == "# my thesis\n"
    Path("recipe.yaml").rename("mine.yaml")
    Path("README.md").rename("mine.md")
    assert llmkit.run("pretrain", "mine.yaml", "--output-dir", ".").status == 0
    assert llmkit.run("pretrain", "recipe.yaml", "--output-dir", ".").status == 0  # its own, as it is
    assert Path("slurm-1.out").read_text() == "x"


# ---- what a shell, a scheduler or a user brings along ---------------------------------------------------------------


@pytest.mark.parametrize(("variables", "named", "missing"), [
    ({"RANK": "0"}, "RANK=0", "WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1", "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2", "RANK, MASTER_ADDR, MASTER_PORT"),
    ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x", "RANK, MASTER_ADDR, MASTER_PORT"),
    ({"RANK": "x"}, "RANK=x", "WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
    ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "RANK=1, LOCAL_RANK=1, WORLD_SIZE=2",
     "MASTER_ADDR, MASTER_PORT"),
    ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, None, "")], ids=lambda value: str(value)[:40])
def test_what_is_left_over_of_a_launch_is_said_and_ignored(
    variables: dict[str, str], named: str | None, missing: str, llmkit: Server, tree: Callable[..., Tree],
    whole: Callable[..., Path],
) -> None:
    """Z6."""
    recipe = tree()
    done = llmkit.run("pretrain", runs.write(recipe), env=variables)
    assert done.status == 0, done.err
    assert [line for line in done.err.splitlines() if "left over" in line] == ([] if named is None else [
        f"llmkit: {named}: left over of a launch, for {missing} are missing; ignored, and one process runs"])
    the_same(Path(recipe["output_dir"]), whole(recipe))


@pytest.mark.parametrize("variables", [
    {"RANK": "x"}, {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "1.5"}, {"LOCAL_RANK": "-1"}, {"RANK": "2"},
    {"RANK": "1", "WORLD_SIZE": "1"}], ids=str)
def test_a_launch_whose_numbers_cannot_be_is_refused(
    variables: dict[str, str], llmkit: Server, tree: Callable[..., Tree],
) -> None:
    """Z7: all of a launch's variables are there, so nobody may guess."""
    whole = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = llmkit.run("pretrain", runs.write(tree()), env={**whole, **variables})
    assert done.status == 2, done.err
    name, value = next(iter(variables.items()))
    assert done.error.startswith(f"{name}={value}: ")


def killed(llmkit: Server, number: signal.Signals, tree: Callable[..., Tree]) -> Done:
    """A launch of two processes, the second of which is killed."""
    recipe = tree(max_steps=3000, eval_steps=None)
    run = Path(recipe["output_dir"])
    command = llmkit.start("pretrain", runs.write(recipe), "--processes", 2)
    assert command.until(lambda: runs.steps(run) >= 5)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            variables = (Path("/proc") / pid / "environ").read_bytes().split(b"\0")
            words = (Path("/proc") / pid / "cmdline").read_bytes()
        except OSError:
            continue
        if b"RANK=1" in variables and os.fsencode(run.with_suffix(".yaml")) in words:
            os.kill(int(pid), number)
            break
    return command.wait()


def test_a_process_that_is_killed_is_named_with_its_signal(llmkit: Server, tree: Callable[..., Tree]) -> None:
    """Z8: as by a machine that runs out of memory."""
    done = killed(llmkit, signal.SIGKILL, tree)
    assert done.status == 137
    assert done.error.startswith("process 1 of 0 to 1 (pid ")
    assert "was killed by SIGKILL" in done.error
    assert "The same command goes on from the last checkpoint" in done.error


@pytest.mark.parametrize("mask", [0o077, 0o027])
def test_what_a_run_leaves_is_for_those_whom_the_umask_lets_read_it(
    mask: int, llmkit: Server, tree: Callable[..., Tree], tmp_path: Path,
) -> None:
    """Z9: the run's folder, and what the cache keeps of its text."""
    done = llmkit.run("pretrain", runs.write(tree(max_steps=2)), umask=mask,
                      env={"LLMKIT_CACHE": str(tmp_path / "cache")})
    assert done.status == 0, done.err
    left = [*(tmp_path / "run").rglob("*"), *(tmp_path / "cache").rglob("*")]
    assert len(left) > 20
    assert [one for one in left if one.stat().st_mode & 0o777 & mask] == []
