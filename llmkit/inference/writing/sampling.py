"""Sampling: of all tokens that could come next, one is drawn, by a text's own settings and its own chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import GenerationConfig

FEW = 1024
"""Tokens that top_p looks at first: sorting a whole vocabulary takes longer than a small model's layer."""


@dataclass(frozen=True)
class Choosing:
    """How a text's next token is chosen, in the order in which transformers applies the same settings."""

    sample: bool = False
    """Draw a token; else the likeliest is taken."""
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    """Only this many of the likeliest; 0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    """Only tokens that are at least this likely, as a share of the likeliest's probability."""

    @classmethod
    def of(cls, config: GenerationConfig) -> Choosing:
        """The settings of a generation config; where it says nothing, transformers' own defaults (top_k is 50)."""
        return cls(
            sample=bool(config.do_sample),
            repetition_penalty=1.0 if config.repetition_penalty is None else config.repetition_penalty,
            temperature=1.0 if config.temperature is None else config.temperature,
            top_k=50 if config.top_k is None else config.top_k,
            top_p=1.0 if config.top_p is None else config.top_p,
            min_p=config.min_p or 0.0)


def choose(logits: Tensor, seen: Tensor, how: Choosing, chance: np.random.Generator) -> int:
    """One token of `logits` (vocabulary), float32; `seen` (n) are the ids of the prompt and of what is written.

    Drawn by the exponential race of `token_loop.drawn`, over the whole vocabulary: the same seed gives the same
    text as there, and the winner hardly ever changes where the logits do by a rounding error, as in another batch.
    """
    if how.repetition_penalty != 1:
        logits = penalized(logits, seen, how.repetition_penalty)
    if not how.sample:
        return int(logits.argmax())
    ids, probabilities = candidates(logits / how.temperature, how)
    arrivals = torch.from_numpy(chance.standard_exponential(len(logits)))
    return int(ids[(probabilities.double() / arrivals[ids]).argmax()])


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits with those of tokens that were there already divided by the penalty (Keskar et al. 2019, §4.1)."""
    score = logits[seen]
    return logits.scatter(0, seen, torch.where(score < 0, score * penalty, score / penalty))


def candidates(logits: Tensor, how: Choosing) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn, the likeliest first where some are cut off, and their relative probabilities."""
    size = len(logits)
    if how.top_k:
        top, ids = logits.topk(min(how.top_k, size))
        probabilities = top.softmax(0)
    elif how.top_p < 1 or how.min_p:
        top, ids = logits.topk(min(FEW, size))
        probabilities = (top - logits.logsumexp(0)).exp()
        least = how.min_p * probabilities[0]
        beyond = probabilities.sum() < how.top_p if how.top_p < 1 else probabilities[-1] >= least
        if beyond and len(top) < size:  # a flat distribution: look at all of it
            top, ids = logits.sort(descending=True)
            probabilities = top.softmax(0)
    else:
        return torch.arange(size), logits.softmax(0)
    if how.top_p < 1:  # Holtzman et al. 2020: the fewest tokens that have this probability together
        keep = probabilities.cumsum(0) - probabilities < how.top_p
        keep[0] = True
        ids, probabilities = ids[keep], probabilities[keep]
    if how.min_p:
        keep = probabilities >= how.min_p * probabilities[0]
        ids, probabilities = ids[keep], probabilities[keep]
    return ids, probabilities


def drawn(scores: Tensor, chance: Sequence[np.random.Generator]) -> Tensor:
    """One token a row from softmax(scores), each row by its own chance. (batch, vocabulary) -> (batch)

    An exponential race: the first of independent arrivals at rates p is token i with probability p_i. Unlike a point on
    the cumulative sum, the winner hardly ever changes where the scores do by a rounding error, as in another batch.
    """
    import torch

    arrivals = np.stack([one.standard_exponential(scores.shape[1]) for one in chance])
    return (scores.softmax(-1).double() / torch.from_numpy(arrivals).to(scores.device)).argmax(-1)


def logprobs_of(logits: Tensor, tokens: Tensor, top: int) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """Of each row, the log probability of its token and of its likeliest tokens. (rows, vocabulary), (rows)"""
    total = logits.logsumexp(-1, keepdim=True)
    found = (logits.gather(-1, tokens[:, None]) - total)[:, 0].tolist()
    if not top:
        return found, [[] for _ in found]
    best = logits.topk(min(top, logits.shape[-1]))
    pairs = zip(best.indices.tolist(), (best.values - total).tolist(), strict=True)
    return found, [list(zip(*pair, strict=True)) for pair in pairs]
