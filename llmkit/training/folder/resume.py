"""Going on where an earlier run stopped: which checkpoint, and what it brings back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llmkit.models import layout
from llmkit.models.run import Run
from llmkit.planning.settle import SCHEDULES_WITHOUT_END, Settled
from llmkit.recipe import LENGTHS, Recipe
from llmkit.system.errors import CheckpointError, PlaceError, RequestError
from llmkit.training.folder.run_folder import Checkpoint, RunFolder, verify
from llmkit.training.folder.saving import TUNING
from llmkit.training.spread.ddp import tensors
from llmkit.training.spread.processes import world
from llmkit.training.state import State

log = logging.getLogger("llmkit")


def as_before(settled: Settled, run: RunFolder) -> Settled:
    """Micro-batches as an earlier run in this folder had them: bit for bit, dropout depends on them."""
    plan = settled.recipe.training
    if "micro_batch_size" not in settled.chosen or not (run.folder / layout.RECIPE).is_file():
        return settled
    size = Run(run.folder).recipe.training.micro_batch_size
    if not isinstance(size, int) or (plan.global_batch_size // world()) % size:
        return settled
    return replace(
        settled, recipe=replace(settled.recipe, training=replace(plan, micro_batch_size=size)),
        chosen={**settled.chosen, "micro_batch_size": "as many as before"})


def checked_resume(resume: Any) -> str:
    """How to resume; RequestError where it is neither a word for it nor a checkpoint's path."""
    if not isinstance(resume, str | Path):
        raise RequestError(f"resume: auto, must, never or a checkpoint's path is needed, not {resume!r}; auto goes on "
                           "where a run stopped.")
    return str(resume)


def pick_up(
    run: RunFolder, request: Recipe, recipe: Recipe, resume: str,
) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """(checkpoint to go on from, summary of a run that is finished), as `resume` says; both None to start afresh.

    `request` is the recipe as it was given, `recipe` the one in which nothing is left open.
    """
    if resume not in ("auto", "must", "never"):
        return verify(named(Path(resume), run)), None
    if resume == "never" and run.started():
        raise PlaceError(f"{run.folder}: holds a run already; choose another --output-dir, or --resume auto.")
    if not run.started():
        if resume == "must":
            raise CheckpointError(f"{run.folder}: there is nothing to resume.")
        return None, None
    differ = run.compare(recipe)
    if request.training.micro_batch_size == "auto":
        differ.pop("training.micro_batch_size", None)
    if differ.get("training.compile") == (False, "auto"):  # left by a version that knew no such field
        del differ["training.compile"]
    longer = bool(differ) and is_longer(recipe, differ)
    if differ and not longer:
        what = "; ".join(f"{name} is {ours}, there {theirs}" for name, (ours, theirs) in differ.items())
        raise CheckpointError(f"{run.folder} holds another recipe's run ({what}). Choose another --output-dir.")
    done = run.finished()
    if done is not None and not longer:
        log.info("%s: this run is complete after %d steps; nothing to do", run.folder, done["steps"])
        return None, done
    checkpoint = run.newest(log.warning)
    if checkpoint is None and resume == "must":
        raise CheckpointError(f"{run.folder}: no checkpoint was saved yet; there is nothing to resume.")
    if checkpoint is None:
        log.info("no checkpoint was saved yet: starting afresh")
    else:
        log.info("going on from %s", checkpoint.folder)
    return checkpoint, None


def named(path: Path, run: RunFolder) -> Path:
    """The checkpoint that --resume PATH means: itself, or the newest of a run's folder."""
    if (path / layout.CHECKPOINTS).is_dir():
        found = RunFolder(path).newest(log.warning)
        if found is not None:
            return found.folder
    if not path.is_dir():
        raise CheckpointError(f"--resume {path}: there is no such checkpoint.")
    return path


def is_longer(recipe: Recipe, differ: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether a recipe differs only by a greater length that its schedule doesn't depend on."""
    plan = recipe.training
    free = plan.lr_scheduler_type in SCHEDULES_WITHOUT_END and (plan.warmup_steps >= 1 or not plan.warmup_steps)
    free = free and not recipe.tuning.counted
    return free and all(
        name.removeprefix("training.") in LENGTHS and ours is not None and theirs is not None and ours > theirs
        for name, (ours, theirs) in differ.items())


def kept(start: Checkpoint) -> dict[str, torch.Tensor]:
    """What the tuning method keeps beside what trains."""
    path = start.file(TUNING)
    return {} if path is None else tensors(path)


def restored(start: Checkpoint, data: Mapping[str, str], processes: int) -> State:
    """The loop's counts from a checkpoint; CheckpointError where the data isn't what it was."""
    changed = [label for label, fingerprint in data.items() if start.manifest["data"].get(label) != fingerprint]
    if changed:
        raise CheckpointError(f"{start.folder}: the data has changed since: {', '.join(changed)}. "
                              "Choose another --output-dir.")
    if start.manifest["processes"] != processes:
        log.info("%d processes, %d before: the same rows, other dropout", processes, start.manifest["processes"])
    try:
        return State(**start.state)
    except TypeError as error:
        raise CheckpointError(f"{start.folder}: was written by another version of llmkit.") from error
