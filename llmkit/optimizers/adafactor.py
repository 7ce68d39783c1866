"""Adafactor: it keeps gradients' squares by row and column; steps follow the weights' size (Shazeer & Stern 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Epsilon, Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class Adafactor(Optimizer):
    """transformers', with the rate of `training`: T5 was pretrained by it at 1e-2 and fine-tuned at 1e-3.

    There is no relative_step: `lr_scheduler_type: inverse_sqrt` is a schedule like it.
    """

    eps: tuple[Epsilon, Epsilon] = (1e-30, 1e-3)
    """Added to a gradient's square; and the least that counts as the size of a weight."""
    clip_threshold: Annotated[float, Field(gt=0)] = 1.0
    """The largest root mean square that a tensor's step has before the rate."""
    decay_rate: Annotated[float, Field(lt=0)] = -0.8
    """The power of the step's number by which the mean of squares forgets."""
    beta1: Decay | None = None
    """How much of a running mean of steps stays; none is kept where nothing is said."""
    scale_parameter: bool = True
    """Whether a tensor's rate is multiplied by its own root mean square."""

    @property
    def factor(self) -> float:
        """1e-2 from scratch and 1e-3 for pretrained weights, as T5; AdamW's where steps don't follow the weights."""
        return 20.0 if self.scale_parameter else 1.0

    @property
    def states(self) -> float:
        """A row and a column a matrix; little beside it."""
        return 0.05 if self.beta1 is None else 1.05

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """transformers.Adafactor."""
        from transformers.optimization import Adafactor as Made

        made: torch.optim.Optimizer = Made(  # type: ignore[no-untyped-call]
            groups(learned), eps=self.eps, clip_threshold=self.clip_threshold, decay_rate=self.decay_rate,
            beta1=self.beta1, scale_parameter=self.scale_parameter, relative_step=False)
        return made
