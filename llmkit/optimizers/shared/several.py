"""Several optimizers that look like one: each moves its own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Several(torch.optim.Optimizer):
    """Steps of all parts; groups and state are those of the parts, one after the other."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, Any]:  # type: ignore[override]
        """What the parts keep for each parameter."""
        return {parameter: kept for part in self.parts for parameter, kept in part.state.items()}

    def __repr__(self) -> str:
        return " and ".join(map(repr, self.parts))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step of each part."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """{"parts": [what each part keeps]}"""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Bring it back; ValueError where there were other parts."""
        kept = state_dict["parts"]
        if len(kept) != len(self.parts):
            raise ValueError(f"there are {len(self.parts)} optimizers in one, and {len(kept)} were saved")
        for part, own in zip(self.parts, kept, strict=True):
            part.load_state_dict(own)
