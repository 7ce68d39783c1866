"""Steps of one size: the sign of a mean of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class SignMomentum(torch.optim.Optimizer):
    """w <- w - lr (sign(b1 m + (1 - b1) g) + decay w), then m <- b2 m + (1 - b2) g (Chen et al. 2023, algorithm 2)."""

    def __init__(self, groups: Sequence[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move what has a gradient."""
        for group in self.param_groups:
            now, later = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                kept = self.state[parameter]
                if not kept:
                    kept["exp_avg"] = torch.zeros_like(parameter)
                mean = kept["exp_avg"]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(torch.lerp(parameter.grad, mean, now).sign_(), alpha=group["lr"])
                mean.lerp_(parameter.grad, 1 - later)
