"""A model and its objective as one module whose forward is the loss."""

from __future__ import annotations

from typing import Any

from torch import nn

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch
from llmkit.objectives.base import Objective


class Learner(nn.Module):
    """A model and its objective as one module whose forward is the loss, so that no head bypasses DDP's hooks."""

    def __init__(
        self, model: nn.Module, objective: Objective, family: type[Family], new: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.model, self.objective, self.family, self.new = model, objective, family, new
        self.rates: dict[str, float] = {}
        """Factors on the learning rate by a parameter's name; 1 for all others."""
        self.wakes: dict[str, int] = {}
        """The step from which a parameter trains; the first for all others."""

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

    def forward(self, batch: Batch, way: str = "loss") -> Any:
        """`loss`: losses by head, summed over targets; `judge`: with predictions; `predict` and `represent`: these."""
        return getattr(self.objective, way)(self.model, batch, self.family)
