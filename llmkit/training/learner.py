"""A model and its objective as one module whose forward is the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, overload

import torch
from torch import Tensor, nn

from llmkit.backbones.base import Family
from llmkit.backbones.kernels.frozen import STATES, Frozen
from llmkit.backbones.shared.routers import Load, Routers
from llmkit.data.batches import Batch
from llmkit.objectives.base import Sums
from llmkit.recipe.seams import Answering, Learning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmkit.backbones.kernels.compiling import Compiled

Way = Literal["loss", "judge", "predict", "represent", "refer"]
"""What is asked of an objective about a batch."""
Said: TypeAlias = "Sums | tuple[Sums, list[Any]] | Tensor | list[Any]"
"""What it says, by the way in which it is asked."""


class Learner(nn.Module):
    """A model and its objective as one module whose forward is the loss, so that no head bypasses DDP's hooks."""

    def __init__(
        self, model: nn.Module, objective: Learning, family: type[Family], new: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.model, self.objective, self.family, self.new = model, objective, family, new
        self.rates: dict[str, float] = {}
        """Factors on the learning rate by a parameter's name; 1 for all others."""
        self.wakes: dict[str, int] = {}
        """The step from which a parameter trains; the first for all others."""
        alone = objective.kept(model) is model and not objective.whole
        self.routers = Routers.of(model) if alone else None
        """Those of a mixture of experts; none are heard where several networks learn, or all rows are compared."""
        self.load: Load | None = None
        """What they did with the last batch whose loss was asked for, with its gradient where there is one."""
        self.compiled: Compiled | None = None
        """How its layers are compiled, where they are."""
        self.frozen: Frozen | None = None
        """The layers below those that train, where what they make of the rows is kept."""

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What trains, by name; tied weights stand once."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def tuned(self) -> Any:
        """The model that the tuning method made, without networks beside it."""
        return self.objective.kept(self.model)

    def is_new(self, name: str) -> bool:
        """Whether a parameter is of a part that started from random weights beside pretrained ones."""
        return any(f".{part}." in f".{name}" for part in self.new)

    @overload
    def forward(self, batch: Batch, way: Literal["loss"] = "loss") -> Sums: ...
    @overload
    def forward(self, batch: Batch, way: Literal["judge"]) -> tuple[Sums, list[Any]]: ...
    @overload
    def forward(self, batch: Batch, way: Literal["represent"]) -> Tensor: ...
    @overload
    def forward(self, batch: Batch, way: Literal["predict"]) -> list[Any]: ...
    @overload
    def forward(self, batch: Batch, way: Literal["refer"]) -> list[list[float]]: ...
    @overload
    def forward(self, batch: Batch, way: Way) -> Said: ...
    def forward(self, batch: Batch, way: Way = "loss") -> Said:
        """What the objective's method of that name says of a batch: `loss`, losses by head, summed over targets …

        `predict` and `refer` are asked of tasks only.
        """
        with nullcontext() if way in ("predict", "refer") else self.hearing(batch):
            if self.frozen is None or STATES not in batch:
                return self._said(batch, way)
            with self.frozen.given(batch[STATES]):
                return self._said({name: part for name, part in batch.items() if name != STATES}, way)

    @contextmanager
    def hearing(self, batch: Batch) -> Iterator[None]:
        """While the model goes through a batch: what its routers do with it becomes `load`."""
        if self.routers is None:
            yield
            return
        with self.routers.hear(batch) as heard:
            yield
        self.load = self.routers.load(heard)

    def _said(self, batch: Batch, way: Way) -> Said:
        objective, given = self.objective, (self.model, batch, self.family)
        if way == "loss":
            return objective.loss(*given)
        if way == "judge":
            return objective.judge(*given)
        if way == "represent":
            return objective.represent(*given)
        task = cast("Answering", objective)  # whoever asks for these has one
        return task.predict(*given) if way == "predict" else task.refer(*given)

    if TYPE_CHECKING:  # a module is called, and torch's own way to its forward knows no types
        __call__ = forward


@dataclass(frozen=True)
class Collator:
    """Rows to a batch, as an objective does it; picklable, for loader workers of every start method."""

    objective: Learning
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: Sequence[Any]) -> Batch:
        if not rows or STATES not in rows[0]:
            return self.objective.collate(rows, self.tokenizer)
        batch = self.objective.collate([{name: row[name] for name in row if name != STATES} for row in rows],
                                       self.tokenizer)
        states = torch.zeros(*batch["input_ids"].shape, rows[0][STATES].shape[-1])
        for place, row in zip(states, rows, strict=True):
            place[: len(row[STATES])] = torch.from_numpy(row[STATES].copy())
        return {**batch, STATES: states}
