"""What a run leaves: which weights were best, how much memory it took."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence

import torch

from llmkit import recipe as recipes
from llmkit.objectives.base import more_is_better
from llmkit.system.errors import RequestError, nearest


def better(
    found: Mapping[str, float], best: Mapping[str, float] | None, plan: recipes.Training, losses: Sequence[str] = (),
) -> bool:
    """Whether an evaluation is the best so far; RequestError where it has no such figure."""
    name = str(plan.metric_for_best_model)
    if name not in found:
        raise RequestError(f"training.metric_for_best_model: the evaluation has no {name!r}.{nearest(name, found)}")
    more = plan.greater_is_better
    if more is None:
        more = name not in losses and more_is_better(name)
    return best is None or (found[name] > best[name] if more else found[name] < best[name])


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; on a GPU, with what it held there."""
    unit = 1 if sys.platform == "darwin" else 1024
    held = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + held
