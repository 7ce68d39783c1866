"""R: what a crash or a bad disk leaves is told, named and passed over; nothing good is lost; a folder has one run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from llmkit.models.layout import SILENCE
from llmkit.system.errors import CheckpointError
from llmkit.training.folder.run_folder import verify
from reliability import runs
from reliability.commands import ROOT, Server
from reliability.test_resume import cases, the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
FILES = ("MANIFEST.json", "trained.safetensors", "optimizer.pt", "best.safetensors")


def is_whole(checkpoint: Path) -> bool:
    """Whether every file has the size and the hash that the manifest says; written from its description."""
    files = json.loads((checkpoint / "MANIFEST.json").read_text())["files"]
    return bool(files) and all(
        len(raw := (checkpoint / name).read_bytes()) == said["size"] and sha256(raw).hexdigest() == said["sha256"]
        for name, said in files.items())


# ---- a kill inside a save ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", cases(*((f"R07-{n}", n) for n in range(1, 178, 4)), quick=("R07-53", "R07-61")))
def test_a_kill_at_any_file_operation_leaves_whole_checkpoints_or_none(
    nth: int, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """One checkpoint is kept (R20): from the first save on, there is always one that is whole."""
    recipe = tree(save_steps=3, save_total_limit=1, eval_steps=None)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.run("pretrain", path, signal_at=(nth, str(run), signal.SIGKILL))
    if first.status == 0:  # a run has fewer file operations than that
        return the_same(run, whole(recipe))
    assert first.status == -signal.SIGKILL
    assert all(map(is_whole, runs.checkpoints(run)))
    if runs.steps(run) > 3:
        assert runs.checkpoints(run) or list((run / "checkpoints").glob(".was-step-*"))
    again = llmkit.run("pretrain", path)
    assert again.status == 0, again.err
    assert "damaged" not in again.err
    return the_same(run, whole(recipe))


def test_a_kill_while_the_model_is_written_leaves_none(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = tree()
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    assert llmkit.run("pretrain", path, signal_at=(3, str(run / ".model"), signal.SIGKILL)).status == -signal.SIGKILL
    assert not (run / "model").exists()
    assert llmkit.run("pretrain", path).status == 0
    the_same(run, whole(recipe))


# ---- damage -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cut_short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run that `stopped` copies is kept."""
    return tmp_path_factory.mktemp("cut")


@pytest.fixture
def stopped(llmkit: Server, tree: Callable[..., Tree], cut_short: Path) -> Tree:
    """The recipe of a run that was killed after step 11: it has checkpoints of steps 5 and 10."""
    recipe = tree(metric_for_best_model="loss")
    run, kept = Path(recipe["output_dir"]), cut_short / "run"
    if not kept.exists():
        path = runs.write({**recipe, "output_dir": str(kept)})
        assert llmkit.run("pretrain", path, signal_after=(11, signal.SIGKILL)).status == -signal.SIGKILL
        assert [one.name for one in runs.checkpoints(kept)] == ["step-00000005", "step-00000010"]
    shutil.copytree(kept, run)
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace(str(kept), str(run)))
    return recipe


def damage(path: Path, how: str) -> None:
    """Remove a file, cut it in half, or flip a bit in its middle."""
    raw = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)


@pytest.mark.parametrize(("name", "how"), cases(
    *((f"{number}-{how}-{name}", name, how) for name in FILES
      for number, how in (("R09", "missing"), ("R10", "truncated"), ("R11", "flipped"))),
    quick=("R11-flipped-optimizer.pt", "R09-missing-MANIFEST.json")))
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_is_used(
    name: str, how: str, llmkit: Server, stopped: Tree, whole: Callable[..., Path]
) -> None:
    run = Path(stopped["output_dir"])
    damage(run / "checkpoints" / "step-00000010" / name, how)
    done = llmkit.run("pretrain", runs.write(stopped), "--resume", "must")
    assert done.status == 0, done.err
    assert re.search(rf"passed over a damaged checkpoint: \S*step-00000010: {re.escape(name)} ", done.err), done.err
    assert re.search(r"going on from \S*step-00000005", done.err)
    the_same(run, whole(stopped))
    assert all(map(is_whole, runs.checkpoints(run)))


def test_every_bit_of_a_manifest_counts(stopped: Tree) -> None:
    """R11, each bit of it: what is read is what was written, or it is refused."""
    newest = runs.checkpoints(Path(stopped["output_dir"]))[-1]
    path = newest / "MANIFEST.json"
    raw = path.read_bytes()
    manifest, found = json.loads(raw), 0
    for bit in range(0, 8 * len(raw), 3):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert verify(newest).manifest == manifest  # `1e-05` may be written `1E-05`
        except CheckpointError:
            found += 1
    assert found > 8 * len(raw) / 3 - 40
    path.write_bytes(raw)
    assert verify(newest).manifest == manifest


def test_a_damaged_newer_checkpoint_never_pushes_out_a_whole_one(llmkit: Server, stopped: Tree) -> None:
    """The run goes on from 5 and keeps one checkpoint: 6 is whole, 10 isn't; a kill comes before 10 is made anew."""
    run = Path(stopped["output_dir"])
    damage(run / "checkpoints" / "step-00000010" / "optimizer.pt", "flipped")
    words = ("pretrain", runs.write(stopped), "--set", "training.save_steps=1", "--set", "training.save_total_limit=1")
    assert llmkit.run(*words, signal_after=(8, signal.SIGKILL)).status == -signal.SIGKILL
    assert [one.name for one in runs.checkpoints(run)] == ["step-00000007"]
    assert llmkit.run(*words, "--resume", "must").status == 0


