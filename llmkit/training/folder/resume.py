"""Going on where an earlier run stopped: which checkpoint, and what it brings back."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from llmkit.data.sources import Reader, open_source
from llmkit.models import layout
from llmkit.models.run import Run, recipe_beside
from llmkit.planning.settle import Settled, reads_tables
from llmkit.recipe import LATER, LENGTHS, ROUNDING, Recipe, Shortcut, with_optimizer
from llmkit.system import devices
from llmkit.system.errors import CheckpointError, LlmkitError, NothingThereError, PlaceError, RequestError
from llmkit.system.plural import many
from llmkit.training.folder.belonging import (
    asked_for,
    changed_data,
    check_recipe,
    data_of,
    in_words,
    length_of,
    of_another,
    optimizer_in,
    unlike,
)
from llmkit.training.folder.run_folder import Checkpoint, RunFolder, verify
from llmkit.training.folder.saving import TUNING
from llmkit.training.spread.ddp import tensors
from llmkit.training.spread.processes import world
from llmkit.training.state import REACHED, State

log = logging.getLogger("llmkit")


def as_before(settled: Settled, run: RunFolder, start: Checkpoint) -> Settled:
    """Micro-batches as the run had them that a checkpoint is of: bit for bit, dropout depends on them.

    The folder's recipe says it; where this run is the folder's first, the checkpoint does.
    """
    plan = settled.recipe.training
    if "micro_batch_size" not in settled.chosen:
        return settled
    if (run.folder / layout.RECIPE).is_file():
        size: Any = Run(run.folder).recipe.training.micro_batch_size
    else:
        size = ((asked_for(start) or {}).get("training") or {}).get("micro_batch_size")
    if not isinstance(size, int) or (plan.global_batch_size // world()) % size:
        return settled
    return replace(
        settled, recipe=replace(settled.recipe, training=replace(plan, micro_batch_size=size)),
        chosen={**settled.chosen, "micro_batch_size": "as many as before"})


def as_meant(request: Recipe, resume: str) -> Recipe:
    """The request as an older version meant it, where it goes on with a run and leaves open what that version lacked.

    AdamW where it names no optimizer: there was no other. Without the shortcuts that came later: to the bit, numbers
    depend on them.
    """
    if resume == "never":
        return request
    place = request.folder if resume in ("auto", "must") else Path(resume)
    there = recipe_there(place)
    if there is None:
        return request
    ways: Any = (there.get("training") or {}).get("shortcuts")
    usual = [*get_args(Shortcut)]
    if request.training.shortcuts == usual and ways == [way for way in usual if way not in LATER]:
        log.info("training.shortcuts: without %s, as in the run in %s", ", ".join(LATER), place)
        request = replace(request, training=replace(request.training, shortcuts=ways))
    if request.optimizer is not None:
        return request
    meant, _ = with_optimizer(request, "adamw")
    if optimizer_in(there) != "adamw" or meant == with_optimizer(request)[0]:
        return request
    log.info("optimizer adamw: the run in %s has it", place)
    return meant


def recipe_there(place: Path) -> dict[str, Any] | None:
    """The recipe of a run, or a checkpoint's; empty where a checkpoint names none, as those of 0.1.0 do.

    None where neither is there, or nothing that can be read.
    """
    alone = place / layout.MANIFEST
    try:
        if not alone.is_file():
            return recipe_beside(place) or None
        return recipe_beside(place.absolute().parents[1]) or dict(json.loads(alone.read_text()).get("recipe") or {})
    except (LlmkitError, OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None  # whoever opens it says what is wrong with it


def checked_resume(resume: Any) -> str:
    """How to resume; RequestError where it is neither a word for it nor a checkpoint's path."""
    if not isinstance(resume, str | Path):
        raise RequestError(f"resume: auto, must, never or a checkpoint's path is needed, not {resume!r}; auto goes on "
                           "where a run stopped.")
    if not str(resume):
        raise RequestError("--resume: is empty; auto, must, never or a checkpoint's path is needed.")
    return str(resume)


