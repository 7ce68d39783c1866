"""Prefix language modelling: read the beginning from both sides, write the rest from left to right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, Samples, Sets, Setup, token
from llmkit.objectives.shared.showing import guessed, written
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from llmkit.data.sources import Reader


@dataclass(config=OPTIONS)
class PrefixLM(Objective):
    """The text is cut at a random place (Dong et al. 2019; Raffel et al. 2020, §3.2.1).

    In a decoder, every token of the prefix sees the whole prefix; in an encoder-decoder, the encoder reads it. Only the
    rest is learned. transformers' own `generate` reads a decoder's prompt from left to right all the same.
    """

    shapes = frozenset({"decoder", "encoder-decoder"})
    head = ""
    goes_on = True
    masks = True

    def head_for(self, family: type[Family]) -> str:
        """The language model's."""
        return "AutoModelForCausalLM" if family.shape == "decoder" else "AutoModelForSeq2SeqLM"

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """An encoder-decoder takes other rows than a decoder: two sides, each with its end."""
        if setup.family.shape == "decoder":
            return super().prepare(train, validation, setup)
        return _TwoSided().prepare(train, validation, setup)

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Each document between its begin and end tokens; the last token of a segment is only a target."""
        end = tokenizer.eos_token_id
        begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return Layout(
            length=max_length + 1, room=max_length, overlap=1, shortest=3, positions=lambda lengths: lengths - 1,
            before=() if begin is None else (begin,), after=() if end is None else (end,))

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Cut a segment; the prefix's last token predicts the first of the rest.

        <s> the cat sat on  ->  inputs <s> the cat sat, prefix 1 1 0 0, labels · cat sat on
        """
        inputs, labels = segment[:-1].astype(np.int64), segment[1:].astype(np.int64)
        length = cut(len(inputs) + 1, rng)
        places = np.arange(len(inputs))
        return {"input_ids": inputs, "prefix": (places < length).astype(np.int64),
                "labels": np.where(places >= length - 1, labels, -100)}

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """What the model says of each token behind the prefix, given those before it."""
        found = self.at_targets(model, batch, family)
        if family.shape != "decoder":
            return written(found, batch, tokenizer)
        ahead = batch["labels"].roll(1, 1)  # a label stands where it is predicted, a place before its own
        ahead[:, 0] = -100
        return guessed(found, batch["input_ids"], ahead, batch, tokenizer)


class _TwoSided(PrefixLM):
    """The encoder-decoder's form."""

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """As every objective."""
        return Objective.prepare(self, train, validation, setup)

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """However a segment is cut, neither side is longer than a row."""
        end = token(tokenizer, "eos", "prefix_lm")
        token(tokenizer, "pad", "prefix_lm")  # the decoder starts from it
        if max_length < 3:
            raise RequestError(f"data.max_length: {max_length} leaves no room for a prefix and an end.")
        between = (end,) if packing == "blocks" else ()
        return Layout(length=max_length, room=max_length, after=between, shortest=2, positions=lambda lengths: lengths)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Cut a segment: the cat sat on  ->  inputs the cat </s>, labels sat on </s>."""
        ids, end = segment.astype(np.int64), tokenizer.eos_token_id
        length = cut(len(ids), rng)
        labels = np.append(ids[length:], end)
        return {"input_ids": np.append(ids[:length], end), "labels": labels,
                "decoder_input_ids": np.concatenate([[tokenizer.pad_token_id], labels[:-1]])}


def cut(length: int, rng: np.random.Generator) -> int:
    """Tokens in the prefix: every number that leaves at least one on each side is as likely."""
    return int(rng.integers(1, length))
