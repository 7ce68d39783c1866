"""R: a run that is killed, wherever that is, ends as one that nobody disturbed: bit for bit, each step once.

LLMKIT_MATRIX=all kills every objective and task with 0 and 2 loader workers and on 1 and 2 processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from learning import LEARNING

from llmkit.recipe import registry
from reliability import runs
from reliability.commands import Server

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
ALL = os.environ.get("LLMKIT_MATRIX") == "all"
OBJECTIVES = ("masked_lm", "next_sentence", "causal_lm", "span_corruption", "permuted_lm", "replaced_token")


def cases(*ids: Any, quick: tuple[str, ...] = ()) -> list[Any]:
    """Test parameters whose ids carry the matrix's numbers."""
    return [pytest.param(*values, id=name, marks=[pytest.mark.quick] if name in quick else [])
            for name, *values in ids]


def killed_and_resumed(
    llmkit: Server, tree: Tree, step: int, processes: int = 1, command: str = "pretrain",
) -> Path:
    """Kill the first process after a step is logged, resume, and return the run's folder."""
    path, run = runs.write(tree), Path(tree["output_dir"])
    first = llmkit.start_all(command, path, processes=processes, signal_after=(step, signal.SIGKILL))
    assert first[0].wait().status == -signal.SIGKILL, first[0].err
    for other in first[1:]:
        other.send_all(signal.SIGKILL)
        other.wait()
    assert runs.checkpoints(run)
    assert not (run / "model").exists()
    again = llmkit.run_all(command, path, "--resume", "must", processes=processes)
    assert again.status == 0, again.err
    assert "going on from" in again.err
    return run


def the_same(run: Path, whole: Path) -> None:
    """Assert that two runs are one: weights, optimizer, and every event."""
    assert runs.differences(run, whole) == []
    steps = [event["step"] for event in runs.events(run)]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("learning", cases(*((f"R01-{name}", name) for name in OBJECTIVES), quick=("R01-causal_lm",)))
def test_a_recipe_trained_twice_is_the_same(
    learning: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = tree(learning)
    assert llmkit.run("pretrain", runs.write(recipe)).status == 0
    the_same(Path(recipe["output_dir"]), whole(recipe))


@pytest.mark.parametrize(("learning", "workers", "processes", "step"), cases(
    *((f"R02-{name}", name, 0, 1, 7) for name in LEARNING),
    *((f"R03-{name}-workers", name, 2, 1, 11) for name in (LEARNING if ALL else OBJECTIVES)),
    *((f"R06-{name}-processes", name, 0, 2, 7) for name in (LEARNING if ALL else OBJECTIVES)),
    *((f"R06-{name}-workers-processes", name, 2, 2, 11) for name in (LEARNING if ALL else ("masked_lm",))),
    quick=("R02-masked_lm", "R02-replaced_token", "R06-causal_lm-processes")))
def test_a_killed_run_ends_as_one_that_nobody_disturbed(
    learning: str, workers: int, processes: int, step: int, llmkit: Server, tree: Callable[..., Tree],
    whole: Callable[..., Path],
) -> None:
    """Dropout is on; the kill is between two checkpoints, in the first epoch (7) or in the second (11)."""
    reference = tree(learning)
    recipe = tree(learning, dataloader_num_workers=workers)
    the_same(killed_and_resumed(llmkit, recipe, step, processes), whole(reference, processes))


@pytest.mark.parametrize("workers", cases(("R04", 0), ("R04-workers", 2)))
def test_a_run_over_weighted_sources_that_is_killed_in_its_third_pass_ends_the_same(
    workers: int, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path], labelled: Path, text: Path
) -> None:
    """Tokens are mapped, not streamed: a pass is never read through to find the place where a run stopped."""
    recipe = tree(max_steps=40, save_steps=9, eval_steps=20, dataloader_num_workers=workers)
    recipe["data"]["train"] = [{"source": str(text), "weight": 3}, {"source": str(labelled), "weight": 1}]
    run = killed_and_resumed(llmkit, recipe, 33)
    the_same(run, whole(recipe))
    assert runs.events(run)[-1]["epoch"] > 2


METHODS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in registry.names("tuning") if name != "peft"},
    "peft": {"method": "peft", "peft_type": "LOHA", "config": {"r": 2, "target_modules": ["query", "value"]}},
    "gradual": {"method": "layers", "unfreeze_every": 3, "rest": "all"},
    "slower_below": {"method": "full", "layer_learning_rate_decay": 0.5},
}


@pytest.mark.parametrize("method", cases(*((f"R05-{name}", name) for name in METHODS)))
def test_every_tuning_method_goes_on_where_it_was_killed(
    method: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """With accumulation: four micro-batches a step."""
    recipe = {**tree("classification", micro_batch_size=4), "tuning": METHODS[method]}
    the_same(killed_and_resumed(llmkit, recipe, 7, command="finetune"), whole(recipe))


@pytest.mark.parametrize("case", cases(
    ("R02-best", "best"), ("R02-epochs", "epochs"), ("R02-gradient_checkpointing", "recompute")))
def test_other_ways_to_train_go_on_where_they_were_killed(
    case: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """The best weights of an earlier evaluation; a kill right after an epoch's end; activations computed again."""
    plan = {"best": {"metric_for_best_model": "accuracy", "learning_rate": 0.1}, "epochs": {"save_steps": 6},
            "recompute": {"gradient_checkpointing": True}}[case]
    recipe = tree("classification", **plan)
    the_same(killed_and_resumed(llmkit, recipe, 7, command="finetune"), whole(recipe))


def test_the_program_itself_killed_and_started_again_ends_the_same(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = tree("causal_lm", max_steps=60, save_steps=9, eval_steps=None)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    first = llmkit.start("pretrain", path, own=True)
    assert first.until(lambda: runs.steps(run) >= 20)
    first.send(signal.SIGKILL)
    assert first.wait().status == -signal.SIGKILL
    assert llmkit.run("pretrain", path, own=True).status == 0
    the_same(run, whole(recipe))
