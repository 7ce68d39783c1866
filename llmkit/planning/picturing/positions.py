"""How models are told where a token stands, side by side: what each way adds to the score of two tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Encoding:
    """A way of telling positions."""

    name: str
    families: str
    """Which families here have it."""
    formula: str
    source: str
    reads: str
    """What its picture shows."""
    table: Callable[[int], Table]
    """Of so many positions, (queries, keys)."""


def sinusoidal(length: int, width: int) -> Table:
    """PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos of it (Vaswani et al. 2017, §3.5): (length, width)"""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)[None]
    out: Table = np.empty((length, width))
    out[:, 0::2], out[:, 1::2] = np.sin(angles), np.cos(angles)[:, : width // 2]
    return out


def rotary(length: int, width: int, base: float = 10000.0) -> tuple[Table, Table]:
    """Cosines and sines by which pairs of features turn (Su et al. 2021, §3.2.2): (length, width/2) each."""
    angles = np.arange(length)[:, None] * base ** (-np.arange(0, width, 2) / width)[None]
    return np.cos(angles), np.sin(angles)


def turned(vectors: Table, cosines: Table, sines: Table) -> Table:
    """Vectors (length, width) turned by their positions; feature i is paired with i + width/2, as in transformers."""
    half = vectors.shape[1] // 2
    first, second = vectors[:, :half], vectors[:, half:]
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=1)


def buckets(distances: NDArray[np.int64], bidirectional: bool, count: int = 32, most: int = 128) -> NDArray[np.int64]:
    """T5's number of a distance, key minus query (Raffel et al. 2020, §2.1): near ones each its own, far ones together.

    >>> buckets(np.array([0, -1, -7, -8, -20, -200, 1, 8]), True).tolist()
    [0, 1, 7, 8, 10, 15, 17, 24]
    """
    offset = np.zeros_like(distances)
    if bidirectional:
        count //= 2
        offset = np.where(distances > 0, count, 0)
        distances = np.abs(distances)
    else:
        distances = np.maximum(-distances, 0)
    exact = count // 2
    far = exact + (np.log(np.maximum(distances, 1) / exact) / math.log(most / exact) * (count - exact)).astype(np.int64)
    found: NDArray[np.int64] = offset + np.where(distances < exact, distances, np.minimum(far, count - 1))
    return found


def slopes(heads: int) -> Table:
    """ALiBi's slope of each head (Press et al. 2022, §3): 2^(-8/n), 2^(-16/n) … for n heads, where n is a power of 2.

    Of other numbers, as in the paper's code, the slopes of the next lower power, then every second of the next higher.
    """
    power = 2 ** math.floor(math.log2(heads))
    own = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    more = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]
    return np.array([*own, *more])


def learned_table(length: int) -> Table:
    """Scores of positions whose vectors are random, as they are before training: each knows itself alone."""
    vectors = np.random.default_rng(0).standard_normal((length, 256)) / 16
    found: Table = vectors @ vectors.T
    return found


def sinusoidal_table(length: int) -> Table:
    """Products of the vectors of two positions, as shares of a position's with itself."""
    vectors = sinusoidal(length, 256)
    found: Table = vectors @ vectors.T / 128
    return found


def bucket_table(length: int) -> Table:
    """The number of the bias that is added for each pair."""
    places = np.arange(length)
    return buckets(places[None] - places[:, None], True).astype(np.float64)


def rotary_table(length: int) -> Table:
    """The score of one vector of ones with itself, where query and key are turned by their positions."""
    ones = turned(np.ones((length, 64)) / 8, *rotary(length, 64))
    found: Table = ones @ ones.T
    return found


def alibi_table(length: int) -> Table:
    """What is taken off the score of each pair, in the first of 8 heads of a decoder; nothing of what it can't see."""
    places = np.arange(length)
    found: Table = np.where(places[None] <= places[:, None], slopes(8)[0] * (places[None] - places[:, None]), np.nan)
    return found


ENCODINGS = (
    Encoding("absolute, learned", "bert, roberta, albert, electra, gpt2, bart",
             "x = E[token] + P[position]", "Gehring et al. 2017; Devlin et al. 2019",
             "P_i · P_j of random vectors: before training no position knows its neighbours", learned_table),
    Encoding("absolute, sinusoidal", "transformer",
             "PE[p, 2i] = sin(p / 10000^(2i/d)), PE[p, 2i+1] = cos(p / 10000^(2i/d))", "Vaswani et al. 2017, §3.5",
             "PE_i · PE_j as a share of PE_i · PE_i: near positions are alike", sinusoidal_table),
    Encoding("relative, in buckets", "t5, umt5", "q_i · k_j + b[bucket(j - i)], b learned by each head",
             "Shaw et al. 2018; Raffel et al. 2020, §2.1",
             "bucket(j - i) of 32: near distances each their own, far ones together, both directions apart",
             bucket_table),
    Encoding("rotary", "llama, qwen3, qwen3_moe, modernbert", "q_i · R(θ, j - i) k_j, θ_m = 10000^(-2m/d)",
             "Su et al. 2021, §3.2.2",
             "the score of one and the same vector at i and j: it falls with the distance, in waves", rotary_table),
    Encoding("linear biases (ALiBi)", "none here: family: auto with a BLOOM or MPT", "q_i · k_j - m · (i - j)",
             "Press et al. 2022, §3", "-m · (i - j) in the first of 8 heads, m = 1/2: the farther, the less",
             alibi_table),
)
"""Those that are compared. deberta and xlnet have relative ones of their own kinds, with vectors for distances."""
