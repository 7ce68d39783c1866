"""Sampling: of all tokens that could come next, one is drawn, by a text's own settings and its own chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from llmkit.system.devices import finest

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import GenerationConfig

Chance: TypeAlias = Union[np.random.Generator, "torch.Generator"]
"""What a text draws from: numpy's on the host, torch's on a device that chooses."""
CHOOSE = frozenset({"cuda", "xpu"})
"""Kinds of devices that choose tokens themselves. The host does it for a Mac's GPU, which has no numbers of 64 bits,
and for Ascend's."""

FEW = 1024
"""Tokens that top_p looks at first: sorting a whole vocabulary takes longer than a small model's layer."""


@dataclass(frozen=True)
class Choosing:
    """How a text's next token is chosen, in the order in which transformers applies the same settings."""

    sample: bool = False
    """Draw a token; else the likeliest is taken."""
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_h: float | None = None
    """Only the likeliest, of this share of the entropy (Potraghloo et al. 2025)."""
    top_k: int = 0
    """Only this many of the likeliest; 0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    """Only tokens that are at least this likely, as a share of the likeliest's probability."""
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    """Only tokens that are at least this likely (Hewitt et al. 2022)."""
    eta_cutoff: float = 0.0
    """The same where the entropy is high, and less of it where it is low (Hewitt et al. 2022)."""

    @classmethod
    def of(cls, config: GenerationConfig) -> Choosing:
        """The settings of a generation config; where it says nothing, transformers' own defaults (top_k is 50)."""
        return cls(
            sample=bool(config.do_sample),
            repetition_penalty=1.0 if config.repetition_penalty is None else config.repetition_penalty,
            temperature=1.0 if config.temperature is None else config.temperature,
            top_h=config.top_h,
            top_k=50 if config.top_k is None else config.top_k,
            top_p=1.0 if config.top_p is None else config.top_p,
            min_p=config.min_p or 0.0,
            typical_p=1.0 if config.typical_p is None else config.typical_p,
            epsilon_cutoff=config.epsilon_cutoff or 0.0,
            eta_cutoff=config.eta_cutoff or 0.0)


def chooses(device: torch.device) -> bool:
    """Whether a device chooses tokens itself, so that its logits needn't go to the host."""
    return device.type in CHOOSE


def torch_seed(seed: Sequence[int]) -> int:
    """One number below 2**63 of several, for generators of torch."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)


def chance_of(seed: Sequence[int], device: torch.device) -> Chance:
    """A text's own chance, on the device that chooses its tokens: of one seed, a GPU makes other numbers than a CPU."""
    import torch

    return torch.Generator(device).manual_seed(torch_seed(seed)) if chooses(device) else np.random.default_rng(seed)


def arrivals(chance: Sequence[Chance], size: int, device: torch.device) -> Tensor:
    """Exponential numbers (rows, size), each row's by its own chance."""
    import torch

    hosts = [one.standard_exponential(size) for one in chance if isinstance(one, np.random.Generator)]
    if hosts:
        return torch.from_numpy(np.stack(hosts)).to(device)
    return torch.stack([-torch.rand(size, generator=one, dtype=finest(device), device=device).log()
                        for one in chance if isinstance(one, torch.Generator)])


