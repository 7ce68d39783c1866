"""Norms by root mean square, as T5, Llama and Qwen have them, and T5's feed-forward, in fewer passes on a CPU."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llmkit.backbones.kernels import shortcuts

if TYPE_CHECKING:
    from torch import Tensor

NORMS = ("T5LayerNorm", "UMT5LayerNorm", "LlamaRMSNorm", "Qwen3RMSNorm", "Qwen3MoeRMSNorm")
"""Classes of transformers whose forward is weight · x / sqrt(mean(x²) + variance_epsilon)."""
FEED_FORWARD = ("T5DenseActDense", "UMT5DenseActDense")
"""Those whose forward is wo(dropout(act(wi(x))))."""


def quicken(model: nn.Module) -> None:
    """Let a model's norms be `_RMSNorm` where they are trained in fp32 on a CPU; elsewhere they do what they did.

    What T5 does behind its ReLU is one with it, where it trains in bf16 on a CPU.
    """
    for part in model.modules():
        quick = norm if type(part).__name__ in NORMS else dense if type(part).__name__ in FEED_FORWARD else None
        if quick is not None and "forward" not in vars(part):
            part.forward = MethodType(quick, part)


def norm(self: Any, hidden_states: Tensor) -> Tensor:
    """Their forward: (…, width) -> (…, width)."""
    plain = hidden_states.device.type != "cpu" or {hidden_states.dtype, self.weight.dtype} != {torch.float32}
    if plain or not torch.is_grad_enabled() or not shortcuts.on("fused_norms"):
        theirs: Tensor = type(self).forward(self, hidden_states)
        return theirs
    ours: Tensor = _RMSNorm.apply(  # type: ignore[no-untyped-call]
        hidden_states, self.weight, self.variance_epsilon)
    return ours


def dense(self: Any, hidden_states: Tensor) -> Tensor:
    """Their forward: (…, width) -> (…, width). The last layer isn't given fp32, which autocast would turn to bf16."""
    level = round(self.dropout.p * shortcuts.LEVELS)
    ours = (hidden_states.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
            and type(self.act) is nn.ReLU and self.training and 0 < level < shortcuts.LEVELS
            and shortcuts.on("fused_norms") and shortcuts.on("fast_dropout"))
    if not ours:
        theirs: Tensor = type(self).forward(self, hidden_states)
        return theirs
    kept: Tensor = _DroppedReLU.apply(self.wi(hidden_states), level)  # type: ignore[no-untyped-call]
    found: Tensor = self.wo(kept)
    return found


class _DroppedReLU(torch.autograd.Function):
    """dropout(relu(x)) as `shortcuts.dropout` draws it; what comes out says where both let a gradient through."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, level: int) -> Tensor:
        keep, ctx.scale = shortcuts.stays(input.shape, level), shortcuts.LEVELS / (shortcuts.LEVELS - level)
        out: Tensor = input.clamp_min(0).mul_(keep.to(input.dtype)).mul_(ctx.scale)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(slope, out, 0).mul_(ctx.scale), None


class _RMSNorm(torch.autograd.Function):
    """Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", equation 4; only its input is kept."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(input, dim=-1, keepdim=True)
        inverse = length.square_().div_(input.shape[-1]).add_(eps).rsqrt_()  # (…, 1)
        ctx.save_for_backward(input, weight, inverse)
        normed: Tensor = (input * inverse).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        input, weight, inverse = ctx.saved_tensors
        normed = input * inverse
        product = slope * normed
        along = (product @ weight).div_(input.shape[-1])[..., None]
        own = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, own, None
        # inverse · (weight · slope - normed · mean(weight · slope · normed))
        return normed.mul_(along).neg_().addcmul_(slope, weight).mul_(inverse), own, None
