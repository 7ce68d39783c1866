"""What the frozen layers below make of each row, computed once and kept by content: no method above changes it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator

from llmkit.backbones.kernels.frozen import STATES, Frozen
from llmkit.data.batches import Drawn, RowOrder, alike, in_order, load
from llmkit.objectives.base import Sets, Setup
from llmkit.planning.settle import Settled
from llmkit.recipe import registry, tree_of
from llmkit.system import cache
from llmkit.system.errors import RequestError
from llmkit.system.machine import size
from llmkit.tasks.base import Encoded
from llmkit.training.evaluate import lengths, seen_rows
from llmkit.training.folder.belonging import versions
from llmkit.training.learner import Collator, Learner
from llmkit.training.teaching.kept import key_of

log = logging.getLogger("llmkit")

MOST = 2**33
"""Bytes of states that are kept, of all rows."""
WHOLE = "states.npy"


def keep_states(
    settled: Settled, learner: Learner, frozen: Frozen, depth: int, base: Any, sets: Sets, setup: Setup,
    accelerator: Accelerator, order: RowOrder, steps: int | None,
) -> None:
    """Add to each row that the run sees, and to those held out, what the `depth` lowest layers make of it.

    base   what tells the pretrained model from another: the hashes of its files
    They are computed without dropout, where no run did before. RequestError where they are more than can be kept, or
    where a row isn't one text.
    """
    recipe = settled.recipe
    if not all(isinstance(part, Encoded) for part in (*sets.train, *sets.validation)):
        raise _not_fit(settled)
    parts = cast("list[Encoded]", [*sets.train, *sets.validation])
    long, count = lengths(parts) or [], sum(map(len, sets.train))
    rows = [*seen_rows(count, recipe.training, order, steps), *range(count, len(long))]
    width = int(learner.tuned.config.get_text_config().hidden_size)
    ends = np.cumsum([0, *(long[row] for row in rows)])
    needed = int(ends[-1]) * width * 4
    if needed > MOST:
        raise RequestError(f"training.cache_frozen: the states of {len(rows):,} rows would take {size(needed)}, and "
                           f"{size(MOST)} at most are kept; leave it out, or use fewer or shorter rows.")
    drawn, features = Drawn(parts, seed=0), [row for part in parts for row in part.features]
    micro = int(recipe.training.micro_batch_size)

    def make(folder: Path) -> None:
        whole = np.lib.format.open_memmap(folder / WHOLE, "w+", np.float32, (int(ends[-1]), width))
        keys = alike(in_order(len(rows), micro, 0, 1, [long[row] for row in rows]), lambda place: features[rows[place]])
        batches = load(drawn, [[(nth, rows[place]) for nth, place in batch] for batch in keys],
                       Collator(settled.recipe.learning, setup.tokenizer))
        for batch, given in zip(keys, batches, strict=True):
            states = _states(settled, learner, frozen, given, accelerator, len(batch))
            for (_, place), state in zip(batch, states, strict=True):
                whole[ends[place] : ends[place + 1]] = state[: long[rows[place]]]
        whole.flush()

    key = key_of([base, depth, recipe.training.precision, micro, versions(), str(accelerator.device.type),
                  tree_of(recipe)["backbone"], rows], parts)
    there = (cache.root() / "states" / key).is_dir()
    if not there and accelerator.is_main_process:
        log.info("what the %d frozen layers below make of %s rows is computed first", depth, f"{len(rows):,}")
    place = cache.sealed("states", key, make)  # by one process of a machine; the others wait without a collective
    whole = np.load(place / WHOLE, mmap_mode="r")
    for number, row in enumerate(rows):
        features[row][STATES] = whole[ends[number] : ends[number + 1]]
    if accelerator.is_main_process:
        log.info("frozen layers: their states of %s rows are %s, %s in %s", f"{len(rows):,}",
                 "those of an earlier run" if there else "kept", size(needed), place)


def _states(
    settled: Settled, learner: Learner, frozen: Frozen, batch: Any, accelerator: Accelerator, rows: int,
) -> np.ndarray[Any, Any]:
    """(rows, longest, width) in fp32; RequestError where a row is several texts, as one with choices is."""
    there = {name: part.to(accelerator.device) for name, part in batch.items()}
    was = learner.training
    learner.eval()
    with torch.no_grad(), accelerator.autocast():
        learner(there)
    learner.train(was)
    states = frozen.taken
    if states is None or len(states) != rows or states.shape[:2] != there["input_ids"].shape:
        raise _not_fit(settled)
    found: np.ndarray[Any, Any] = states.float().cpu().numpy()
    return found


def _not_fit(settled: Settled) -> RequestError:
    return RequestError(f"training.cache_frozen: in rows of {registry.name_of(settled.recipe.learning)} with a "
                        f"{settled.family.model_type} there isn't one text with a state for each token; leave it out.")
