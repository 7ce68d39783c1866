"""How long a run is, and what the learning rate is multiplied by at each step of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llmkit import recipe as recipes
from llmkit.recipe import Recipe
from llmkit.system.errors import RequestError
from llmkit.training.state import State


class Length:
    """When a run ends, and how far it is."""

    def __init__(self, training: recipes.Training, rows: int) -> None:
        self.training, self.rows = training, rows
        if training.num_train_epochs is not None:
            self.steps: int | None = max(1, math.ceil(training.num_train_epochs * rows / training.global_batch_size))
        else:
            self.steps = training.max_steps

    def share(self, state: State) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.steps is not None:
            return min(1.0, state.step / self.steps)
        if self.training.max_tokens is not None:
            return min(1.0, state.tokens / self.training.max_tokens)
        return min(1.0, state.agreed / (60 * (self.training.max_minutes or 1)))

    def done(self, state: State) -> bool:
        """Whether the run is over."""
        return self.share(state) >= 1.0

    def left(self, state: State, since: State) -> float:
        """Seconds to the end at the pace since an earlier state: where a run goes on, of this process alone."""
        done = self.share(state)
        return (state.seconds - since.seconds) * (1 - done) / max(1e-9, done - self.share(since))

    def epochs(self, state: State) -> float:
        """Passes over the training rows."""
        return state.step * self.training.global_batch_size / self.rows


def schedule(training: recipes.Training, length: Length) -> Callable[[State], float]:
    """The factor on the learning rate for the next step: transformers' own schedule, as a function of the state.

    Runs that end by tokens or minutes don't know their number of steps: they go through the schedule by their share.
    """
    from transformers import get_scheduler

    total = length.steps or 10_000
    warmup = training.warmup_steps if training.warmup_steps >= 1 else training.warmup_steps * total
    clockwise = length.steps is None and training.warmup_steps >= 1
    anchor = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=max(training.learning_rate or 0.0, 1e-12))
    try:
        made: Any = get_scheduler(
            training.lr_scheduler_type, anchor, num_warmup_steps=0 if clockwise else int(warmup),
            num_training_steps=total, scheduler_specific_kwargs=dict(training.lr_scheduler_kwargs) or None)
    except (TypeError, ValueError) as error:
        raise RequestError(f"training.lr_scheduler_kwargs: {error}") from error
    factor = made.lr_lambdas[0]
    if length.steps is not None:
        return lambda state: float(factor(state.step))
    rise = warmup if clockwise else 0
    return lambda state: float(factor(int(length.share(state) * total))) * min(1.0, (state.step + 1) / max(1, rise))


def weights(recipe: Recipe) -> list[float] | None:
    """The weights of the sources, where they have some."""
    given = [source.weight for source in recipe.data.train]
    return None if None in given else [float(weight) for weight in given if weight is not None]