def choose(scores: Tensor, how: Choosing, chance: Sequence[Chance]) -> Tensor:
    """One token a row: the likeliest, or one drawn by the row's own chance. (rows, vocabulary), float32 -> (rows)

    An exponential race over the whole vocabulary: the first of independent arrivals at rates p is token i with
    probability p_i. Unlike a point on the cumulative sum, the winner hardly ever changes where the scores do by a
    rounding error, as in another batch.
    """
    if not how.sample:
        return scores.argmax(-1)
    ids, probabilities = candidates(scores / how.temperature, how)
    times = arrivals(chance, scores.shape[1], scores.device)
    first = (probabilities.double() / times.gather(1, ids)).argmax(-1, keepdim=True)
    return ids.gather(1, first)[:, 0]


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (vocabulary) with those of tokens that were seen divided by the penalty (Keskar et al. 2019, §4.1)."""
    import torch

    score = logits[seen]
    return logits.scatter(0, seen, torch.where(score < 0, score * penalty, score / penalty))


def candidates(logits: Tensor, how: Choosing) -> tuple[Tensor, Tensor]:
    """Tokens, the likeliest first where any are cut off, and their relative probabilities, (rows, some) each.

    What may not be drawn isn't among them, or has probability 0.
    """
    import torch
    from transformers import TopHLogitsWarper

    size = logits.shape[-1]
    if how.top_h is not None:
        entropy: Any = TopHLogitsWarper(how.top_h)
        logits = entropy(None, logits)
    if how.top_k:
        top, ids = logits.topk(min(how.top_k, size))
        probabilities = top.softmax(-1)
    elif (how.top_p < 1 or how.min_p) and chooses(logits.device):  # it would have to ask whether a few are enough
        top, ids = logits.sort(descending=True)
        probabilities = top.softmax(-1)
    elif how.top_p < 1 or how.min_p:
        top, ids = logits.topk(min(FEW, size))
        probabilities = (top - logits.logsumexp(-1, keepdim=True)).exp()
        least = how.min_p * probabilities[:, 0]
        beyond = probabilities.sum(-1) < how.top_p if how.top_p < 1 else probabilities[:, -1] >= least
        if beyond.any() and top.shape[-1] < size:  # a flat distribution: look at all of it
            top, ids = logits.sort(descending=True)
            probabilities = top.softmax(-1)
    else:
        ids, probabilities = torch.arange(size, device=logits.device).expand_as(logits), logits.softmax(-1)
    if how.top_p < 1:  # Holtzman et al. 2020: the fewest tokens that have this probability together
        keep = probabilities.cumsum(-1) - probabilities < how.top_p
        keep[:, 0] = True
        probabilities = probabilities * keep
    if how.min_p:
        probabilities = probabilities * (probabilities >= how.min_p * probabilities[:, :1])
    for warper in _rare(how):
        probabilities = warper(None, probabilities.log()).softmax(-1)
    return ids, probabilities


def _rare(how: Choosing) -> list[Any]:
    """Transformers' own classes for settings that are seldom used."""
    from transformers import EpsilonLogitsWarper, EtaLogitsWarper, TypicalLogitsWarper

    return [*([TypicalLogitsWarper(how.typical_p)] if how.typical_p < 1 else ()),
            *([EpsilonLogitsWarper(how.epsilon_cutoff)] if 0 < how.epsilon_cutoff < 1 else ()),
            *([EtaLogitsWarper(how.eta_cutoff)] if 0 < how.eta_cutoff < 1 else ())]


def others(processors: Any) -> Any:
    """Of what transformers would do to scores, all but what `penalized` and `candidates` do."""
    import transformers

    ours = (transformers.RepetitionPenaltyLogitsProcessor, transformers.TemperatureLogitsWarper,
            transformers.TopHLogitsWarper, transformers.TopKLogitsWarper, transformers.TopPLogitsWarper,
            transformers.MinPLogitsWarper, transformers.TypicalLogitsWarper, transformers.EpsilonLogitsWarper,
            transformers.EtaLogitsWarper)
    return transformers.LogitsProcessorList(one for one in processors if not isinstance(one, ours))


def logprobs_of(logits: Tensor, tokens: Tensor, top: int) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """Of each row, the log probability of its token and of its likeliest tokens. (rows, vocabulary), (rows)"""
    return told(columns(logits, tokens, top).tolist(), min(top, logits.shape[-1]))


def columns(logits: Tensor, tokens: Tensor, top: int) -> Tensor:
    """A row each of one matrix, which the host reads at once: a token's log probability, the likeliest tokens, theirs.

    (rows, vocabulary), (rows) -> (rows, 1 + 2 top), float64
    """
    import torch

    total = logits.logsumexp(-1, keepdim=True)
    own = (logits.gather(-1, tokens[:, None]) - total).double()
    if not top:
        return own
    best = logits.topk(min(top, logits.shape[-1]))
    return torch.cat([own, best.indices.double(), (best.values - total).double()], 1)


def told(rows: Sequence[Sequence[float]], top: int) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """What such a matrix says, of `top` likeliest tokens: [[-0.5, 7, -0.5]]  ->  [-0.5], [[(7, -0.5)]]"""
    return [row[0] for row in rows], [
        [(int(token), value) for token, value in zip(row[1 : 1 + top], row[1 + top :], strict=True)] for row in rows]
