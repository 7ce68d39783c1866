"""Muon: the steps of matrices are made orthogonal (Jordan et al. 2024); AdamW moves all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Decay, Epsilon, Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    import torch


@dataclass(config=OPTIONS)
class Muon(Optimizer):
    """torch's Muon for the matrices of the layers; AdamW for tables of embeddings, heads and vectors.

    Both have the rate of `training`: `match_rms_adamw` makes Muon's steps as large as AdamW's (Liu et al. 2025).
    """

    momentum: Decay = 0.95
    """How much of the running mean of a matrix's gradients stays in each step."""
    nesterov: bool = True
    """Whether the step looks ahead by the gradient once more."""
    ns_steps: Annotated[int, Field(gt=0, lt=100)] = 5
    """Iterations of Newton and Schulz that make a step orthogonal."""
    adjust_lr_fn: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """How a matrix's shape scales its step: to the size of AdamW's, or as Jordan had it, whose rate was 2e-2."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's, for all that isn't a matrix of a layer."""
    eps: Epsilon = 1e-8
    """AdamW's too."""

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """Muon and AdamW, in one."""
        import torch

        from llmkit.optimizers.shared.several import Several

        matrices, others = parted(learned)
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(torch.optim.Muon(
                groups(matrices), momentum=self.momentum, nesterov=self.nesterov, ns_steps=self.ns_steps,
                adjust_lr_fn=self.adjust_lr_fn))
        if others:
            parts.append(torch.optim.AdamW(groups(others), betas=self.betas, eps=self.eps, fused=True))
        return Several(parts)

    def describe(self, learned: Sequence[Learned]) -> str:
        """`24 matrices by Muon, 14 other tensors by AdamW`."""
        matrices, others = parted(learned)
        return f"{len(matrices):,} matrices by Muon, {len(others):,} other tensors by AdamW"


def parted(learned: Sequence[Learned]) -> tuple[list[Learned], list[Learned]]:
    """(what Muon moves, what AdamW does)."""
    return [one for one in learned if one.hidden], [one for one in learned if not one.hidden]
