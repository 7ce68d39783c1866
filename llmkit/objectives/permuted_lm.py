"""Permuted language modelling: predict tokens in a random order, each from those before it in that order (XLNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, Samples, token, vocabulary
from llmkit.objectives.shared.showing import guessed
from llmkit.recipe import Positive, Share
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from llmkit.backbones.kernels.chunked_loss import Guesses


@dataclass(config=OPTIONS)
class PermutedLM(Objective):
    """The tokens stay in place; which of them sees which follows a random order (Yang et al. 2019, §2.2 to §2.4).

    Partial prediction: only the last tokens of the order are targets, in spans, each with a context K times as long.
    Inputs keep the targets' own tokens, which later targets see; transformers' collator writes the mask token there.
    """

    plm_probability: Share = 1 / 6
    """1/K: the length of a span over that of its context, which is about the share of tokens predicted."""
    max_span_length: Positive = 5
    """Spans have 1 to this many tokens, each number as likely."""

    shapes = frozenset({"permuted"})
    head = "AutoModelForCausalLM"
    idle = True  # the embeddings of segments, where there is one

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Segments end with <sep> <cls>; in blocks, <sep> stands between documents too."""
        end = token(tokenizer, "sep", "permuted_lm")
        token(tokenizer, "cls", "permuted_lm")
        if max_length < 4:
            raise RequestError(f"data.max_length: {max_length} leaves no room for text before <sep> <cls>.")
        between = (end,) if packing == "blocks" else ()
        return Layout(length=max_length - 2, room=max_length, after=between, positions=lambda lengths: lengths + 2)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Choose targets, and the order in which they are predicted; -1: context, which everything sees.

        the cat sat on  ->  the cat sat on <sep> <cls>, order -1 3 -1 -1 -1 -1, labels · cat · · · ·
        """
        known = vocabulary(tokenizer)
        ids = np.append(segment, [known.sep, known.cls]).astype(np.int64)
        plain = known.plain(ids)
        chosen = targets(len(ids), self.plm_probability, self.max_span_length, rng) & plain
        if not chosen.any() and plain.any():  # a row too short for its spans still asks for one token
            chosen[rng.choice(np.flatnonzero(plain))] = True
        order = np.where(chosen, rng.permutation(len(ids)), -1)
        return {"input_ids": ids, "labels": np.where(chosen, ids, -100), "order": order}

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Rows to input_ids (rows, length), perm_mask (rows, length, length), target_mapping (rows, targets, length)
        and labels (rows, targets).
        """
        import torch

        batch = stack(rows, {"input_ids": tokenizer.pad_token_id or 0, "labels": -100, "order": -1, "documents": -1})
        order, labels = batch.pop("order"), batch.pop("labels")
        batch["perm_mask"] = hidden(order).float()
        most = max(1, int((labels != -100).sum(1).max()))
        batch["target_mapping"] = torch.zeros(len(labels), most, labels.shape[1])
        batch["labels"] = torch.full((len(labels), most), -100)
        for row, one in enumerate(labels):
            places = (one != -100).nonzero()[:, 0]
            batch["target_mapping"][row, range(len(places)), places] = 1
            batch["labels"][row, : len(places)] = one[places]
        return batch

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """The targets, each with the model's guess, which sees those before it in the order."""
        import torch

        places = batch["target_mapping"].argmax(-1)
        labels = torch.full_like(batch["input_ids"], -100)
        rows, targets = (batch["labels"] != -100).nonzero(as_tuple=True)
        labels[rows, places[rows, targets]] = batch["labels"][rows, targets]
        return guessed(self.at_targets(model, batch, family), batch["input_ids"], labels, batch, tokenizer)

    def at_targets(self, model: nn.Module, batch: Batch, family: type[Family]) -> Guesses:
        """What the second stream says at the targets; logits exist at these only."""
        return super().at_targets(model, {**batch, "use_mems": False}, family)  # type: ignore[dict-item]


def targets(length: int, share: float, longest: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Spans to predict: one in every stretch of span / share tokens, at a random place of it (transformers' rule)."""
    chosen = np.zeros(length, dtype=np.bool_)
    start = 0
    while start < length:
        span = int(rng.integers(1, longest + 1))
        stretch = int(span / share)
        first = start + int(rng.integers(stretch - span + 1))
        chosen[first : first + span] = True
        start += stretch
    return chosen


def hidden(order: Tensor) -> Tensor:
    """Whom a position can't see: targets that come at the same place of the order or after it.

    (rows, length) -> (rows, query, key), bool. A context token (-1) is seen by all and sees context only.
    """
    return (order[:, None, :] >= 0) & (order[:, :, None] <= order[:, None, :])
