"""Cheaper ways to the same numbers in a step of a training: each can be turned off."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.activations import NewGELUActivation

from llmkit.backbones.kernels.casts import Casts
from llmkit.recipe import Shortcut

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

ALL: frozenset[str] = frozenset(get_args(Shortcut))
LEVELS = 2**16
"""How finely a dropout's share is divided."""
SHORT = 256
"""Keys up to which plain products stand for torch's tiled attention in bf16 on a CPU: gradient included, they take a
fifth of its time at 64 and 0.6 at 256. They still gain at 512, but keep a number for each pair of positions."""
SCORES = 1024**2
"""Attention scores that exist at once beside the chances: in bf16 they should fit a core's cache."""
_WANTED: ContextVar[frozenset[str]] = ContextVar("shortcuts", default=ALL)
"""Those that may be taken in this thread."""


def on(shortcut: str) -> bool:
    """Whether a shortcut may be taken here.

    To be asked in a forward pass alone: on a GPU, torch runs a backward pass in threads of its own, which know nothing
    of `only`. What a backward pass needs to know is kept with what the forward pass saves.
    """
    return shortcut in _WANTED.get()


@contextmanager
def only(wanted: Collection[str]) -> Iterator[None]:
    """Take these shortcuts only, in this thread, while the block runs; a new thread begins with all of them."""
    token = _WANTED.set(frozenset(wanted))
    try:
        yield
    finally:
        _WANTED.reset(token)


def step(device: str) -> AbstractContextManager[Any]:
    """What a step's forward and backward pass run in; a GPU has kernels of its own for all of this."""
    ours: dict[Any, Callable[..., Any]] = {}
    if device == "cpu" and on("fast_dropout"):
        ours[functional.dropout] = dropout
    if device == "cpu" and (on("fast_dropout") or on("short_attention")):
        ours[functional.scaled_dot_product_attention] = attention
    if device == "cpu" and on("shared_casts"):
        ours |= Casts().instead
    return _Instead(ours) if ours else nullcontext()


