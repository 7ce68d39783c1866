"""Embeddings of texts: one vector out of an encoder's hidden states, and what other tools need to make the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

Pooling: TypeAlias = Literal["mean", "cls"]
MODES = ("mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len")
"""What `pooled` can do."""


def embed(model: nn.Module, batch: Batch, family: type[Family], pooling: Pooling) -> Tensor:
    """One embedding a row, (rows, width): the mean of the last hidden states, or the one of [CLS]."""
    hidden = family.outputs(model, dict(batch)).last_hidden_state
    return pooled(hidden, batch.get("attention_mask"), pooling)


def pooled(hidden: Tensor, mask: Tensor | None, mode: str) -> Tensor:
    """One vector a row: (rows, length, width) -> (rows, width). `mask` (rows, length) is 0 where padding follows.

    The modes are sentence-transformers': the mean of the states, the sum of them over the root of their number
    (mean_sqrt_len), a mean that weighs the later more (weightedmean: 1, 2, 3, …), the highest number of each column
    (max), the first state (cls) or the last (lasttoken).
    """
    import torch

    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    if mode == "max":
        return hidden.masked_fill(mask[:, :, None] == 0, float("-inf")).amax(1)
    weights = mask.to(hidden.dtype)
    if mode == "weightedmean":
        weights = weights * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    total = weights.sum(1, keepdim=True)
    return (hidden * weights[:, :, None]).sum(1) / (total.sqrt() if mode == "mean_sqrt_len" else total)


def describe(folder: Path, pooling: Pooling) -> None:
    """Write the files by which sentence-transformers opens a saved model with its pooling."""
    config = json.loads((folder / "config.json").read_text())
    width = config.get("hidden_size") or config.get("d_model")
    modes = {"cls_token": pooling == "cls", "mean_tokens": pooling == "mean"}
    module = "sentence_transformers.models."
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{module}Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}Pooling"}],
        "1_Pooling/config.json": {
            "word_embedding_dimension": width, **{f"pooling_mode_{name}": on for name, on in modes.items()}}}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2))


def found(first: Tensor, second: Tensor, temperature: float) -> dict[str, float]:
    """How well each row's second text is found among all, given the first; (rows, width) each, vectors of length 1.

    `loss` is the cross-entropy of the right one over cosines divided by the temperature, with every row as a negative;
    `accuracy`: the right one is the closest.
    """
    import torch

    losses, right = [], 0
    for start in range(0, len(first), 1024):
        cosines = first[start : start + 1024] @ second.T
        own = torch.arange(start, start + len(cosines))
        scaled = cosines / temperature
        losses.append(scaled.logsumexp(1) - scaled.gather(1, own[:, None])[:, 0])
        right += int((cosines.argmax(1) == own).sum())
    return {"loss": float(torch.cat(losses).mean()), "accuracy": right / len(first)}
