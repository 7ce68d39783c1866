"""Liger's fused linear layer and cross-entropy (Hsu et al. 2024, "Liger Kernel") in the place of the chunked loss."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmkit.backbones.kernels import shortcuts
from llmkit.system import devices
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from llmkit.recipe import Training

LIGER = "liger"
"""What it is called among the shortcuts that are on; a recipe names it by a field of its own."""


def ways(plan: Training) -> list[str]:
    """The shortcuts of a run, Liger's kernel among them where the recipe asks for it."""
    return [*plan.shortcuts, *([LIGER] if plan.use_liger_kernel else [])]


def check(plan: Training) -> None:
    """RequestError where a recipe asks for Liger's kernel and can't have it here."""
    if not plan.use_liger_kernel:
        return
    if devices.kind() not in ("cuda", "xpu", "npu"):
        raise RequestError("training.use_liger_kernel: Liger's kernels are written for GPUs, and there is none that it "
                           "knows; leave it out.")
    missing = next((name for name in ("liger_kernel", "triton") if find_spec(name) is None), None)
    if missing is not None:
        raise RequestError(f"training.use_liger_kernel: the package {missing.replace('_', '-')} isn't installed: pip "
                           "install 'llmkit-train[liger]'.")
    if "chunked_loss" not in plan.shortcuts:
        raise RequestError("training.use_liger_kernel: training.shortcuts leaves out chunked_loss, in whose place it "
                           "stands; name that too.")


def stands_in(hidden: Tensor, labels: Tensor) -> bool:
    """Whether a run asks for it and it can make this loss: it has no gradients where hidden states have none."""
    return shortcuts.on(LIGER) and hidden.requires_grad and len(labels) > 0


def fused_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of hidden states (targets, width) over a table (vocabulary, width), summed over the targets.

    Gradients of the table are added up in fp32. The kernel waits for the device three times: it counts its targets, and
    looks whether the gradient that comes back is 1. Seen in liger-kernel 0.8.5.
    """
    import torch
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    found: Tensor = liger_fused_linear_cross_entropy(
        input=hidden, weight=weight, target=labels, bias=bias, label_smoothing=smoothing, reduction="sum",
        accum_dtype=torch.float32)
    return found
