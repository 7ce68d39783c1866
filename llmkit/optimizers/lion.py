"""Lion: every weight moves by the rate, up or down, as a running mean of gradients says (Chen et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class Lion(Optimizer):
    """It keeps one number a weight, half of AdamW's; rates are 3 to 10 times lower, and weight_decay as much higher."""

    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """How much of the running mean counts in a step's sign, and how much of it stays for the next."""

    @property
    def factor(self) -> float:
        """1e-4 from scratch."""
        return 0.2

    @property
    def states(self) -> float:
        """The running mean."""
        return 1.0

    @property
    def shards(self) -> bool:
        """Each number moves by its own gradient."""
        return True

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """Algorithm 2 of the paper."""
        from llmkit.optimizers.shared.signs import SignMomentum

        return SignMomentum(groups(learned), self.betas)
