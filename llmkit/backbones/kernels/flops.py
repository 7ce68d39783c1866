"""Floating-point operations: how many a step takes, how many a second the machine can do, and the share it reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from llmkit.system import devices

if TYPE_CHECKING:
    import torch

SECONDS = 1.0
"""How long the machine's rate is measured, but for the products at the end of it."""
SIDES, SIDES_ON_A_GPU = (1024, 2048), (4096, 8192)
"""Sides of the square matrices that are multiplied."""


def counted(step: Callable[[], object]) -> int:
    """Run a step; return the operations of its matrix products, forward and backward: a multiplication and an addition
    are two.

    What is really computed counts: a head at the target positions only, no gradients of what is frozen. For a dense
    model this is the usual 6 x parameters x tokens, and 12 x layers x width x length x tokens for attention (Kaplan et
    al. 2020; Chowdhery et al. 2022, appendix B). Attention's backward pass counts twice its forward pass, though flash
    attention computes more. What gradient checkpointing computes again is counted again.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ops = torch.ops.aten
    mapping: dict[Any, Any] = {
        ops._scaled_dot_product_flash_attention_for_cpu: _attention, ops._grouped_mm: _experts}
    for name in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
        mapping[getattr(ops, f"_scaled_dot_product_{name}_backward")] = _attention_backward
    # compiled code hides its products
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        step()
    return int(counter.get_total_flops())


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, **more: Any) -> int:
    """Two products: queries with keys, weights with values. Shapes are (…, length, width)."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _experts(a: Sequence[int], b: Sequence[int], *rest: Any, **more: Any) -> int:
    """Each token with one expert's matrix, (tokens, in) by (experts, in, out).

    The gradient of the matrices is (in, tokens) by (tokens, out), an expert's tokens at a time.
    """
    return 2 * prod(a) * b[-1]


def _attention_backward(
    slope: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, **more: Any,
) -> int:
    """Two products for each of the forward pass."""
    return 2 * _attention(query, key, value)


def rate(precision: str) -> float:
    """Operations a second of this process's matrix products on its device: the best of several large ones.

    Measured once for a precision (fp32, bf16 or fp16) and a number of threads, in under two seconds.
    """
    import torch

    return _rate(precision, devices.kind(), torch.get_num_threads())


@cache
def _rate(precision: str, device: str, threads: int) -> float:
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    best, began, sides = 0.0, time.perf_counter(), SIDES if device == "cpu" else SIDES_ON_A_GPU
    for nth, side in enumerate(sides, 1):
        if best and 2 * (2 * side**3) / best > SECONDS:
            break  # a slow machine is at its full rate with smaller ones
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        _seconds(a, b)  # the first product chooses its kernel
        while True:
            best = max(best, 2 * side**3 / _seconds(a, b))
            if time.perf_counter() - began > SECONDS * nth / len(sides):
                break
    return best


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """How long a product takes."""
    import torch

    began = time.perf_counter()
    torch.mm(a, b)
    devices.wait()
    return time.perf_counter() - began


def mfu(flops_a_step: float, seconds_a_step: float, precision: str) -> float:
    """Model FLOP utilisation, from 0 to 1: what a step computes, against what the machine multiplies in that time."""
    return flops_a_step / (seconds_a_step * rate(precision))