class _Instead(TorchFunctionMode):
    """Calls other functions in the place of some of torch's, whoever calls them."""

    def __init__(self, ours: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.ours = ours

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.ours.get(func, func)(*args, **(kwargs or {}))


def fuse(model: nn.Module) -> None:
    """Let the GELU of GPT-2's code, which is written out there in eight operations, be torch's one kernel.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", §2, the approximation by tanh: the same but for rounding.
    """
    for part in list(model.modules()):
        for name, activation in part.named_children():
            if type(activation) is NewGELUActivation:
                setattr(part, name, nn.GELU(approximate="tanh"))


# ---- dropout ------------------------------------------------------------------------------------------------------


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout with 16 random bits an element where torch draws 64: the share is kept to 1 / 65,536.

    What stays is divided by the share that stays, to the last bit of it.
    """
    level = round(p * LEVELS)
    if not training or not 0 < level < LEVELS or inplace:
        return functional.dropout(input, p, training, inplace)
    found: Tensor = _Dropout.apply(input, level)  # type: ignore[no-untyped-call]
    return found


def stays(shape: torch.Size, level: int) -> Tensor:
    """Which elements stay: each with a chance of 1 - level / 65,536, by torch's own random numbers; 0 or 1 in int16.

    Truth values would take torch several times as long, to make and to multiply by.
    """
    count = math.prod(shape)
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:count].view(shape).ge_(level - LEVELS // 2)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, level: int) -> Tensor:
        keep, ctx.scale = stays(input.shape, level), LEVELS / (LEVELS - level)
        ctx.save_for_backward(keep.to(torch.int8))
        return (input * keep.to(input.dtype)).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (slope * keep.to(slope.dtype)).mul_(ctx.scale), None


# ---- attention ----------------------------------------------------------------------------------------------------


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:
    """Torch's scaled dot product attention, (batch, heads, length, width); by plain products where these are faster.

    They are with dropout, for which torch has nothing better on a CPU, and for short rows in bf16.
    """
    if torch.is_autocast_enabled(query.device.type):  # a prefix's keys come in fp32
        query, key, value = (one.to(torch.get_autocast_dtype(query.device.type)) for one in (query, key, value))
    level = round(dropout_p * LEVELS)
    short = on("short_attention") and query.dtype is torch.bfloat16 and key.shape[-2] <= SHORT and query.requires_grad
    plain = (short if level == 0 else on("fast_dropout")) and level < LEVELS and query.dim() == 4
    if not plain or enable_gqa:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    least = torch.finfo(query.dtype).min
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype).masked_fill_(~attn_mask, least)
    elif attn_mask is not None:  # fp32's least number would be -inf in bf16, and a row of these is no number
        attn_mask = attn_mask.clamp_min(least).to(query.dtype)
    found: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query, key, value, attn_mask, level, query.shape[-1] ** -0.5 if scale is None else scale)
    return found


class _Attention(torch.autograd.Function):
    """softmax(scale · Q Kᵀ + mask), dropout, times V: a few rows of the batch at a time.

    Softmax computes in fp32 at least, whatever it reads and writes. The chances that dropout leaves are kept with a
    minus before them, so that nothing else needs to say which they are.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, level: int, scale: float
    ) -> Tensor:
        (rows, heads, length), keys = query.shape[:3], key.shape[-2]
        keep = stays(torch.Size((rows, heads, length, keys)), level) if level else None
        share = LEVELS / (LEVELS - level)
        query = (query if scale == 1 else query * scale).contiguous()
        key, value = key.contiguous(), value.contiguous()
        larger = value if keep is None else value * -share  # so are the chances
        chances = query.new_empty(rows, heads, length, keys)
        out = query.new_empty(rows, length, heads, value.shape[-1]).transpose(1, 2)
        step = max(1, SCORES // (heads * length * keys))
        for start in range(0, rows, step):
            some = slice(start, min(start + step, rows))
            scores = torch.matmul(query[some], key[some].transpose(-1, -2))
            if mask is not None:
                scores += mask if mask.dim() < 4 or mask.shape[0] == 1 else mask[some]
            left = torch.softmax(scores, -1, out=chances[some])
            if keep is not None:
                left = mark(left, keep[some]).clamp_max(0)
            out[some] = torch.matmul(left, larger[some])
        ctx.save_for_backward(query, key, value, chances)
        ctx.numbers = scale, share, step
        ctx.mask = mask.shape if mask is not None and ctx.needs_input_grad[3] else None
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, chances = ctx.saved_tensors
        scale, share, step = ctx.numbers
        dropped = share != 1
        slope = (slope * share if dropped else slope).contiguous()
        found = [slope.new_empty(one.transpose(1, 2).shape).transpose(1, 2) for one in (query, key, value)]
        bias = None if ctx.mask is None else torch.zeros(ctx.mask, dtype=precise(query))  # of relative positions
        for start in range(0, len(query), step):
            some = slice(start, min(start + step, len(query)))
            part, towards = chances[some], torch.matmul(slope[some], value[some].transpose(-1, -2))
            left = part
            if dropped:
                left, towards, part = part.clamp_max(0), at_marked(towards, part), part.abs()
            found[2][some] = torch.matmul(left.transpose(-1, -2), -slope[some] if dropped else slope[some])
            towards = torch._softmax_backward_data(towards, part, -1, part.dtype)
            if bias is not None:
                whole = bias.dim() < 4 or bias.shape[0] == 1
                own = bias if whole else bias[some]
                own += towards.to(bias.dtype).sum_to_size(own.shape)
            found[0][some] = torch.matmul(towards, key[some]).mul_(scale)
            found[1][some] = torch.matmul(towards.transpose(-1, -2), query[some])
        return (*found, None if bias is None else bias.to(query.dtype), None, None)


def mark(chances: Tensor, keep: Tensor) -> Tensor:
    """Put a minus before the chances that are kept (1 of 0 and 1), in place."""
    if chances.dtype is torch.bfloat16:
        chances.view(torch.int16).bitwise_or_(keep.bitwise_left_shift_(15))
        return chances
    return chances.mul_(1 - 2 * keep.to(chances.dtype))


def at_marked(towards: Tensor, chances: Tensor) -> Tensor:
    """What leads to chances with a minus before them, and 0 for the others; in place."""
    if towards.dtype is torch.bfloat16:
        towards.view(torch.int16).bitwise_and_(chances.view(torch.int16) >> 15)
        return towards
    return towards.mul_(torch.signbit(chances))


def precise(tensor: Tensor) -> torch.dtype:
    """fp32, or a tensor's own type where that is finer."""
    return torch.promote_types(tensor.dtype, torch.float32)
