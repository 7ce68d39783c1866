"""Numbers on their way to the device that computes with them, and what the host still knows of them meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN: ContextVar[Mapping[int, tuple[Tensor, Tensor]]] = ContextVar("known")
"""By the id of a tensor on a device: that tensor, and the one of the host that it was copied from."""


def sent(numbers: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers on a device; `torch.tensor(…, device=…)` would wait until all work before it is done.

    CUDA takes numbers from memory that isn't pinned before the call returns, so they may be changed after it.
    """
    import torch

    made = numbers if isinstance(numbers, torch.Tensor) else torch.tensor(numbers, dtype=dtype)
    return made.to(device, non_blocking=True)


@contextmanager
def moved(batches: Sequence[Mapping[str, Tensor]], device: torch.device) -> Iterator[list[dict[str, Tensor]]]:
    """Batches on a device. While the block runs, `on_host` knows their tensors without asking the device."""
    there = [{name: sent(tensor, device) for name, tensor in batch.items()} for batch in batches]
    pairs = {id(new): (new, batch[name]) for batch, copied in zip(batches, there, strict=True)
             for name, new in copied.items()}
    token = KNOWN.set(pairs)
    try:
        yield there
    finally:
        KNOWN.reset(token)


def gathered(tensor: Tensor) -> Tensor:
    """A tensor whole, of which this process may have a part: then all processes ask together."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: all of it, or its part."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def on_host(tensor: Tensor) -> Tensor:
    """The host's copy of a tensor; of one that wasn't `moved` it is made now, and the host waits for it."""
    if tensor.device.type == "cpu":
        return tensor
    known = KNOWN.get({}).get(id(tensor))
    return tensor.cpu() if known is None else known[1]
