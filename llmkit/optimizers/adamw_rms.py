"""AdamW by root mean square: each tensor's step is scaled by its own size, as T5 from scratch needs it (nanoT5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Epsilon, Learned, Optimizer
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class AdamWRMS(Optimizer):
    """AdamW at the rate times each tensor's root mean square, decay included (Nawrot 2023, "nanoT5", §3).

    T5's weights start at sizes that differ by a factor of 100: its embeddings have a root mean square of 1, and hardly
    move at a rate that its attention bears.
    """

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """How much of the running means of gradients, and of their squares, stays in each step."""
    eps: Epsilon = 1e-8
    """Added to the root of the mean square of gradients."""
    least_rms: Epsilon = 1e-3
    """What counts as a tensor's root mean square at least: one of zeros moves too."""

    @property
    def factor(self) -> float:
        """2e-2 from scratch."""
        return 40.0

    @property
    def shards(self) -> bool:
        """The size of a tensor is asked of all its parts."""
        return True

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """torch.optim.AdamW, told each tensor's rate before each step."""
        from llmkit.optimizers.shared.scaled import ScaledAdamW

        return ScaledAdamW(learned, self.betas, self.eps, self.least_rms)
