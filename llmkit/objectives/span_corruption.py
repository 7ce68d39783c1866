"""Span corruption: replace spans by sentinels, write the spans out in the decoder (T5)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
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

    Mask = NDArray[np.bool_]


@dataclass(config=OPTIONS)
class SpanCorruption(Objective):
    """Denoising with spans (Raffel et al. 2020, §3.1.4 and §3.3.4)."""

    noise_density: Share = 0.15
    """Share of the tokens that are inside spans."""
    mean_noise_span_length: Annotated[float, Field(ge=1)] = 3.0
    """Mean number of tokens in a span."""

    shapes = frozenset({"encoder-decoder"})
    head = "AutoModelForSeq2SeqLM"

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Segments are longer than max_length by what corruption takes away, so that the corrupted row fills it."""
        end = token(tokenizer, "eos", "span_corruption")
        token(tokenizer, "pad", "span_corruption")  # the decoder starts from it
        length = 2
        while self.lengths(length + 1)[0] <= max_length:
            length += 1
        if self.lengths(length)[0] > max_length:
            raise RequestError(f"data.max_length: {max_length} is too short for span_corruption.")
        most, there = self.counts(length)[1], len(sentinels(tokenizer))
        if most > there:
            raise RequestError(f"span_corruption: rows of {max_length} have {most} spans, and the tokenizer has "
                               f"{there} sentinels (<extra_id_0> …); make data.max_length or noise_density smaller.")
        table = np.array([0, 0, *(self.lengths(n)[0] for n in range(2, length + 1))])
        between = (end,) if packing == "blocks" else ()
        return Layout(
            length=length, room=max_length, after=between, shortest=2, positions=lambda lengths: table[lengths])

    def counts(self, length: int) -> tuple[int, int]:
        """(hidden tokens, spans) in a segment of `length` >= 2 tokens."""
        hidden = min(max(round(length * self.noise_density), 1), length - 1)
        spans = min(max(round(hidden / self.mean_noise_span_length), 1), length - hidden)
        return hidden, spans

    def lengths(self, length: int) -> tuple[int, int]:
        """(encoder, decoder) positions that a segment takes: a sentinel for each span, an end for each side."""
        hidden, spans = self.counts(length)
        return length - hidden + spans + 1, hidden + spans + 1

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Corrupt a segment.

        the cat sat on the mat  ->  inputs the <0> on the mat </s>, labels <0> cat sat </s>
        """
        ids = segment.astype(np.int64)
        hidden, spans = self.counts(len(ids))
        mask = span_mask(len(ids), hidden, spans, rng)
        end, start = tokenizer.eos_token_id, tokenizer.pad_token_id
        marks = sentinels(tokenizer)
        labels = np.append(with_sentinels(ids, ~mask, marks), end)
        return {
            "input_ids": np.append(with_sentinels(ids, mask, marks), end),
            "decoder_input_ids": np.concatenate([[start], labels[:-1]]),
            "labels": labels,
        }


@lru_cache(maxsize=8)
def sentinels(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids of <extra_id_0>, <extra_id_1> …, looked up by name: their order differs between tokenizers."""
    known = tokenizer.get_vocab()
    found: list[int] = []
    while (name := f"<extra_id_{len(found)}>") in known:
        found.append(known[name])
    return tuple(found)


def span_mask(length: int, hidden: int, spans: int, rng: np.random.Generator) -> Mask:
    """`spans` runs of `hidden` tokens in all, each after at least one clean token."""
    clean, dark = parts(length - hidden, spans, rng), parts(hidden, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, np.stack([clean, dark], axis=1).ravel())


def parts(total: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cut `total` into `count` random lengths of at least one; every way to do so is equally likely."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def with_sentinels(ids: NDArray[np.int64], hidden: Mask, marks: tuple[int, ...]) -> NDArray[np.int64]:
    """Replace each hidden run by one sentinel (Raffel et al. 2020, §3.1.4).

    the cat [sat on] the mat  ->  the cat <0> the mat
    """
    first = hidden & ~np.concatenate([[False], hidden[:-1]])
    out = ids.copy()
    out[first] = marks[: int(first.sum())]
    seen: NDArray[np.int64] = out[~hidden | first]
    return seen
