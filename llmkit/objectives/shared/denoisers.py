"""The denoisers of a span corruption: how much is hidden, in spans of what length, and the token that says so."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.recipe import Share
from llmkit.recipe.registry import OPTIONS

Mask = NDArray[np.bool_]


@dataclass(config=OPTIONS)
class Denoiser:
    """One way to corrupt (Raffel et al. 2020, §3.1.4; Tay et al. 2023, §3.1.2)."""

    noise_density: Share = 0.15
    """Share of the tokens that are inside spans."""
    mean_noise_span_length: Annotated[float, Field(ge=1)] | None = 3.0
    """Mean number of tokens in a span; null: one span, the end of the text (UL2's sequential denoiser)."""
    mode: str = ""
    """A special token in front of the inputs that says which denoiser it was; none where this is empty."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share among the denoisers."""

    @property
    def sequential(self) -> bool:
        """Whether the end of the text is what is hidden."""
        return self.mean_noise_span_length is None

    def counts(self, length: int) -> tuple[int, int]:
        """(hidden tokens, spans) in a segment of `length` >= 2 tokens; the fewest hidden, where their number varies."""
        if self.mean_noise_span_length is None:
            return 1, 1
        hidden = min(max(round(length * self.noise_density), 1), length - 1)
        spans = min(max(round(hidden / self.mean_noise_span_length), 1), length - hidden)
        return hidden, spans

    def lengths(self, length: int) -> tuple[int, int]:
        """The most (encoder, decoder) positions that a segment takes: mode, sentinels, and an end for each side."""
        hidden, spans = self.counts(length)
        written = self.longest(length) if self.sequential else hidden
        return length - hidden + spans + 1 + bool(self.mode), written + spans + 1

    def longest(self, length: int) -> int:
        """The most tokens that a sequential denoiser hides: twice its density, for each number is as likely."""
        return min(length - 1, max(1, round(2 * self.noise_density * length) - 1))

    def mask(self, length: int, rng: np.random.Generator) -> Mask:
        """Which tokens are hidden."""
        if self.sequential:
            hidden = int(rng.integers(1, self.longest(length) + 1))
            return np.arange(length) >= length - hidden
        return span_mask(length, *self.counts(length), rng)


UL2 = (
    Denoiser(0.15, 3.0, "[NLU]"), Denoiser(0.15, 8.0, "[NLU]"),
    Denoiser(0.25, None, "[S2S]"),
    Denoiser(0.5, 3.0, "[NLG]"), Denoiser(0.5, 8.0, "[NLG]"), Denoiser(0.15, 64.0, "[NLG]"),
    Denoiser(0.5, 64.0, "[NLG]"),
)
"""UL2's mixture of seven (Tay et al. 2023, table 1: R, S and X), with the mode tokens of its published checkpoints."""


def span_mask(length: int, hidden: int, spans: int, rng: np.random.Generator) -> Mask:
    """`spans` runs of `hidden` tokens in all, each after at least one clean token."""
    clean, dark = parts(length - hidden, spans, rng), parts(hidden, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, np.stack([clean, dark], axis=1).ravel())


def parts(total: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cut `total` into `count` random lengths of at least one; every way to do so is equally likely."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
