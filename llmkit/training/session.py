"""All that a run has while it trains: what was settled, what learns, from which rows, and how far it is."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from llmkit.data.batches import RowOrder, order_of
from llmkit.objectives.base import Sets, Setup
from llmkit.planning.settle import Settled
from llmkit.recipe import Recipe
from llmkit.recipe.seams import Learning
from llmkit.system.signals import Stopping
from llmkit.training.callbacks import Callback, View
from llmkit.training.evaluate import Room
from llmkit.training.folder.aside import Aside
from llmkit.training.folder.run_folder import RunFolder
from llmkit.training.learner import Learner
from llmkit.training.looking.drawing import Pictures
from llmkit.training.schedule import Length, schedule, weights
from llmkit.training.spread.base import Spread
from llmkit.training.state import State


@dataclass
class Session:
    """What the parts of a run share: each reads it, and each changes what is its own."""

    accelerator: Accelerator
    spread: Spread
    settled: Settled
    run: RunFolder
    sets: Sets
    setup: Setup
    learner: Learner
    wrapped: nn.Module
    """The learner as it was prepared: under DDP, its forward synchronises gradients."""
    optimizer: Any
    data: Mapping[str, str]
    """Fingerprints of the sources."""
    stop: Stopping
    state: State
    began: float
    """When the run began, on the monotonic clock, without the time between its parts."""
    best: dict[str, torch.Tensor] | None = None
    """The weights of the best evaluation so far, where the recipe keeps those."""
    callbacks: Sequence[Callback] = ()
    below: Mapping[str, Any] = field(default_factory=dict)
    """What the run stands on, for its manifests: hashes of base and tokenizer, versions."""
    earlier: Mapping[str, Any] | None = None
    """What the summary said when the run had ended that goes on now."""
    asked_to_stop: signal.Signals | None = None
    """The signal that a process got, once all know of it."""
    tally: Mapping[str, Any] = field(default_factory=dict)
    """A count of the answers of the last evaluation."""
    resumed: list[dict[str, Any]] = field(default_factory=list)
    """After which steps it went on, and when."""
    aside: Aside = field(default_factory=Aside)
    """The checkpoint that is written while the run goes on."""
    written: bool = False
    """Whether the main process has written it: all know of it at the same step."""
    judging: Room | None = None
    """How many rows its evaluations hold at once; None before the first."""
    pictures: Pictures = field(init=False)
    order: RowOrder = field(init=False)
    length: Length = field(init=False)
    factor: Callable[[State], float] = field(init=False)
    """On the learning rate, for the next step."""

    def __post_init__(self) -> None:
        self.order = order_of(
            self.sets.train, weights(self.recipe), self.recipe.seed, self.recipe.data.shuffle)
        self.length = Length(self.recipe.training, self.order.epoch_rows)
        self.factor = schedule(self.recipe.training, self.length)
        self.pictures = Pictures(self.run, self.main and self.recipe.training.figures, self.began)

    @property
    def recipe(self) -> Recipe:
        """The recipe, in which nothing is left open."""
        return self.settled.recipe

    @property
    def objective(self) -> Learning:
        """What is learned."""
        return self.learner.objective

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def micro_batch_size(self) -> int:
        """Rows that this process holds at once."""
        size = self.recipe.training.micro_batch_size
        assert isinstance(size, int)  # it is settled
        return size

    @property
    def over(self) -> bool:
        """Whether the run ends by a rule of its recipe."""
        return self.state.ended is not None or self.length.done(self.state)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        most = float(self.recipe.training.learning_rate or 0.0)
        return most * self.factor(self.state) * self.objective.pace(self.state.step)

    def row_numbers(self) -> list[int]:
        """The rows of the current step."""
        size = self.recipe.training.global_batch_size
        return [self.order.at(self.state.step * size + i)[1] for i in range(size)]

    def rows_in_words(self) -> str:
        """The first of them, for a message."""
        numbers = self.row_numbers()
        return ", ".join(map(str, numbers[:16])) + (" …" if len(numbers) > 16 else "")

    def everywhere(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes; alone, a process has no need of its device for it."""
        if self.accelerator.num_processes == 1:
            return value
        summed: torch.Tensor = self.accelerator.reduce(value.to(self.accelerator.device), "sum")
        return summed

    def averaged(self) -> AbstractContextManager[None]:
        """While the block runs, the parameters are what is evaluated and left in model/."""
        return self.recipe.rule.averaged(self.optimizer.optimizer)

    def halt(self, by: signal.Signals) -> None:
        """End the run after a step that is saved."""
        raise self.stop.error(f"stopped by {by.name} after step {self.state.step}, which is saved; the same command "
                              "goes on from there", by)

    def tell(self, event: Callable[[Callback, View], None]) -> None:
        """Tell every callback of an event: `session.tell(lambda callback, view: callback.on_step(view))`."""
        if not self.callbacks:
            return
        state = self.state
        view = View(
            self.recipe, self.run.folder, state.step, state.tokens, self.length.epochs(state), self.length.share(state),
            self.rate, state.train_loss, dict(state.evaluation or {}), time.monotonic() - self.began, self.main)
        for callback in self.callbacks:
            event(callback, view)

    def told(self, figures: Mapping[str, Any]) -> Mapping[str, Any]:
        """A copy of figures for callbacks, which can't be changed: what a run has is its own."""
        return MappingProxyType(copy.deepcopy(dict(figures)))
