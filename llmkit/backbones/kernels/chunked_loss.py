"""How likely a model finds the right tokens: a loss over a vocabulary whose logits never exist all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.nn.functional import cross_entropy, linear

from llmkit.backbones.kernels import liger

if TYPE_CHECKING:
    from torch import Tensor

HELD = 16 * 1024**2
"""Logits that exist at once, in the numbers of the forward pass: 512 rows of a vocabulary of 32,768."""
FP32 = 1024**2
"""Of those, the logits that are turned to fp32 at once: with their softmax they should fit the caches of two cores."""
ON_A_GPU = 64 * 1024**2
"""Both, on a GPU: 0.7 GB with their fp32 and their softmax. GPT-2's 16,384 tokens are 13 products then, not 25, and 13
softmaxes, not 198; each is a launch, and a GPU has no cache that a larger one would leave."""


Watch: TypeAlias = "Callable[[slice, Tensor], None]"
"""Is shown the probabilities (some targets, vocabulary) of every target once, and which these are."""


def at_once(device: torch.device) -> tuple[int, int]:
    """(logits that exist, logits that are turned to fp32) at once on a device."""
    return (HELD, FP32) if device.type == "cpu" else (ON_A_GPU, ON_A_GPU)


class Guesses:
    """What a model says at some targets."""

    labels: Tensor
    """The right tokens, (targets,)."""

    @property
    def words(self) -> int:
        """The size of the vocabulary."""
        raise NotImplementedError

    def loss(self, smoothing: float = 0.0, watch: Watch | None = None) -> Tensor:
        """Cross-entropy, summed over the targets; `smoothing` of a label's share goes to all tokens alike."""
        raise NotImplementedError

    def each(self) -> Tensor:
        """Cross-entropy of each target, (targets,)."""
        raise NotImplementedError

    def at(self, rows: slice) -> Tensor:
        """The logits of some targets, (some, vocabulary)."""
        raise NotImplementedError

    def judged(self) -> tuple[Tensor, int]:
        """(the loss, targets whose token is the likeliest)."""
        right = []

        def count(rows: slice, chances: Tensor) -> None:
            right.append(int((chances.argmax(-1) == self.labels[rows]).sum()))

        return self.loss(watch=count), sum(right)


@dataclass(frozen=True)
class Logits(Guesses):
    """By logits (targets, vocabulary)."""

    logits: Tensor
    labels: Tensor

    @property
    def words(self) -> int:
        """The size of the vocabulary."""
        return self.logits.shape[-1]

    def loss(self, smoothing: float = 0.0, watch: Watch | None = None) -> Tensor:
        """Cross-entropy, summed over the targets."""
        if watch is not None:
            watch(slice(0, len(self.labels)), self.logits.detach().float().softmax(-1))
        return cross_entropy(self.logits.float(), self.labels, reduction="sum", label_smoothing=smoothing)

    def each(self) -> Tensor:
        """Cross-entropy of each target, (targets,)."""
        return cross_entropy(self.logits.float(), self.labels, reduction="none")

    def at(self, rows: slice) -> Tensor:
        """Those that are there."""
        return self.logits[rows]


