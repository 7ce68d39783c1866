"""AdamW that averages its steps, so that no schedule has to lower the rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class AveragedAdamW(torch.optim.Optimizer):
    """Defazio et al. 2024, "The Road Less Scheduled", algorithm 1: three sequences, of which two are kept.

    y = (1 - b1) z + b1 x   the parameters: where the gradient is taken
    z <- z - lr (g / (sqrt(v) + eps) + decay y)
    x <- (1 - c) x + c z    the average: c is the square of the highest rate so far, over the sum of these squares

    x follows from y and z. Each parameter counts its own steps: one that waits is where it was.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move what has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, y: torch.Tensor, group: dict[str, Any]) -> None:
        kept, rate, (near, memory) = self.state[y], group["lr"], group["betas"]
        if not kept:
            kept.update(step=0, highest=0.0, sum=0.0, z=y.detach().clone(), exp_avg_sq=torch.zeros_like(y))
        kept["step"] += 1
        kept["highest"] = max(kept["highest"], rate)
        kept["sum"] += kept["highest"] ** 2
        share = kept["highest"] ** 2 / kept["sum"] if kept["sum"] else 0.0
        slope: Any = y.grad
        square = kept["exp_avg_sq"].mul_(memory).addcmul_(slope, slope, value=1 - memory)
        move = slope / (square / (1 - memory ** kept["step"])).sqrt_().add_(group["eps"])
        move.add_(y, alpha=group["weight_decay"])
        y.lerp_(kept["z"], share).add_(move, alpha=rate * (near * (1 - share) - 1))
        kept["z"].sub_(move, alpha=rate)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While the block runs, the parameters are x; then they are the y that they were, to the bit."""
        there = [(y, kept["z"], group["betas"][0], y.detach().clone()) for group in self.param_groups
                 for y in group["params"] if (kept := self.state.get(y))]
        with torch.no_grad():
            for y, z, near, _ in there:
                y.lerp_(z, 1 - 1 / near)
        try:
            yield
        finally:
            with torch.no_grad():
                for y, _, _, before in there:
                    y.copy_(before)
