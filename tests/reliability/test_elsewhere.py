"""R, N03: another recipe, changed data, another number of processes: refused, or gone on with where that works."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import stories
from learning import LEARNING

from reliability import runs
from reliability.commands import Server
from reliability.test_resume import ALL, OBJECTIVES, cases, the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]


def killed(llmkit: Server, tree: Tree, step: int = 7, processes: int = 1) -> tuple[Path, Path]:
    """A run that was killed after a step: its recipe's file and its folder."""
    path, run = runs.write(tree), Path(tree["output_dir"])
    several = llmkit.start_all("pretrain", path, processes=processes, signal_after=(step, signal.SIGKILL))
    assert several[0].wait().status == -signal.SIGKILL
    for one in several[1:]:
        one.send_all(signal.SIGKILL)
        one.wait()
    return path, run


@pytest.mark.parametrize(("setting", "told"), cases(
    ("R14-learning_rate", "training.learning_rate=2e-3", "training.learning_rate is 0.002, there 0.001"),
    ("R14-seed", "seed=7", "seed is 7, there 42"),
    ("R14-batch", "training.global_batch_size=8", "training.global_batch_size is 8, there 16"),
    ("R14-objective", "objective.mlm_probability=0.3", "objective.mlm_probability is 0.3, there 0.15"),
    ("R14-vocabulary", "tokenizer.train.vocab_size=100", "tokenizer.train.vocab_size is 100, there 120"),
    ("R14-model", "backbone.config.num_hidden_layers=1", "backbone.config.num_hidden_layers is 1, there None"),
    ("R17-shorter", "training.max_steps=6", "training.max_steps is 6, there 12"), quick=("R14-seed",)))
def test_another_recipe_is_refused_with_what_differs(
    setting: str, told: str, llmkit: Server, tree: Callable[..., Tree]
) -> None:
    path, run = killed(llmkit, tree())
    before = runs.trees(run)
    for resume in ("auto", "must"):
        done = llmkit.run("pretrain", path, "--set", setting, "--resume", resume)
        assert done.status == 4, done.err
        assert told in done.error
    assert runs.trees(run) == before


def test_an_older_longer_run_in_the_same_folder_is_not_taken_for_this_one(
    llmkit: Server, tree: Callable[..., Tree]
) -> None:
    """R17: a finished run of 20 steps, then a recipe of 12."""
    path = runs.write(tree(max_steps=20))
    assert llmkit.run("pretrain", path).status == 0
    done = llmkit.run("pretrain", path, "--set", "training.max_steps=12")
    assert done.status == 4
    assert "training.max_steps is 12, there 20" in done.error


@pytest.mark.quick
def test_text_that_has_changed_is_refused_and_read_anew_by_another_run(
    llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    """R15: its size and its time are what they were."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(stories(120)))
    recipe = tree()
    recipe["data"]["train"] = str(text)
    path, run = killed(llmkit, recipe)
    before = os.stat(text)
    text.write_text(text.read_text().replace("cat", "kat"))
    os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat(text).st_size, os.stat(text).st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for resume in ("auto", "must"):
        done = llmkit.run("pretrain", path, "--resume", resume)
        assert done.status == 4, done.err
        assert f"the data has changed since: {text}" in done.error
    fresh = llmkit.run("pretrain", path, "--output-dir", tmp_path / "fresh")
    assert fresh.status == 0
    assert '"kat"' in (tmp_path / "fresh" / "model" / "tokenizer.json").read_text()
    assert runs.steps(run) == 7


def test_another_number_of_threads_goes_on_and_is_said(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """The same rows; losses agree to rounding. With as many threads as before nothing is said, and it is to the bit."""
    recipe = tree("causal_lm", still=True)
    path, run = killed(llmkit, recipe)
    done = llmkit.run("pretrain", path, "--resume", "must", own=True, env={"OMP_NUM_THREADS": "2"})
    assert done.status == 0, done.err
    assert "2 threads, 1 before: the same rows, but sums are rounded otherwise" in done.err
    ours, theirs = runs.events(run), runs.events(whole(recipe))
    assert [event["tokens"] for event in ours] == [event["tokens"] for event in theirs]
    assert [event["loss"] for event in ours] == pytest.approx([event["loss"] for event in theirs], rel=1e-4)
    path, run = killed(llmkit, tree("causal_lm", "again", still=True))
    done = llmkit.run("pretrain", path, "--resume", "must")
    assert "threads, " not in done.err
    the_same(run, whole(recipe))


@pytest.mark.parametrize("learning", cases(*((f"R16-{name}", name) for name in (LEARNING if ALL else OBJECTIVES))))
def test_two_processes_are_gone_on_with_by_one_and_one_by_four(
    learning: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """Said, and with the same rows in the same order: without dropout, losses agree to 1e-5 with one process's."""
    recipe = tree(learning, still=True, micro_batch_size="auto", save_steps=4, eval_steps=6)
    path, run = killed(llmkit, recipe, 5, processes=2)
    one = llmkit.start("pretrain", path, "--resume", "must", signal_after=(9, signal.SIGKILL))
    ended = one.wait()
    assert ended.status == -signal.SIGKILL, ended.err
    assert "1 process, 2 before: the same rows, other dropout" in ended.err
    four = llmkit.run_all("pretrain", path, "--resume", "must", processes=4)
    assert four.status == 0, four.err
    assert "4 processes, 1 before: the same rows, other dropout" in four.err
    ours, theirs = runs.events(run, None), runs.events(whole(recipe), None)
    assert [event["step"] for event in ours] == [event["step"] for event in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a.get("tokens") == b.get("tokens")


@pytest.mark.parametrize("learning", cases(*((f"N03-{name}", name) for name in (*OBJECTIVES, "classification"))))
def test_a_step_is_the_same_on_one_two_and_four_processes(
    learning: str, llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    """(rows at once, accumulation, processes): loss and gradient of three steps, the same to 1e-5."""
    found = []
    for micro, processes in ((16, 1), (4, 1), (1, 1), (8, 2), (2, 2), (4, 4), (1, 4)):
        recipe = tree(
            learning, f"{micro}x{processes}", still=True, max_steps=3, micro_batch_size=micro, eval_steps=None)
        done = llmkit.run_all("pretrain", runs.write(recipe), processes=processes)
        assert done.status == 0, done.err
        found.append(runs.events(tmp_path / f"{micro}x{processes}"))
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5)
            assert b["tokens"] == a["tokens"]


def test_a_checkpoint_can_be_named(llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]) -> None:
    """--resume PATH: an older one; those after it go when a new one is whole."""
    recipe = tree(save_steps=3)
    path, run = killed(llmkit, recipe, 7)
    older = runs.checkpoints(run)[0]
    assert older.name == "step-00000003"
    done = llmkit.run("pretrain", path, "--resume", older)
    assert done.status == 0, done.err
    assert "resumed after step 3" in done.err
    the_same(run, whole(recipe))
