"""Numbers of 16 bits beside those of 32, in a step of mixed precision: what several layers read is turned once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from torch import Tensor


class Casts:
    """Stands before torch's functions under autocast, which turns what it is given anew for every layer.

    Queries, keys and values read one tensor in fp32: it becomes bf16 once, and its gradient fp32 once.
    """

    def __init__(self) -> None:
        self.narrow: Any = WeakIdKeyDictionary()
        """fp32 tensors that are there still: how often each had been written to, and what it is in 16 bits."""

    @property
    def instead(self) -> dict[Any, Callable[..., Any]]:
        """What of torch these stand before."""
        return {functional.linear: self.linear, torch.Tensor.to: self.to, torch.Tensor.add: self.add,
                torch.add: self.add}

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """torch.nn.functional.linear."""
        if torch.is_autocast_enabled(input.device.type) and input.dtype is torch.float32:
            input = self.narrowed(input)
        return functional.linear(input, weight, bias)

    def narrowed(self, input: Tensor) -> Tensor:
        """A tensor as autocast would give it to a layer."""
        kept = self.narrow.get(input)
        if kept is not None and kept[0] == state(input):
            found: Tensor = kept[1]
            return found
        found = input.to(torch.get_autocast_dtype(input.device.type))
        self.narrow[input] = state(input), found
        return found

    def to(self, input: Tensor, *args: Any, **options: Any) -> Tensor:
        """torch.Tensor.to. T5 turns what its last layer reads to that layer's fp32, and autocast turns it back."""
        found = input.to(*args, **options)
        if found.dtype is torch.float32 and torch.is_autocast_enabled(input.device.type) and (
                input.dtype is torch.get_autocast_dtype(input.device.type)) and found.device == input.device:
            self.narrow[found] = state(found), input
        return found

    def add(self, input: Any, other: Any, **options: Any) -> Tensor:
        """torch.add, which on a CPU takes twice as long over bf16 and fp32 as to turn the one and add it then."""
        if isinstance(input, torch.Tensor) and isinstance(other, torch.Tensor) and input.shape == other.shape:
            if input.dtype is torch.float32 and other.dtype is torch.bfloat16:
                other = other.float()
            elif input.dtype is torch.bfloat16 and other.dtype is torch.float32:
                input = input.float()
        found: Tensor = torch.add(input, other, **options)
        return found


def state(tensor: Tensor) -> tuple[int, bool]:
    """What must be as it was where another form stands for a tensor: writes to it, and whether gradients are made."""
    return tensor._version, torch.is_grad_enabled()
