"""Linear layers on a CPU whose weights are bytes: half of what bf16 takes to hold, and to read with each token.

A weight is rounded to 8 bits once, with a scale for each output. What a layer reads becomes two bytes a number, with a
scale for each row, so that a row's result doesn't depend on the rows beside it: one byte wouldn't do, for in language
models some few numbers of a row are a hundred times as large as the others (Dettmers et al. 2022, "LLM.int8()", §3).
Products of whole numbers have no error, and CPUs have instructions for them; the two bytes of a number are two rows of
one product, which reads the weights once.

    x = 5.3, the largest of its row 126, so a step is 1  ->  5 steps and 76 of 254 parts of one
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llmkit.backbones.kernels.privates import onednn_multiplies_int8

MOST = 127
"""The largest whole number of a weight: -128 has no counterpart, and isn't used."""
READ = 126
"""Of what is read: a step that bf16 rounds down by 1 in 256 makes 126.5 of it, and that is still a byte."""
PARTS = 254
"""Into which a step is divided by the second byte of what is read: half a step is 127 of them."""
LEAST = 1e-30
"""Of a scale: a row or an output of zeros is divided by something."""


class EightBit(nn.Module):
    """A linear layer without its plain weight; it isn't trained or saved any more."""

    def __init__(self, numbers: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.numbers: Tensor | None = numbers
        """(out, in), int8; None once they are laid out for oneDNN for good."""
        self.tried = True
        """Whether passes are only to see what the layer computes: it may be joined with others afterwards."""
        self.scale, self.bias = scale, bias  # (out)
        self.out_features, self.in_features = numbers.shape
        self.packed: Any = None

    @classmethod
    def of(cls, linear: Any) -> EightBit:
        """Round a linear layer, or a Conv1D of GPT-2, whose weight is (in, out).

        [[1.0, -0.5]]  ->  [[127, -64]], with the scale 1 / 127
        """
        weight = linear.weight.detach() if isinstance(linear, nn.Linear) else linear.weight.detach().t()
        weight = weight.float().contiguous()  # oneDNN reads numbers in their order, whatever their strides
        scale = weight.abs().amax(1).div_(MOST).clamp_(min=LEAST)
        numbers = (weight / scale[:, None]).round_().to(torch.int8)
        return cls(numbers, scale, None if linear.bias is None else linear.bias.detach())

    @classmethod
    def joined(cls, *layers: EightBit) -> EightBit:
        """Layers that read the same as one: what they read is rounded once. They are still being tried."""
        biases = [one.bias for one in layers if one.bias is not None]  # all have one, or none
        made = cls(torch.cat([one.plain() for one in layers]), torch.cat([one.scale for one in layers]),
                   torch.cat(biases) if biases else None)
        made.tried = False
        return made

    def plain(self) -> Tensor:
        """(out, in), int8."""
        assert self.numbers is not None
        return self.numbers

    @property
    def weight(self) -> Tensor:
        """The whole numbers, as T5 asks for them: what its layers read isn't turned into numbers of that kind."""
        weight: Tensor = self.packed if self.numbers is None else self.numbers
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), of the same dtype"""
        if self.packed is None:
            self.lay_out()
        rows = x.reshape(-1, self.in_features)
        step = rows.abs().amax(1, True).div_(READ).clamp_(min=LEAST)
        rest = rows / step
        whole = rest.round()
        bytes_ = torch.cat([whole, rest.sub_(whole).mul_(PARTS).round_()]).to(torch.int8)
        out = self.product(bytes_, x.dtype)
        out = torch.add(out[: len(rows)], out[len(rows) :], alpha=1 / PARTS).mul_(step)
        if self.bias is not None:
            out.add_(self.bias)
        return out.view(*x.shape[:-1], self.out_features)

    def product(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """(rows, in), int8 -> (rows, out), times the scale of each output"""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 0, self.packed, self.scale, self.zeros, None, 1.0, 0, dtype, "none", [], "")
        return out

    def lay_out(self) -> None:
        """Lay the weight out for oneDNN; done by the first pass."""
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(self.numbers, None)
        if not self.tried:
            self.numbers = None

    def settle(self) -> None:
        """From the next pass on its plain numbers aren't held."""
        self.tried, self.packed = False, None


def can_be_rounded(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """(its parent, its name there, the layer) of each plain linear layer; those of an adapter's own stay whole.

    A subclass may be read otherwise than by its forward, and is left as it is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuners: list[Any] = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    own = {id(part) for layer in tuners
           for name, child in layer.named_children() if name != "base_layer" for part in child.modules()}
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if type(part) in (nn.Linear, Conv1D) and id(part) not in own:
                yield parent, name, part


def round_layers(model: Any) -> int:
    """Round all linear layers of a model, in place; returns how many weights are of 8 bits now.

    A layer that stands in several places is rounded once. A table of embeddings that the last layer shares stays whole.
    """
    rounded: dict[int, EightBit] = {}
    for parent, name, layer in can_be_rounded(model):
        if id(layer) not in rounded:
            rounded[id(layer)] = EightBit.of(layer)
        setattr(parent, name, rounded[id(layer)])
    return sum(one.plain().numel() for one in rounded.values())


def settle(model: nn.Module) -> None:
    """All layers of 8 bits were tried, and hold their weights once from now on."""
    for part in model.modules():
        if isinstance(part, EightBit):
            part.settle()


def here() -> bool:
    """Whether this CPU, and this torch, multiply whole numbers of 8 bits without an error."""
    return onednn_multiplies_int8()
