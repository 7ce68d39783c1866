"""Backward language modelling: predict each token from those that come after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.data.batches import Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, token
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(config=OPTIONS)
class BackwardLM(Objective):
    """The half of ELMo that reads from right to left (Peters et al. 2018, §3.1)."""

    add_eos_token: bool = True
    """Whether a text is read from the token that ends it, so that its last word is learned too."""

    shapes = frozenset({"decoder"})
    head = "AutoModelForCausalLM"

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """A segment has a token more than a row has positions: the last one is only a target."""
        after = (token(tokenizer, "eos", "add_eos_token"),) if self.add_eos_token else ()
        return Layout(length=max_length + 1, room=max_length, overlap=1, shortest=2,
                      positions=lambda lengths: lengths - 1, after=after)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Turned round: the cat sat </s>  ->  inputs </s> sat cat, labels sat cat the."""
        turned = segment[::-1].astype(np.int64)
        return {"input_ids": turned[:-1], "labels": turned[1:]}
