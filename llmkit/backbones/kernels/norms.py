"""Norms by root mean square, as T5, Llama and Qwen have them, in half the passes of their code on a CPU."""

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


def quicken(model: nn.Module) -> None:
    """Let a model's norms be `_RMSNorm` where they are trained in fp32 on a CPU; elsewhere they do what they did."""
    for part in model.modules():
        if type(part).__name__ in NORMS and "forward" not in vars(part):
            part.forward = MethodType(norm, part)


def norm(self: Any, hidden_states: Tensor) -> Tensor:
    """Their forward: (…, width) -> (…, width)."""
    plain = hidden_states.device.type != "cpu" or {hidden_states.dtype, self.weight.dtype} != {torch.float32}
    if plain or not torch.is_grad_enabled() or not shortcuts.on("fused_norms"):
        theirs: Tensor = type(self).forward(self, hidden_states)
        return theirs
    ours: Tensor = _RMSNorm.apply(  # type: ignore[no-untyped-call]
        hidden_states, self.weight, self.variance_epsilon)
    return ours


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
