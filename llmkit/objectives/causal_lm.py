"""Causal language modelling: predict each token from those before it (GPT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.data.batches import Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective
from llmkit.registry import OPTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(config=OPTIONS)
class CausalLM(Objective):
    """Predict the next token (Bengio et al. 2003; Radford et al. 2018)."""

    add_eos_token: bool = True
    """Whether the end of a document is learned too, as a token after it."""

    shapes = frozenset({"decoder"})
    head = "AutoModelForCausalLM"

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Each document between its begin and end tokens; the last token of a segment is only a target."""
        end = tokenizer.eos_token_id
        begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return Layout(
            length=max_length + 1, room=max_length, overlap=1, shortest=2, positions=lambda lengths: lengths - 1,
            before=() if begin is None else (begin,), after=() if end is None or not self.add_eos_token else (end,))

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Labels are the inputs one step ahead.

        <s> the cat sat  ->  inputs <s> the cat, labels the cat sat
        """
        return {"input_ids": segment[:-1], "labels": segment[1:].astype(np.int64)}
