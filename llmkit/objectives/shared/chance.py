"""Numbers of chance for the rows of a batch, of which each has a seed of its own: drawn where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmkit.system.devices import finest

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """One a row, on a device: a GPU's give other numbers than a CPU's for the same seed, and those of a seed alone."""
    import torch

    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def uniform(counts: Sequence[int], seeds: Sequence[int], width: int, device: torch.device) -> Tensor:
    """(targets, width) numbers between 0 and 1: of each row as many targets as `counts` says, by its own seed."""
    import torch

    return torch.cat([torch.rand((count, width), generator=one, dtype=finest(device), device=device)
                      for count, one in zip(counts, generators(seeds, device), strict=True)])


def gumbel(seeds: Sequence[int], words: int, device: torch.device) -> Iterator[Tensor]:
    """Gumbel noise for one token after the other, each row's by its own seed: (rows, words) without end."""
    import torch

    own, fine = generators(seeds, device), finest(device)
    while True:
        yield of_gumbel(torch.stack([torch.rand(words, generator=one, dtype=fine, device=device) for one in own]))


def of_gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise from numbers between 0 and 1."""
    import torch

    least = 1e-300 if uniform.dtype == torch.float64 else 1e-38
    return -torch.log(-torch.log(uniform.clamp_min(least)))
