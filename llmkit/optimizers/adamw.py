"""AdamW: steps by running means of gradients and their squares (Loshchilov & Hutter 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Epsilon, Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class AdamW(Optimizer):
    """torch's, in one fused kernel; `training.adam_beta1`, `adam_beta2` and `adam_epsilon` mean these options too."""

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """How much of the running means of gradients, and of their squares, stays in each step."""
    eps: Epsilon = 1e-8
    """Added to the root of the mean square."""

    @property
    def shards(self) -> bool:
        """Each number moves by its own gradient."""
        return True

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """torch.optim.AdamW."""
        import torch

        return torch.optim.AdamW(groups(learned), betas=self.betas, eps=self.eps, fused=True)