@dataclass(frozen=True)
class Linear(Guesses):
    """Before its last layer: by hidden states (targets, width), a table (vocabulary, width), a bias or None."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor

    @property
    def words(self) -> int:
        """The size of the vocabulary."""
        return len(self.weight)

    def loss(self, smoothing: float = 0.0, watch: Watch | None = None) -> Tensor:
        """Cross-entropy, summed over the targets. With gradients, these are made on the way, from the same logits."""
        if watch is None and torch.is_grad_enabled() and liger.stands_in(self.hidden, self.labels):
            return liger.fused_loss(self.hidden, self.weight, self.bias, self.labels, smoothing)
        found: Tensor = _Sum.apply(  # type: ignore[no-untyped-call]
            self.hidden, self.weight, self.bias, self.labels, smoothing, watch, torch.is_grad_enabled())
        return found

    def each(self) -> Tensor:
        """Cross-entropy of each target, (targets,). The logits are made again for its gradient."""
        found: Tensor = _Each.apply(self.hidden, self.weight, self.bias, self.labels)  # type: ignore[no-untyped-call]
        return found

    def at(self, rows: slice) -> Tensor:
        """What the last layer makes."""
        return linear(self.hidden[rows], self.weight, self.bias)


class _Work:
    """Goes through logits by chunks of targets, in the numbers of the forward pass, and adds gradients up in fp32."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        self.hidden, self.weight, self.labels = hidden.to(dtype), weight.to(dtype), labels
        self.bias = None if bias is None else bias.to(dtype)
        self.words = len(weight)

    def logits(self) -> Any:
        """(which targets, their logits), chunk by chunk."""
        step = max(1, at_once(self.hidden.device)[0] // self.words)
        with torch.autocast(self.hidden.device.type, enabled=False):
            for start in range(0, len(self.hidden), step):
                rows = slice(start, min(start + step, len(self.hidden)))
                yield rows, linear(self.hidden[rows], self.weight, self.bias)

    def losses(self, rows: slice, logits: Tensor, smoothing: float, slope: Tensor | None, keep: bool) -> Tensor:
        """Cross-entropy of each of some targets; with `keep`, the logits become the gradient of loss · slope."""
        step, out = max(1, at_once(logits.device)[1] // self.words), []
        for start in range(0, len(logits), step):
            part = logits[start : start + step]
            labels = self.labels[rows][start : start + step, None]
            shares = torch.log_softmax(part.float(), 1)
            own, mean = shares.gather(1, labels), shares.mean(1, keepdim=True) if smoothing else 0.0
            out.append((-(1 - smoothing) * own - smoothing * mean)[:, 0])
            if not keep and self.watch is None:
                continue
            chances = shares.exp_()
            if self.watch is not None:
                self.watch(slice(rows.start + start, rows.start + start + len(part)), chances)
            if keep:
                if smoothing:
                    chances -= smoothing / self.words
                chances.scatter_add_(1, labels, torch.full_like(own, smoothing - 1))
                if slope is not None:
                    chances *= slope[rows][start : start + step, None]
                part.copy_(chances)
        return torch.cat(out) if out else logits.new_zeros(0, dtype=torch.float32)

    def gradients(self, slope: Tensor | None, smoothing: float, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        """(each target's loss, and the gradients of hidden states, table and bias that are needed)."""
        hidden = torch.empty_like(self.hidden) if needs[0] else None
        table: Tensor | None = None
        bias = torch.zeros(self.words, dtype=torch.float32, device=self.weight.device) if needs[2] else None
        losses = []
        for rows, some in self.logits():
            losses.append(self.losses(rows, some, smoothing, slope, keep=any(needs)))
            with torch.autocast(some.device.type, enabled=False):
                if hidden is not None:
                    torch.mm(some, self.weight, out=hidden[rows])
                if needs[1]:  # the sum is of fp32 alone: torch adds bf16 to it at a third of the speed
                    more = (some.T @ self.hidden[rows]).float()
                    table = more if table is None else table.add_(more)
                if bias is not None:
                    bias += (some.new_ones(1, len(some)) @ some)[0]
        if needs[1] and table is None:
            table = torch.zeros(self.weight.shape, dtype=torch.float32, device=self.weight.device)
        return torch.cat(losses) if losses else self.hidden.new_zeros(0, dtype=torch.float32), hidden, table, bias


class _Sum(torch.autograd.Function):
    """Linear layer and summed cross-entropy in one: the gradient is ready when the loss is, but for a factor."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float,
        watch: Watch | None, slopes: bool,
    ) -> Tensor:
        # what an evaluation calls still needs a gradient by its own account
        needs = tuple(slopes and one for one in ctx.needs_input_grad[:3])
        losses: Tensor
        losses, *ctx.ready = _Work(hidden, weight, bias, labels, watch).gradients(None, smoothing, needs)
        ctx.dtypes = [None if one is None else one.dtype for one in (hidden, weight, bias)]
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        ready, ctx.ready = ctx.ready, None  # used up: they are scaled where they lie
        found = [None if one is None else one.mul_(slope).to(dtype)
                 for one, dtype in zip(ready, ctx.dtypes, strict=True)]
        return (*found, None, None, None, None)


class _Each(torch.autograd.Function):
    """Linear layer and the cross-entropy of each target in one: the gradient waits for what each counts."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        kind = hidden.device.type
        ctx.numbers = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        losses: Tensor = _Work(hidden, weight, bias, labels).gradients(None, 0.0, (False, False, False))[0]
        return losses

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        kind, dtype, on = ctx.numbers
        with torch.autocast(kind, dtype, on):
            _, *found = _Work(hidden, weight, bias, labels).gradients(slope.float(), 0.0, ctx.needs_input_grad[:3])
        dtypes = [None if one is None else one.dtype for one in (hidden, weight, bias)]
        return (*(None if one is None else one.to(dtype) for one, dtype in zip(found, dtypes, strict=True)), None)