def test_where_every_checkpoint_is_damaged_nothing_is_trained_and_nothing_deleted(
    llmkit: Server, stopped: Tree
) -> None:
    """R12."""
    run = Path(stopped["output_dir"])
    damage(run / "checkpoints" / "step-00000005" / "trained.safetensors", "truncated")
    damage(run / "checkpoints" / "step-00000010" / "MANIFEST.json", "flipped")
    before = runs.trees(run)
    for resume in ("auto", "must"):
        done = llmkit.run("pretrain", runs.write(stopped), "--resume", resume)
        assert done.status == 4
        assert done.error.startswith(f"every checkpoint in {run}/checkpoints is damaged")
    assert runs.trees(run) == before


def test_what_the_manifest_does_not_name_is_not_read(llmkit: Server, stopped: Tree, whole: Callable[..., Path]) -> None:
    run = Path(stopped["output_dir"])
    (run / "checkpoints" / "step-00000010" / "tuning.safetensors").write_bytes(b"not of this run")
    (run / "checkpoints" / "step-00000010.bak").mkdir()
    (run / "checkpoints" / ".DS_Store").touch()
    assert llmkit.run("pretrain", runs.write(stopped), "--resume", "must").status == 0
    the_same(run, whole(stopped))
    assert (run / "checkpoints" / "step-00000010.bak").is_dir()


# ---- whether there is something to resume ------------------------------------------------------------------------


@pytest.mark.quick
def test_must_needs_a_checkpoint_and_auto_does_not(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """R13."""
    recipe = tree()
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    refused = llmkit.run("pretrain", path, "--resume", "must")
    assert (refused.status, "there is nothing to resume" in refused.error) == (4, True)
    assert llmkit.run("pretrain", path, "--resume", "auto").status == 0
    the_same(run, whole(recipe))
    refused = llmkit.run("pretrain", path, "--resume", "never")
    assert (refused.status, "holds a run already" in refused.error) == (6, True)


def test_a_finished_run_is_left_as_it_is(llmkit: Server, tree: Callable[..., Tree]) -> None:
    """R19."""
    recipe = tree()
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    assert llmkit.run("pretrain", path).status == 0
    before = runs.trees(run), {one: one.stat().st_mtime_ns for one in run.rglob("*") if one.is_file()
                               and one.name != ".lock"}
    again = llmkit.run("pretrain", path, "--json")
    assert again.status == 0
    assert "this run is complete after 12 steps; nothing to do" in again.err
    assert json.loads(again.out)["steps"] == 12
    assert before == (runs.trees(run), {one: one.stat().st_mtime_ns for one in run.rglob("*") if one.is_file()
                                        and one.name != ".lock"})


# ---- one run a folder --------------------------------------------------------------------------------------------


def test_a_folder_has_one_run_at_a_time_and_a_dead_ones_is_taken_over(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """R18."""
    recipe = tree(max_steps=300, save_steps=20, eval_steps=None)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path)
    assert first.until(lambda: runs.steps(run) >= 2)
    first.send(signal.SIGSTOP)
    began = time.monotonic()
    second = llmkit.run("pretrain", path)
    assert second.status == 6
    assert f"in use by another run (process {first.pid} on {socket.gethostname()})" in second.error
    assert time.monotonic() - began < 30  # 2 s alone
    first.send(signal.SIGCONT)
    assert first.until(lambda: runs.steps(run) >= 30)
    first.send(signal.SIGKILL)
    assert first.wait().status == -signal.SIGKILL
    assert llmkit.run("pretrain", path).status == 0
    the_same(run, whole(recipe))


@pytest.mark.quick
def test_the_lock_of_a_run_on_another_machine_is_taken_over_only_after_a_silence(
    llmkit: Server, tree: Callable[..., Tree]
) -> None:
    """R18, on a disk that machines share and whose kernels don't tell each other of their locks."""
    recipe = tree(max_steps=2)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    run.mkdir()
    (run / ".lock").write_text("process 123 on elsewhere")
    for _ in range(2):  # asking gives no sign of life
        refused = llmkit.run("pretrain", path)
        assert refused.status == 6
        assert "process 123 on elsewhere" in refused.error
        assert f"delete {run}/.lock" in refused.error
        past = time.time() - SILENCE + 100
        os.utime(run / ".lock", (past, past))
    os.utime(run / ".lock", (past - 200, past - 200))
    done = llmkit.run("pretrain", path)
    assert done.status == 0
    assert "taken over from process 123 on elsewhere, silent for" in done.err
    assert (run / ".lock").read_text() == ""


def test_a_run_gives_signs_of_life(tmp_path: Path) -> None:
    code = ("import pathlib, sys; from llmkit.training.folder import holding, run_folder\n"
            "holding.SIGN_OF_LIFE = 0.05\n"
            "with run_folder.RunFolder(pathlib.Path('run')).locked(): print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        os.utime(tmp_path / "run" / ".lock", (0, 0))
        deadline = time.monotonic() + 60
        while (tmp_path / "run" / ".lock").stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "run" / ".lock").stat().st_mtime > 1
        other.communicate()


def test_whoever_may_read_may_read_the_model(llmkit: Server, tree: Callable[..., Tree]) -> None:
    """R21: safetensors writes files that only their owner may read."""
    recipe = tree(max_steps=2)
    assert llmkit.run("pretrain", runs.write(recipe)).status == 0
    umask = os.umask(0)
    os.umask(umask)
    modes = {one.name: one.stat().st_mode & 0o777 for one in (Path(recipe["output_dir"]) / "model").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}
