"""Masked language modelling: hide some tokens, predict them from both sides (BERT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.data.batches import Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.errors import RequestError
from llmkit.objectives.base import Objective, token
from llmkit.recipe import Share
from llmkit.registry import OPTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase


@dataclass(config=OPTIONS)
class MaskedLM(Objective):
    """Predict hidden tokens (Devlin et al. 2019, §3.1)."""

    mlm_probability: Share = 0.15
    """Share of a row's tokens that are predicted."""
    mask_replace_prob: float = 0.8
    """Of those, the share that the mask token replaces."""
    random_replace_prob: float = 0.1
    """Of those, the share that a random token replaces; the rest stays as it is."""

    shapes = frozenset({"encoder"})
    head = "AutoModelForMaskedLM"

    def __post_init__(self) -> None:
        shares = self.mask_replace_prob, self.random_replace_prob
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError("mask_replace_prob and random_replace_prob are shares of one whole")

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Every segment between [CLS] and [SEP]; in blocks, [SEP] between documents too."""
        token(tokenizer, "mask", "masked_lm")
        end = token(tokenizer, "sep", "masked_lm")
        token(tokenizer, "cls", "masked_lm")
        if max_length < 3:
            raise RequestError(f"data.max_length: {max_length} leaves no room between [CLS] and [SEP].")
        between = (end,) if packing == "blocks" else ()
        return Layout(length=max_length - 2, room=max_length, after=between, positions=lambda lengths: lengths + 2)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Corrupt a segment.

        the cat sat on the mat  ->  [CLS] the [MASK] sat on the mat [SEP], labels at the hidden cat only
        """
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        ids = np.concatenate([[cls], segment, [sep]]).astype(np.int64)
        special = np.array(sorted(tokenizer.all_special_ids))
        chosen = choose(~np.isin(ids, special), self.mlm_probability, rng)
        labels = np.where(chosen, ids, -100)
        words = len(tokenizer)
        return {"input_ids": self.corrupt(ids, chosen, rng, tokenizer.mask_token_id, words, special), "labels": labels}

    def corrupt(
        self, ids: NDArray[np.int64], chosen: NDArray[np.bool_], rng: np.random.Generator, mask: int, words: int,
        special: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Replace chosen tokens: most by the mask, some by a random word that isn't special, the rest not at all."""
        dice = rng.random(len(ids))
        noise = random_words(len(ids), words, special, rng)
        out = np.where(chosen & (dice < self.mask_replace_prob), mask, ids)
        swapped = chosen & (dice >= self.mask_replace_prob) & (dice < self.mask_replace_prob + self.random_replace_prob)
        return np.where(swapped, noise, out)


def choose(candidates: NDArray[np.bool_], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose a share of the candidates, at least one: the number is exact, as in the paper's own code."""
    places = np.flatnonzero(candidates)
    chosen = np.zeros(len(candidates), dtype=np.bool_)
    if len(places):
        count = min(len(places), max(1, round(len(places) * share)))
        chosen[rng.permutation(places)[:count]] = True
    return chosen


def random_words(count: int, words: int, special: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Random ids below `words` that are not among the (sorted) special ones."""
    drawn = rng.integers(0, words - len(special), count)
    return drawn + np.searchsorted(special - np.arange(len(special)), drawn, side="right")
