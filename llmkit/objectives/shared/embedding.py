"""Embeddings of texts: one vector out of an encoder's hidden states, and what other tools need to make the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch
from llmkit.models import layout, pooling

if TYPE_CHECKING:
    from torch import Tensor, nn

Pooling: TypeAlias = Literal["mean", "cls"]


def embed(model: nn.Module, batch: Batch, family: type[Family], mode: Pooling) -> Tensor:
    """One embedding a row, (rows, width): the mean of the last hidden states, or the one of [CLS]."""
    hidden = family.outputs(model, dict(batch)).last_hidden_state
    return pooling.pooled(hidden, batch.get("attention_mask"), mode)


def describe(folder: Path, mode: Pooling) -> None:
    """Write the files by which sentence-transformers opens a saved model with its pooling."""
    config = json.loads((folder / layout.CONFIG).read_text())
    pooling.write(folder, mode, config.get("hidden_size") or config.get("d_model"))


def found(
    first: Tensor, second: Tensor, temperature: float, alike: Sequence[str | None] = (),
) -> dict[str, float]:
    """How well each row's second text is found among all, given the first; (rows, width) each, vectors of length 1.

    `loss` is the cross-entropy of the right one over cosines divided by the temperature, with every row as a negative;
    `accuracy`: the right one is the closest. Rows whose `alike` is the same aren't negatives of each other.
    """
    import torch

    numbers = {one: i for i, one in enumerate(dict.fromkeys(alike)) if one is not None}
    groups = torch.full((len(second),), -1)
    groups[: len(alike)] = torch.tensor([numbers[one] if one is not None else -1 for one in alike], dtype=torch.long)
    losses, right = [], 0
    for start in range(0, len(first), 1024):
        cosines = first[start : start + 1024] @ second.T
        own = torch.arange(start, start + len(cosines))
        if numbers:
            same = (groups[own][:, None] == groups[None]) & (groups[None] >= 0)
            same[torch.arange(len(own)), own] = False
            cosines = cosines.masked_fill(same, float("-inf"))
        scaled = cosines / temperature
        losses.append(scaled.logsumexp(1) - scaled.gather(1, own[:, None])[:, 0])
        right += int((cosines.argmax(1) == own).sum())
    return {"loss": float(torch.cat(losses).mean()), "accuracy": right / len(first)}
