"""R: a finished run that is asked to be longer is whole at every moment: killed, it goes on; its model stays in use."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmkit.models.run import Run
from reliability import runs
from reliability.commands import Done, Server
from reliability.test_resume import cases, the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
LENGTHS = {"steps": ("max_steps", 6, 15), "epochs": ("num_train_epochs", 0.75, 2), "tokens": ("max_tokens", 2000, 6000)}
"""What grows, from what to what."""


@pytest.fixture
def pair(tree: Callable[..., Tree], llmkit: Server) -> Callable[..., tuple[Tree, Tree]]:
    """`pair("steps")`: a recipe whose run has ended, and the one that asks for more; every step is evaluated."""
    def make(kind: str = "steps", learning: str = "causal_lm", **plan: Any) -> tuple[Tree, Tree]:
        name, short, long = LENGTHS[kind]
        common = {"lr_scheduler_type": "constant", "eval_steps": 1, "save_steps": 4, "max_steps": None, **plan}
        first, more = (without_null(tree(learning, **{**common, name: value})) for value in (short, long))
        done = llmkit.run("pretrain", runs.write(first))
        assert done.status == 0, done.err
        return first, more

    return make


def without_null(tree: Tree) -> Tree:
    return {**tree, "training": {name: value for name, value in tree["training"].items() if value is not None}}


def killed(llmkit: Server, recipe: Tree, step: int, *words: str) -> None:
    done = llmkit.run("pretrain", runs.write(recipe), *words, signal_after=(step, signal.SIGKILL))
    assert done.status == -signal.SIGKILL, done.err


def uses_the_model_before(done: Done, run: Path, steps: int) -> None:
    """Assert that a command worked and said once which model it used."""
    assert done.status == 0, done.err
    said = (f"{run} goes on to a greater length and hasn't come to its end yet: the model that it had before, of "
            f"{steps} steps, is used (model.before)")
    assert done.err.count(said) == 1


@pytest.mark.parametrize(("kind", "kills", "resume"), cases(
    ("R22-steps", "steps", (9,), "auto"), ("R22-steps-must", "steps", (9,), "must"),
    ("R22-steps-thrice", "steps", (7, 8, 11), "must"), ("R22-epochs", "epochs", (10, 14), "auto"),
    ("R22-tokens", "tokens", (10,), "must"), quick=()))
def test_a_longer_run_that_is_killed_goes_on_to_its_end_and_the_model_before_is_used_meanwhile(
    kind: str, kills: tuple[int, ...], resume: str, llmkit: Server, pair: Callable[..., tuple[Tree, Tree]],
    whole: Callable[..., Path],
) -> None:
    first, more = pair(kind)
    run = Path(more["output_dir"])
    ended, model = runs.summary(run), runs.trees(run / "model")
    for step in kills:
        killed(llmkit, more, step, "--resume", resume)
        said = runs.summary(run)
        assert (said["status"], said["before"], Run(run).status) == ("running", ended, "interrupted")
        assert not (run / "model").exists()
        assert runs.trees(run / "model.before") == model
        uses_the_model_before(llmkit.run("generate", "the cat", "--model", run, "--max-new-tokens", "2"), run,
                              ended["steps"])
    done = llmkit.run("pretrain", runs.write(more), "--resume", resume)
    assert done.status == 0, done.err
    assert "going on from" in done.err
    the_same(run, whole(more))
    assert not (run / "model.before").exists()
    assert "before" not in runs.summary(run)
    again = llmkit.run("pretrain", runs.write(more), "--resume", resume)
    assert f"complete after {runs.summary(run)['steps']} steps; nothing to do" in again.err
    shorter = llmkit.run("pretrain", runs.write(first))
    assert (shorter.status, "holds another recipe's run" in shorter.error) == (4, True)


def test_a_longer_run_that_is_stopped_or_fails_keeps_the_model_before(
    llmkit: Server, pair: Callable[..., tuple[Tree, Tree]], whole: Callable[..., Path],
) -> None:
    _, more = pair()
    path, run = runs.write(more), Path(more["output_dir"])
    model = runs.trees(run / "model")
    stopped = llmkit.run("pretrain", path, signal_after=(8, signal.SIGTERM))
    assert stopped.status == 75
    assert (runs.summary(run)["status"], runs.summary(run)["before"]["steps"]) == ("stopped", 6)
    failed = llmkit.run("pretrain", path, file_size=1000)
    assert failed.status == 6
    assert (runs.trees(run / "model.before"), runs.summary(run)["before"]["steps"]) == (model, 6)
    assert llmkit.run("pretrain", path, "--resume", "must").status == 0
    the_same(run, whole(more))


@pytest.mark.quick
def test_evaluate_and_export_take_the_model_before_and_what_was_said_of_it(
    llmkit: Server, pair: Callable[..., tuple[Tree, Tree]], text: Path, tmp_path: Path,
) -> None:
    _, more = pair(eval_steps=None)
    run = Path(more["output_dir"])
    words = ("evaluate", run, "--data", text, "--json")
    before = json.loads(llmkit.run(*words).out)
    killed(llmkit, more, 9)
    done = llmkit.run(*words)
    uses_the_model_before(done, run, 6)
    assert json.loads(done.out)["metrics"] == before["metrics"]
    done = llmkit.run("export", run, "--to", tmp_path / "given")
    uses_the_model_before(done, run, 6)
    card = (tmp_path / "given" / "README.md").read_text()
    assert "- steps: 6; " in card
    assert "status: completed" in card


def test_the_network_beside_it_is_taken_too(llmkit: Server, pair: Callable[..., tuple[Tree, Tree]], text: Path) -> None:
    _, more = pair(learning="replaced_token", eval_steps=None)
    run = Path(more["output_dir"])
    words = ("evaluate", run, "--data", text, "--json")
    before = json.loads(llmkit.run(*words).out)
    killed(llmkit, more, 9)
    assert json.loads(llmkit.run(*words).out)["metrics"] == before["metrics"]


def test_an_adapter_finds_its_base_while_that_goes_on(
    llmkit: Server, pair: Callable[..., tuple[Tree, Tree]], tree: Callable[..., Tree], labelled: Path,
) -> None:
    _, more = pair(learning="masked_lm", eval_steps=None)
    base = Path(more["output_dir"])
    tuned = {**tree("classification", "tuned", max_steps=2), "backbone": {"pretrained": str(base)},
             "tuning": {"method": "lora"}}
    del tuned["tokenizer"]
    assert llmkit.run("finetune", runs.write(tuned)).status == 0
    words = ("evaluate", tuned["output_dir"], "--data", labelled, "--json")
    before = json.loads(llmkit.run(*words).out)
    killed(llmkit, more, 9)
    done = llmkit.run(*words)
    uses_the_model_before(done, base, 6)
    assert json.loads(done.out)["metrics"] == before["metrics"]


@pytest.mark.parametrize(("count", "when"), cases(
    *((f"R23-{count}-before", count, "before") for count in range(1, 26)),
    *((f"R23-{count}-after", count, "after") for count in range(2, 26, 3)), quick=("R23-2-after",)))
def test_a_kill_at_any_rename_of_a_longer_run_leaves_a_model_and_it_goes_on(
    count: int, when: str, llmkit: Server, pair: Callable[..., tuple[Tree, Tree]], whole: Callable[..., Path],
) -> None:
    """Summary, model, metrics, recipe, trackers, checkpoints in and out, model, card: each before and after."""
    _, more = pair(eval_steps=3, save_total_limit=1)
    path, run = runs.write(more), Path(more["output_dir"])
    old = runs.trees(run / "model")
    first = llmkit.run("pretrain", path, kill_at_rename=(count, str(run), when))
    assert first.status in (0, -signal.SIGKILL), first.err
    found = Run(run)
    if found.completed:
        assert found.summary is not None
        assert (found.summary["steps"] == 6) == (runs.trees(found.model) == old)
    elif found.ended is not None:
        assert runs.trees(found.model) == old
    assert found.has_model
    again = llmkit.run("pretrain", path, "--resume", "must")
    assert again.status == 0, again.err
    assert "damaged" not in again.err
    the_same(run, whole(more))
    assert not [one.name for one in run.iterdir() if one.name.startswith((".was", ".model", "model."))]


def test_a_run_that_goes_on_says_so_and_one_that_was_killed_leaves_that(
    llmkit: Server, tree: Callable[..., Tree],
) -> None:
    recipe = tree(max_steps=200, save_steps=20, eval_steps=None)
    run = Path(recipe["output_dir"])
    first = llmkit.start("pretrain", runs.write(recipe))
    assert first.until(lambda: runs.steps(run) >= 25)
    assert (runs.summary(run)["status"], Run(run).status) == ("running", "running")
    assert runs.summary(run)["steps"] >= 20
    first.send(signal.SIGKILL)
    assert first.wait().status == -signal.SIGKILL
    assert (runs.summary(run)["status"], Run(run).status) == ("running", "interrupted")
    shutil.rmtree(run / "checkpoints")
    assert Run(run).status == "interrupted"
