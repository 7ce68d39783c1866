"""Schedule-free AdamW: an average of the steps takes the place of a falling rate (Defazio et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Epsilon, Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class ScheduleFree(Optimizer):
    """Gradients are taken between the last step and the average; the average is evaluated, and left in model/.

    `lr_scheduler_type: constant_with_warmup` is the paper's; a schedule that falls lowers the rate as well.
    """

    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Decay] = (0.9, 0.999)
    """How near to the average gradients are taken; and how much of the mean of their squares stays in each step."""
    eps: Epsilon = 1e-8
    """Added to the root of the mean square."""

    @property
    def factor(self) -> float:
        """Between AdamW's and ten times as much, as the paper found it."""
        return 2.0

    @property
    def averages(self) -> bool:
        """They are what is learned."""
        return True

    @property
    def shards(self) -> bool:
        """Each number moves by its own gradient."""
        return True

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """Algorithm 1 of the paper."""
        from llmkit.optimizers.shared.averaging import AveragedAdamW

        return AveragedAdamW(groups(learned), self.betas, self.eps)

    def averaged(self, made: Any) -> AbstractContextManager[None]:
        """The average in the place of the parameters."""
        between: AbstractContextManager[None] = made.averaged()
        return between
