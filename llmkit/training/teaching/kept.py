"""What a teacher says of a task's rows, computed once and kept by content: nothing about them is chance."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator

from llmkit.data.batches import Drawn, alike, in_order, load
from llmkit.objectives.base import Sets, Setup
from llmkit.planning.settle import Settled
from llmkit.recipe import registry, tree_of
from llmkit.system import cache
from llmkit.system.machine import size
from llmkit.system.plural import many
from llmkit.tasks.base import Encoded
from llmkit.training.evaluate import lengths
from llmkit.training.folder.belonging import versions
from llmkit.training.learner import Collator
from llmkit.training.teaching.pupil import Tutor, rows_of
from llmkit.training.teaching.taught import KEPT

log = logging.getLogger("llmkit")

MOST = 2**30
"""Bytes of answers that are kept, of all rows; more are computed at every step."""
ANSWERS, SHAPES = "answers.npy", "shapes.npy"


def kept_answers(
    settled: Settled, tutor: Tutor, teacher: Any, sets: Sets, setup: Setup, accelerator: Accelerator,
    seen: float | None,
) -> None:
    """Add to each row of a task, as `taught`, what the teacher says of it; it is computed where no run did before.

    teacher   what tells it from another: the hashes of its files
    seen      how often the run sees each row; None where nobody knows
    Why nothing is kept, where that is so, is said.
    """
    recipe, parts = settled.recipe, cast("list[Encoded]", [*sets.train, *sets.validation])
    rows = sum(map(len, parts))
    if why := not_kept(settled, parts, seen):
        log.info("teacher: its answers are computed at every step: %s", why)
        return
    drawn = Drawn(parts, seed=0)
    micro = int(recipe.training.micro_batch_size)
    batches = answered(settled, tutor, drawn, parts, setup, accelerator, micro)
    if (first := next(iter(batches), None)) is None:
        return
    needed = sum(one.nbytes for one in first[1]) * rows // len(first[0])
    if needed > MOST:
        log.info("teacher: its answers are computed at every step: those to %s rows would take about %s, and %s at "
                 "most are kept", f"{rows:,}", size(needed), size(MOST))
        return

    def make(folder: Path) -> None:
        found: dict[int, Any] = {}
        for numbers, said in answered(settled, tutor, drawn, parts, setup, accelerator, micro):
            found.update(zip(numbers, said, strict=True))
        np.save(folder / ANSWERS, np.concatenate([found[row].ravel() for row in range(rows)]))
        np.save(folder / SHAPES, np.array([found[row].shape for row in range(rows)]))

    key = key_of([teacher, recipe.training.precision, micro, versions(), str(accelerator.device.type),
                  tree_of(recipe).get("task")], parts)
    there = (cache.root() / "teacher" / key).is_dir()
    if not there and accelerator.is_main_process:
        log.info("teacher: its answers to %s are computed first", many(rows, "row"))
    place = cache.sealed("teacher", key, make)  # by one process of a machine; the others wait without a collective
    hand_out(place, parts)
    if accelerator.is_main_process:
        log.info("teacher: its answers to %s are %s, %s in %s", many(rows, "row"), "those of an earlier run" if there
                 else "kept", size(sum(path.stat().st_size for path in place.iterdir())), place)


def not_kept(settled: Settled, parts: Sequence[Any], seen: float | None) -> str:
    """Why a teacher's answers aren't kept; "" where they are."""
    spec = settled.recipe.teacher
    assert spec is not None
    if settled.recipe.task is None:
        return f"{registry.name_of(settled.recipe.learning)} draws its rows anew in each pass"
    if spec.cache == "never":
        return "teacher.cache is never"
    if spec.hidden is not None:
        return "hidden states are too many"
    if settled.recipe.learning.whole:
        return "the rows of a step are compared with each other"
    if not all(isinstance(part, Encoded) for part in parts):
        return "rows are drawn as they come"
    if seen is not None and seen < 1:
        return "this run sees no row twice"
    return ""


def answered(
    settled: Settled, tutor: Tutor, drawn: Drawn, parts: Sequence[Any], setup: Setup, accelerator: Accelerator,
    micro: int,
) -> Iterator[tuple[list[int], list[Any]]]:
    """(numbers of rows, what the teacher says of each), by batches of rows of one length."""
    learning = settled.recipe.learning
    rows = [row for part in parts for row in part.features]
    keys = alike(in_order(len(drawn), micro, 0, 1, lengths(parts)), lambda row: rows[row])
    batches = load(drawn, keys, Collator(learning, setup.tokenizer))
    for numbers, batch in zip(keys, batches, strict=True):
        there = {name: part.to(accelerator.device) for name, part in batch.items()}
        with torch.no_grad(), accelerator.autocast():
            said = tutor.answers(learning, there)["loss"]
        yield [row for _, row in numbers], rows_of(said, there)


def key_of(asked: Any, parts: Sequence[Any]) -> str:
    """A hash of who is asked, how, and of every row: its fields, their types and numbers."""
    found = blake2b(repr(asked).encode(), digest_size=16)
    for part in parts:
        for features in part.features:
            for name, values in features.items():
                found.update(f"{name} {values.dtype} {values.shape}".encode())
                found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def hand_out(place: Path, parts: Sequence[Encoded]) -> None:
    """Give each row its answers, which stay on the disk until they are read."""
    whole, shapes = np.load(place / ANSWERS, mmap_mode="r"), np.load(place / SHAPES)
    edges = np.concatenate([[0], np.cumsum(shapes.prod(1))])
    rows = [row for part in parts for row in part.features]
    for number, row in enumerate(rows):
        row[KEPT] = whole[edges[number] : edges[number + 1]].reshape(shapes[number])
