"""Span corruption: replace spans by sentinels, write the spans out in the decoder (T5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, Samples, token
from llmkit.objectives.shared.denoisers import UL2, Denoiser, Mask
from llmkit.objectives.shared.showing import written
from llmkit.recipe import Share
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn
    from transformers import PreTrainedTokenizerBase

NAMES = ("<extra_id_{}>", "extra{}")
"""What sentinels are called: T5's, and those of UER's Chinese T5, whose vocabulary is BERT's."""


@dataclass(config=OPTIONS)
class SpanCorruption(Objective):
    """Denoising with spans (Raffel et al. 2020, §3.1.4 and §3.3.4)."""

    noise_density: Share = 0.15
    """Share of the tokens that are inside spans."""
    mean_noise_span_length: Annotated[float, Field(ge=1)] = 3.0
    """Mean number of tokens in a span."""

    denoisers: list[Denoiser] | Literal["ul2"] | None = None
    """Several ways to corrupt, one of which is drawn for each segment, instead of the two numbers above; `ul2` is the
    published mixture of seven (Tay et al. 2023)."""

    shapes = frozenset({"encoder-decoder"})
    head = "AutoModelForSeq2SeqLM"

    def __post_init__(self) -> None:
        if self.denoisers == []:
            raise ValueError("denoisers: there is none in the list")

    @property
    def mixture(self) -> Sequence[Denoiser]:
        """The denoisers, one where nothing is said."""
        if self.denoisers is None:
            return (Denoiser(self.noise_density, self.mean_noise_span_length),)
        return UL2 if isinstance(self.denoisers, str) else self.denoisers

    def missing(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Mode tokens, and sentinels where a tokenizer has none."""
        known = tokenizer.get_vocab()
        modes = [mode for mode in dict.fromkeys(one.mode for one in self.mixture) if mode and mode not in known]
        own = sentinel_name(tokenizer).format(0) in known
        marks = [] if own else [NAMES[0].format(i) for i in range(100)]
        return {"extra_special_tokens": [*marks, *modes]} if marks or modes else {}

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Segments are longer than max_length by what corruption takes away, so that the corrupted row fills it.

        Of several denoisers, the one that takes away least decides.
        """
        end = token(tokenizer, "eos", "span_corruption")
        token(tokenizer, "pad", "span_corruption")  # the decoder starts from it
        length = 2
        while self.lengths(length + 1)[0] <= max_length:
            length += 1
        if self.lengths(length)[0] > max_length:
            raise RequestError(f"data.max_length: {max_length} is too short for span_corruption.")
        most, there = max(one.counts(length)[1] for one in self.mixture), len(sentinels(tokenizer))
        if most > there:
            raise RequestError(f"span_corruption: rows of {max_length} have {most} spans, and the tokenizer has "
                               f"{there} sentinels (<extra_id_0> …){self.ways_out(length, there)}")
        table = np.array([0, 0, *(self.lengths(n)[0] for n in range(2, length + 1))])
        between = (end,) if packing == "blocks" else ()
        return Layout(
            length=length, room=max_length, after=between, shortest=2, positions=lambda lengths: table[lengths])

    def ways_out(self, length: int, there: int) -> str:
        """What helps where segments of so many tokens have more spans than there are sentinels."""
        if not there:
            return (", which T5's kind has: whoever reads by it never filled such spans. Take another objective "
                    "(denoising and prefix_lm need no sentinels), a task, or a tokenizer that has them.")
        while length > 2 and max(one.counts(length)[1] for one in self.mixture) > there:
            length -= 1
        return (f"; make data.max_length {self.lengths(length)[0]} or less, noise_density smaller or "
                "mean_noise_span_length larger, or take a tokenizer that has more.")

    def counts(self, length: int) -> tuple[int, int]:
        """(hidden tokens, spans) in a segment of `length` >= 2 tokens, by the first denoiser."""
        return self.mixture[0].counts(length)

    def lengths(self, length: int) -> tuple[int, int]:
        """The most (encoder, decoder) positions that a segment takes."""
        sides = [one.lengths(length) for one in self.mixture]
        return max(side[0] for side in sides), max(side[1] for side in sides)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Corrupt a segment.

        the cat sat on the mat  ->  inputs the <0> on the mat </s>, labels <0> cat sat </s>
        """
        ids, one = segment.astype(np.int64), self.mixture[0]
        if len(self.mixture) > 1:
            weights = np.array([each.weight for each in self.mixture])
            one = self.mixture[int(rng.choice(len(weights), p=weights / weights.sum()))]
        mask = one.mask(len(ids), rng)
        end, start = tokenizer.eos_token_id, tokenizer.pad_token_id
        mode = [tokenizer.convert_tokens_to_ids(one.mode)] if one.mode else []
        marks = sentinels(tokenizer)
        labels = np.append(with_sentinels(ids, ~mask, marks), end)
        return {
            "input_ids": np.concatenate([mode, with_sentinels(ids, mask, marks), [end]]).astype(np.int64),
            "decoder_input_ids": np.concatenate([[start], labels[:-1]]),
            "labels": labels,
        }

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """What is read, and what has to be written, with the model's guess at each token."""
        return written(self.at_targets(model, batch, family), batch, tokenizer)


@lru_cache(maxsize=8)
def sentinels(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids of <extra_id_0>, <extra_id_1> … or of UER's extra0, extra1 …: by name, for orders differ."""
    known, name = tokenizer.get_vocab(), sentinel_name(tokenizer)
    found: list[int] = []
    while name.format(len(found)) in known:
        found.append(known[name.format(len(found))])
    return tuple(found)


def sentinel_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer calls its sentinels, to be formatted with a number."""
    known = tokenizer.get_vocab()
    return next((name for name in NAMES if name.format(0) in known), NAMES[0])


def with_sentinels(ids: NDArray[np.int64], hidden: Mask, marks: tuple[int, ...]) -> NDArray[np.int64]:
    """Replace each hidden run by one sentinel (Raffel et al. 2020, §3.1.4).

    the cat [sat on] the mat  ->  the cat <0> the mat
    """
    first = hidden & ~np.concatenate([[False], hidden[:-1]])
    out = ids.copy()
    out[first] = marks[: int(first.sum())]
    seen: NDArray[np.int64] = out[~hidden | first]
    return seen
