"""Masked language modelling: hide some tokens, words or spans, predict them from both sides (BERT, SpanBERT)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.sources import Reader
from llmkit.data.tokens import Ids, TokenOrigin, marked
from llmkit.data.words import WORD, Phrases, bare, chinese, read_phrases
from llmkit.objectives.base import Objective, Samples, Sets, Setup, token, vocabulary
from llmkit.objectives.shared.showing import guessed
from llmkit.recipe import Positive, Share
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError, RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    Mask = NDArray[np.bool_]

log = logging.getLogger("llmkit")

SAMPLE = 200
"""Documents of each source that are looked at to see what language it is in."""


@dataclass(config=OPTIONS)
class MaskedLM(Objective):
    """Predict hidden tokens (Devlin et al. 2019, §3.1)."""

    mlm_probability: Share = 0.15
    """Share of a row's tokens that are predicted."""
    mask_replace_prob: float = 0.8
    """Of those, the share that the mask token replaces."""
    random_replace_prob: float = 0.1
    """Of those, the share that a random token replaces; the rest stays as it is."""
    whole_word: bool = False
    """Hide words, never a part of one (BERT's whole-word masking; Cui et al. 2019 for Chinese)."""
    segmenter: Literal["auto", "tokenizer", "jieba"] = "auto"
    """Who says what a word is: the tokenizer, for scripts with spaces; jieba for Chinese (llmkit-train[chinese]); auto:
    jieba where it is installed and the text is Chinese."""
    phrases: str | None = None
    """A file of phrases and names, UTF-8, one a line: each is hidden as a whole, the longest first, beside whole words
    (Sun et al. 2019, ERNIE §3.2)."""
    phrases_sha256: str | None = None
    """The hash of that file, which is filled in: a run goes on with the same phrases only."""
    spans: bool = False
    """Hide runs of whole words, each masked, replaced or kept as one (Joshi et al. 2020, SpanBERT §3.1)."""
    span_probability: Share = 0.2
    """Of the geometric distribution that the number of words in a span is drawn from."""
    max_span_length: Positive = 10
    """The most words in a span."""
    masking: Literal["dynamic", "static"] = "dynamic"
    """dynamic: other tokens in every pass; static: a row's content alone decides, in every pass (RoBERTa §4.1)."""

    shapes = frozenset({"encoder"})
    head = "AutoModelForMaskedLM"

    def __post_init__(self) -> None:
        shares = self.mask_replace_prob, self.random_replace_prob
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError("mask_replace_prob and random_replace_prob are shares of one whole")
        if self.segmenter == "jieba" and self.words is None:
            raise ValueError(f"segmenter: {self.segmenter} finds words, and has a part in phrases, whole_word "
                             "or spans only")
        if self.phrases_sha256 is not None and self.phrases is None:
            raise ValueError("phrases_sha256: is the hash of a file of phrases, and there is none")

    @property
    def words(self) -> str | None:
        """Who marks where words start; None where tokens are hidden one by one."""
        if not (self.whole_word or self.spans or self.phrases is not None):
            return None
        return "tokenizer" if self.segmenter == "auto" else self.segmenter

    def dictionary(self) -> Phrases | None:
        """The phrases of the file; DataError where it can't be read, or isn't the one that the recipe means."""
        if self.phrases is None:
            return None
        found = read_phrases(self.phrases)
        if self.phrases_sha256 not in (None, found.digest):
            raise DataError(f"objective.phrases: {self.phrases} has changed since the run read it; put back what it "
                            "was.")
        return found

    def suited(self, train: Sequence[Reader]) -> Self:
        """With the segmenter that the text asks for, and the hash of the phrases."""
        if self.phrases is not None:
            hashed = replace(self, phrases_sha256=read_phrases(self.phrases).digest)
            return hashed if self.segmenter != "auto" else hashed.segmented(train)
        return self if self.segmenter != "auto" else self.segmented(train)

    def segmented(self, train: Sequence[Reader]) -> Self:
        """With a segmenter in the place of auto."""
        marks = {reader.origin.words for reader in train if isinstance(reader.origin, TokenOrigin)} - {None}
        if self.words is not None and len(marks) == 1:  # there is no text to look at, and no choice
            return replace(self, segmenter="jieba" if marks == {"jieba"} else "tokenizer")
        chosen, why = chosen_segmenter(train) if self.words is not None else ("tokenizer", "")
        if why:
            log.log(logging.INFO if chosen == "jieba" else logging.WARNING, "objective.segmenter %s: %s", chosen, why)
        return replace(self, segmenter=chosen)

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Read, tokenize, hold out and lay out; words are marked once, with the tokens."""
        if self.words is not None:
            phrases = self.dictionary()
            train = marked(train, self.words, phrases=phrases)
            if isinstance(validation, Sequence):
                validation = marked(validation, self.words, phrases=phrases)
        return super().prepare(train, validation, setup)

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

        With whole_word, un ##believ ##able is hidden as a whole or not at all; with spans, so is a run of words:

        the cat sat on the mat  ->  [CLS] the [MASK] [MASK] [MASK] the mat [SEP], labels at cat sat on
        """
        known = vocabulary(tokenizer)
        ids = np.concatenate([[known.cls], segment, [known.sep]]).astype(np.int64)
        return self.hide(ids, self.chance(segment, rng), tokenizer)

    def chance(self, segment: Ids, rng: np.random.Generator) -> np.random.Generator:
        """The generator of a row: the one of this pass, or for static masks one that follows from the content."""
        if self.masking == "dynamic":
            return rng
        content = blake2b(bare(segment).astype(np.int64).tobytes(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(content, "little"))

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """The hidden words, each with the model's guess."""
        found = self.at_targets(model, batch, family)
        return guessed(found, batch["input_ids"], batch["labels"], batch, tokenizer)

    def hide(self, ids: NDArray[np.int64], rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Hide a share of a row's tokens, special ones aside; where words are hidden, the ids have their marks."""
        known, together = vocabulary(tokenizer), None
        mask, words, special = known.mask, known.rows, known.special
        assert mask is not None  # the layout saw to it
        if self.words is None:
            chosen = choose(known.plain(ids), self.mlm_probability, rng)
        else:
            starts, ids = ids >= WORD, bare(ids)
            plain = known.plain(ids)
            if self.spans:
                chosen, together = choose_spans(
                    starts, plain, self.mlm_probability, self.span_probability, self.max_span_length, rng)
            else:
                chosen = choose_words(starts, plain, self.mlm_probability, rng)
        labels = np.where(chosen, ids, -100)
        return {"input_ids": self.corrupt(ids, chosen, rng, mask, words, special, together), "labels": labels}

    def corrupt(
        self, ids: NDArray[np.int64], chosen: Mask, rng: np.random.Generator, mask: int, words: int,
        special: NDArray[np.int64], together: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Replace chosen tokens: most by the mask, some by a random word that isn't special, the rest not at all.

        `together` gives each position one whose fate it shares: the first of its span.
        """
        dice = rng.random(len(ids))
        noise = random_words(len(ids), words, special, rng)
        if together is not None:
            dice = dice[together]
        out = np.where(chosen & (dice < self.mask_replace_prob), mask, ids)
        swapped = chosen & (dice >= self.mask_replace_prob) & (dice < self.mask_replace_prob + self.random_replace_prob)
        return np.where(swapped, noise, out)


def chosen_segmenter(train: Sequence[Reader]) -> tuple[Literal["tokenizer", "jieba"], str]:
    """Who finds the words of a text, by its first documents, and why; nothing to be said where it is the tokenizer."""
    some = "".join(text[:2000] for reader in train for text, _ in islice(reader.documents(), SAMPLE))
    share = chinese(some)
    if share < 0.3:
        return "tokenizer", ""
    if find_spec("jieba") is None:
        return "tokenizer", (f"the text is Chinese ({share:.0%} of its letters), and what a tokenizer takes for a word "
                             "there is one character; pip install 'llmkit-train[chinese]' finds words")
    return "jieba", f"the text is Chinese ({share:.0%} of its letters)"


def choose(candidates: Mask, share: float, rng: np.random.Generator) -> Mask:
    """Choose a share of the candidates, at least one: the number is exact, as in the paper's own code."""
    places = np.flatnonzero(candidates)
    chosen = np.zeros(len(candidates), dtype=np.bool_)
    if len(places):
        count = quota(len(places), share)
        chosen[rng.permutation(places)[:count]] = True
    return chosen


def quota(candidates: int, share: float) -> int:
    """How many of the candidates are to be hidden."""
    return min(candidates, max(1, round(candidates * share)))


def word_edges(starts: Mask, candidates: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first, stop) of each word among the candidates; a row may begin within one, a special token ends one."""
    before = np.concatenate([[False], candidates[:-1]])
    first = np.flatnonzero(candidates & (starts | ~before))
    last = candidates & np.concatenate([starts[1:] | ~candidates[1:], [True]])
    return first, np.flatnonzero(last) + 1


def choose_words(starts: Mask, candidates: Mask, share: float, rng: np.random.Generator) -> Mask:
    """Choose whole words in random order until no further one brings their tokens nearer to the share.

    At least one word; the tokens miss the number that `choose` would hide by half a word at most, but for that one.
    """
    first, stop = word_edges(starts, candidates)
    chosen = np.zeros(len(starts), dtype=np.bool_)
    if len(first):
        count = quota(int(candidates.sum()), share)
        order = rng.permutation(len(first))
        tokens = np.cumsum((stop - first)[order])
        taken = int(np.searchsorted(tokens, count)) + 1
        if taken > 1 and tokens[taken - 1] - count > count - tokens[taken - 2]:
            taken -= 1
        for word in order[:taken]:
            chosen[first[word] : stop[word]] = True
    return chosen


def choose_spans(
    starts: Mask, candidates: Mask, share: float, probability: float, longest: int, rng: np.random.Generator,
) -> tuple[Mask, NDArray[np.int64]]:
    """Choose spans of whole words until their tokens are the share; also the first position of each position's span.

    A span starts at any word that isn't hidden yet, and ends early where it meets a hidden one, a special token, or
    the share. The tokens miss the share by half a word at most, but for the first word.
    """
    first, stop = word_edges(starts, candidates)
    chosen, together = np.zeros(len(starts), dtype=np.bool_), np.arange(len(starts))
    if not len(first):
        return chosen, together
    count, hidden, done = quota(int(candidates.sum()), share), 0, False
    while hidden < count and not done:
        length = int(span_lengths(1, probability, longest, rng)[0])
        free = np.flatnonzero(~chosen[first])
        word = begin = int(free[rng.integers(len(free))])
        while word < begin + length and hidden < count:
            over = hidden + int(stop[word] - first[word]) - count
            done = over > 0 and hidden > 0 and over > count - hidden
            if done:
                break
            chosen[first[word] : stop[word]] = True
            together[first[word] : stop[word]] = first[begin]
            hidden, word = hidden + int(stop[word] - first[word]), word + 1
            if word == len(first) or first[word] != stop[word - 1] or chosen[first[word]]:
                break
    return chosen, together


def span_lengths(count: int, probability: float, longest: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of words, l ~ Geo(p) among 1 … longest: 3.8 on average for p = 0.2 and 10 (Joshi et al. 2020, §3.1)."""
    weights = (1 - probability) ** np.arange(longest)
    return 1 + np.searchsorted(np.cumsum(weights / weights.sum())[:-1], rng.random(count), side="right")


def random_words(count: int, words: int, special: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Random ids below `words` that are not among the (sorted) special ones."""
    drawn = rng.integers(0, words - len(special), count)
    return drawn + np.searchsorted(special - np.arange(len(special)), drawn, side="right")
