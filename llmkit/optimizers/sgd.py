"""SGD: a step along the gradient, with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class SGD(Optimizer):
    """torch's. Its weight decay is added to the gradient: momentum acts on it too. Transformers learn slowly by it."""

    momentum: Decay = 0.9
    """How much of the last step is made again."""
    nesterov: bool = False
    """Whether the gradient counts once more beside the momentum."""

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")

    @property
    def factor(self) -> float:
        """0.1 from scratch."""
        return 200.0

    @property
    def states(self) -> float:
        """The momentum."""
        return 1.0 if self.momentum else 0.0

    @property
    def shards(self) -> bool:
        """Each number moves by its own gradient."""
        return True

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        import torch

        return torch.optim.SGD(groups(learned), momentum=self.momentum, nesterov=self.nesterov)