def pick_up(
    run: RunFolder, request: Recipe, recipe: Recipe, resume: str, readers: Sequence[Reader] = (),
) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """(checkpoint to go on from, summary of a run that is finished), as `resume` says; both None to start afresh.

    `request` is the recipe as it was given, `recipe` the one in which nothing is left open, `readers` are its sources.
    """
    given = None if resume in ("auto", "must", "never") else verify(named(Path(resume), run))
    if resume == "never" and run.started():
        raise PlaceError(f"{run.folder}: holds a run already; choose another --output-dir, or --resume auto.")
    if given is not None:
        check_given(given, request, recipe)
    if not run.started():
        if resume == "must":
            raise CheckpointError(f"{run.folder}: there is nothing to resume.")
        return given, None
    differ = run.compare(recipe)
    if other := unlike(differ, request, recipe):
        raise CheckpointError(f"{run.folder} holds another recipe's run ({in_words(other)}). Choose another "
                              "--output-dir.")
    if given is not None:
        return given, None
    grows = any(name.removeprefix("training.") in LENGTHS for name in differ)
    done = None if grows else finished(run, recipe)
    if done is not None:
        check_finished(run, done, readers)
        log.info("%s: this run is complete after %s; nothing to do", run.folder, many(done["steps"], "step"))
        return None, done
    checkpoint = run.newest(log.warning)
    if checkpoint is None and resume == "must":
        raise CheckpointError(f"{run.folder}: no checkpoint was saved yet; there is nothing to resume.")
    if checkpoint is None:
        log.info("no checkpoint was saved yet: starting afresh")
    else:
        check_recipe(checkpoint, request, recipe)
        log.info("going on from %s", checkpoint.folder)
    return checkpoint, None


def check_finished(run: RunFolder, done: Mapping[str, Any], readers: Sequence[Reader]) -> None:
    """CheckpointError where a finished run learned from something else than its sources are now."""
    then = done.get("data")
    if not isinstance(then, dict):
        log.info("%s: was finished by a version of llmkit that noted no hashes of its data; it isn't compared",
                 run.folder)
    elif changed := changed_data(then, data_of(readers)):
        raise CheckpointError(f"{run.folder}: this run is complete, and its data has changed since: {changed}. Choose "
                              "another --output-dir to learn from what is there now.")


def without_data(
    run: RunFolder, request: Recipe, resume: str, memory: Container[str] = (),
) -> dict[str, Any] | None:
    """The summary of a finished run of a request whose data can't be found any more, which is said; else None.

    Without the data, nothing that the request leaves open can be settled: what it says must be as the run had it.
    `memory` has the sources that are rows of the program that calls.
    """
    if resume not in ("auto", "must") or not Run(run.folder).completed or (gone := missing(request, memory)) is None:
        return None
    other = {name for name, (ours, _) in run.compare(request).items() if ours not in (None, "auto")}
    done = None if other else finished(run, Run(run.folder).recipe)
    if done is not None:
        log.warning("%s: this run is complete after %s; nothing to do. Whether its data is still the same isn't "
                    "known: %s", run.folder, many(done["steps"], "step"), gone)
    return done


def missing(request: Recipe, memory: Container[str]) -> NothingThereError | None:
    """What is said of the first source that can't be found; None where all are there."""
    data = request.data
    for source in (*data.train, *(data.validation if isinstance(data.validation, list) else ())):
        try:
            if source.source not in memory:
                open_source(source, data.document, tables=reads_tables(request.learning))
        except NothingThereError as error:
            return error
        except LlmkitError:
            continue  # whoever opens it to read it says what is wrong with it
    return None


def finished(run: RunFolder, recipe: Recipe) -> dict[str, Any] | None:
    """The summary of a run that is completed for a recipe; None where it isn't, or only for a smaller length."""
    there = Run(run.folder)
    summary = there.readable
    if (run.folder / layout.SUMMARY).is_file() and (why := odd(summary)):
        log.warning("%s can't be taken for a run's: %s. It is written anew", run.folder / layout.SUMMARY, why)
        return None
    if not there.completed or not reaches(there, summary, recipe):
        return None
    return {**summary, "output_dir": str(run.folder)}  # the folder may have been moved


def odd(summary: Mapping[str, Any]) -> str:
    """What is wrong with a summary that somebody wrote into, or that was cut short; empty where nothing is."""
    if not summary:
        return "it holds no object {…}"
    if summary.get("status") != "completed":
        return ""
    wrong = [name for name in ("steps", "tokens", "tokens_per_second", "wall_seconds")
             if not _is_figure(summary.get(name, None if name == "steps" else 0))]
    for name in ("evaluation", "evaluation_before", "floors"):
        figures = summary.get(name) or {}
        inner = figures.values() if name == "floors" and isinstance(figures, dict) else [figures]
        if not all(isinstance(one, dict) and all(map(_is_figure, one.values())) for one in inner):
            wrong.append(name)
    return f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or no number" if wrong else ""


