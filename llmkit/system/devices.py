"""Numbers on their way to the device that computes with them: the host goes on meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def sent(numbers: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers on a device; `torch.tensor(…, device=…)` would wait until all work before it is done.

    CUDA takes numbers from memory that isn't pinned before the call returns, so they may be changed after it.
    """
    import torch

    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)
