"""AdamW whose rate follows the size of each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from llmkit.optimizers.base import Learned, groups
from llmkit.system.devices import gathered


class ScaledAdamW(torch.optim.AdamW):
    """w <- w - lr rms(w) (m / (sqrt(v) + eps) + decay w), and rms(w) is at least `least`.

    Each tensor is a group of its own, so that torch's kernel is told a rate for each.
    """

    def __init__(
        self, learned: Sequence[Learned], betas: tuple[float, float], eps: float, least: float,
    ) -> None:
        apart = [replace(one, alike=(i,)) for i, one in enumerate(learned)]
        super().__init__(groups(apart), betas=betas, eps=eps, fused=True)
        self.least = least

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step of AdamW at the rates that the tensors' sizes make of the group's."""
        rates = [group["lr"] for group in self.param_groups]
        sizes = [rms(group["params"][0]) for group in self.param_groups]
        try:
            for group, rate, size in zip(self.param_groups, rates, self.at_least(sizes), strict=True):
                group["lr"] = rate * size
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


    def at_least(self, sizes: Sequence[torch.Tensor]) -> Sequence[Any]:
        """Sizes that are no less than `least`; those of a GPU stay there, so that nobody waits for them."""
        if not sizes:
            return []
        if sizes[0].device.type == "cuda" and not isinstance(sizes[0], DTensor):
            return torch.stack(list(sizes)).clamp(min=self.least).unbind()
        return [max(self.least, size) for size in gathered(torch.stack(list(sizes))).tolist()]


def rms(tensor: torch.Tensor) -> torch.Tensor:
    """The root mean square of a tensor's numbers."""
    size: torch.Tensor = tensor.detach().norm() / max(1, tensor.numel()) ** 0.5
    return size