def _is_figure(value: Any) -> bool:
    """Whether a value may stand among figures; NaN may."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def reaches(run: Run, summary: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether a summary tells the end of a run of a recipe's length.

    Summaries of older versions don't say which length theirs was: a run that was killed on its way to a greater one
    left lines or checkpoints behind the summary's step, or is shorter than asked and wasn't ended by another rule.
    """
    if "length" in summary:
        return bool(summary["length"] == length_of(recipe))
    lines = [event for event in run.events if event.get("event") == "train"]
    step = max([int(name.removeprefix("step-")) for name in run.checkpoints], default=0)
    if step > summary["steps"] or (lines and lines[-1]["step"] > summary["steps"]):
        return False
    if summary.get("why", REACHED) != REACHED:
        return True
    done = {"max_steps": summary["steps"], "max_tokens": summary.get("tokens"),
            "num_train_epochs": lines[-1].get("epoch") if lines else None}
    return all((done.get(name) or asked) >= asked for name, asked in length_of(recipe).items())


def check_given(start: Checkpoint, request: Recipe, recipe: Recipe) -> None:
    """CheckpointError where the checkpoint that --resume names is another recipe's.

    One of an older version says it by the recipe of the run's folder that it stands in; one that stands in none can't.
    """
    check_recipe(start, request, recipe)
    origin = RunFolder(start.folder.absolute().parents[1])
    if asked_for(start) is not None:
        return
    if not (origin.folder / layout.RECIPE).is_file():
        log.warning("%s: saved by a version of llmkit that noted no recipe, so none is compared", start.folder)
    elif differ := unlike(origin.compare(recipe), request, recipe):
        raise of_another(start, differ)


def named(path: Path, run: RunFolder) -> Path:
    """The checkpoint that --resume PATH means: itself, or the newest of a run's folder."""
    if (path / layout.CHECKPOINTS).is_dir():
        found = RunFolder(path).newest(log.warning)
        if found is not None:
            return found.folder
    if not path.is_dir():
        raise CheckpointError(f"--resume {path}: there is no such checkpoint.")
    return path


def kept(start: Checkpoint) -> dict[str, torch.Tensor]:
    """What the tuning method keeps beside what trains."""
    path = start.file(TUNING)
    return {} if path is None else tensors(path)


def tell_of_rounding(start: Checkpoint, shortcuts: Collection[Shortcut]) -> None:
    """Say once where a run goes on with shortcuts that rounded otherwise in the version that saved a checkpoint."""
    then = start.manifest.get("rounding", {})  # older versions didn't note it: theirs was the first way
    other = [way for way in shortcuts if then.get(way, 1) != ROUNDING.get(way, 1)]
    if other:
        log.info("%s: saved by another version of llmkit, whose shortcuts (%s) round otherwise: the same rows and the "
                 "same chance, but losses may differ in their last digits; only that version goes on to the bit",
                 start.folder, ", ".join(other))


def restored(start: Checkpoint, data: Mapping[str, str], processes: int) -> State:
    """The loop's counts from a checkpoint; CheckpointError where the data isn't what it was."""
    if changed := changed_data(start.manifest["data"], data):
        raise CheckpointError(f"{start.folder}: the data has changed since: {changed}. Choose another --output-dir.")
    if start.manifest["processes"] != processes:
        now = f"{processes} process" if processes == 1 else f"{processes} processes"
        log.info("%s, %d before: the same rows, other dropout", now, start.manifest["processes"])
    before, threads = start.manifest.get("threads"), torch.get_num_threads()  # older versions don't say
    if isinstance(before, int) and before != threads and devices.on_cpu():
        log.info("%s, %d before: the same rows, but sums are rounded otherwise, so losses differ in their last "
                 "digits; OMP_NUM_THREADS=%d goes on to the bit", many(threads, "thread"), before, before)
    try:
        return State(**start.state)
    except TypeError as error:
        raise CheckpointError(f"{start.folder}: was written by another version of llmkit.") from error
