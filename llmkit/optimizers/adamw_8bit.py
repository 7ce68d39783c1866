"""AdamW with running means of 8 bits: a quarter of its memory (Dettmers et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Epsilon, Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class AdamW8bit(Optimizer):
    """bitsandbytes': means are kept in blocks of 256 numbers with a scale each, those of small tensors in 32 bits."""

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """How much of the running means of gradients, and of their squares, stays in each step."""
    eps: Epsilon = 1e-8
    """Added to the root of the mean square."""
    min_8bit_size: int = 4096
    """Tensors of fewer numbers have means of 32 bits."""

    @property
    def states(self) -> float:
        """Two numbers of 8 bits, and a scale for each 256."""
        return 0.51

    def check(self) -> None:
        """Its library is installed."""
        if find_spec("bitsandbytes") is None:
            raise RequestError("optimizer: adamw_8bit needs bitsandbytes, which isn't installed: "
                               "pip install 'llmkit-train[adamw-8bit]'; adamw is the same in 32 bits.")

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """bitsandbytes.optim.AdamW8bit."""
        import bitsandbytes

        library: Any = bitsandbytes.optim
        made: torch.optim.Optimizer = library.AdamW8bit(
            groups(learned), betas=self.betas, eps=self.eps, min_8bit_size=self.min_8bit_size)
        return made
