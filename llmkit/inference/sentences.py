"""How likely a model finds sentences, token by token, and which of two it prefers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher
from itertools import chain, islice
from typing import Any

from llmkit.data.fields import find_fields
from llmkit.data.sources import Reader, open_source
from llmkit.inference.evaluate import Model, left_as_it_is, name_of, open_scorer
from llmkit.inference.scoring import Scorer, Target
from llmkit.prompting.base import Prompt, Question
from llmkit.recipe import Source
from llmkit.system.errors import DataError, RequestError

HOW = {"decoder": "each token given those before it", "encoder-decoder": "each token that the decoder writes",
       "encoder": "each token given all others (pseudo-log-likelihood)"}
"""What the probabilities are, by the shape of the model."""
PAIR = {"good": ("sentence_good", "sent_more", "acceptable", "grammatical", "correct", "first"),
        "bad": ("sentence_bad", "sent_less", "unacceptable", "ungrammatical", "wrong", "second")}
"""Two sentences of which a model should prefer the first: BLiMP's columns. CrowS-Pairs' first is the stereotype."""
GROUP = {"group": ("linguistics_term", "bias_type", "uid", "phenomenon", "category")}
AT_ONCE = 256
"""Sentences that are held at once."""
ORDER = 3
"""Words that an n-gram floor looks at: the token and the two before it."""
MOST = 2_000_000
"""Tokens that it is made from at most."""


@dataclass(frozen=True)
class TokenScore:
    """A token and the natural logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class SentenceScore:
    """How likely a sentence is, in natural logarithms."""

    text: str
    tokens: tuple[TokenScore, ...]
    floor: float | None = None
    """The log-probability of all of it by n-grams, where a text to learn them from was given."""

    @property
    def logprob(self) -> float:
        """Of the whole sentence: the sum over its tokens."""
        return sum(token.logprob for token in self.tokens)

    @property
    def perplexity(self) -> float:
        """Exp of the mean over tokens, with its sign turned."""
        return math.exp(min(700.0, -self.logprob / len(self.tokens)))

    def as_json(self) -> dict[str, Any]:
        """{"text", "logprob", "perplexity", "tokens": [{"text", "logprob"}]}, and "floor" where there is one."""
        told = {"text": self.text, "logprob": self.logprob, "perplexity": self.perplexity,
                "tokens": [asdict(token) for token in self.tokens]}
        return told if self.floor is None else {**told, "floor": self.floor}


@dataclass(frozen=True)
class PairScore:
    """Two sentences and how likely each is."""

    good: SentenceScore
    bad: SentenceScore
    group: str

    @property
    def preferred(self) -> float:
        """1 where the first is likelier, 0 where the second is, and a half where they are alike."""
        return _preferred(self.good.logprob, self.bad.logprob)

    @property
    def floor(self) -> float | None:
        """The same by n-grams."""
        if self.good.floor is None or self.bad.floor is None:
            return None
        return _preferred(self.good.floor, self.bad.floor)


def _preferred(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)


class Sentences:
    """A language model that is asked how likely sentences are."""

    def __init__(self, scorer: Scorer, given: str = "", floor: Ngrams | None = None) -> None:
        """`given` stands before each sentence and isn't counted: a context, or what an encoder-decoder reads."""
        self.scorer, self.given, self.floor = scorer, given, floor

    @property
    def how(self) -> str:
        """What the probabilities are."""
        return HOW[self.scorer.shape]

    def score(self, texts: Iterable[str]) -> Iterator[SentenceScore]:
        """The score of each sentence, in their order; RequestError for one that is empty or too long."""
        texts = iter(texts)
        while some := list(islice(texts, AT_ONCE)):
            targets = [self.target(text) for text in some]
            for text, target, told in zip(some, targets, self.scorer.each(targets), strict=True):
                tokens = tuple(TokenScore(str(self.scorer.tokenizer.decode([token])), value)
                               for token, value in zip(target.ids, told, strict=True))
                yield SentenceScore(text, tokens, None if self.floor is None else self.floor.logprob(target.ids))

    def target(self, text: str) -> Target:
        """A sentence as tokens, behind what is given."""
        if not text.strip():
            raise RequestError("an empty text has no tokens, and no probability.")
        if self.scorer.shape != "encoder":
            (target,) = self.scorer.targets(Question(Prompt(self.given), (text,)))
            return target
        whole = f"{self.given} {text}" if self.given else text
        begin = len(whole) - len(text)
        read = self.scorer.tokenizer(whole, return_offsets_mapping=True)
        ids = read["input_ids"]
        spots = [i for i, (start, end) in enumerate(read["offset_mapping"]) if end > max(start, begin)]
        if not spots:
            raise RequestError(f"{text!r} has no tokens to this model.")
        if self.scorer.limit is not None and len(ids) + self.scorer.opened.virtual_tokens > self.scorer.limit:
            raise RequestError(f"a text of {len(ids):,} tokens; the model has {self.scorer.limit:,} positions.")
        return Target(tuple(ids), (), tuple(ids[spots[0] : spots[-1] + 1]), spots[0])


class Ngrams:
    """What n-grams of the model's own tokens say, with Witten-Bell's interpolation: a floor that has no network.

    Witten & Bell 1991, "The zero-frequency problem", method C; by nltk.
    """

    def __init__(self, texts: Iterable[str], tokenizer: Any) -> None:
        """Counts of `texts`, at most the first two million tokens; DataError where there is no text."""
        from nltk.lm import WittenBellInterpolated
        from nltk.lm.preprocessing import padded_everygram_pipeline

        rows: list[list[str]] = []
        self.tokens, self.whole = 0, True
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if self.tokens + len(ids) > MOST:
                self.whole = False
                break
            rows.append(list(map(str, ids)))
            self.tokens += len(ids)
        if not self.tokens:
            raise DataError("--floor: there is no text to count n-grams in.")
        grams, words = padded_everygram_pipeline(ORDER, rows)
        self.model = WittenBellInterpolated(ORDER)
        self.model.fit(grams, chain(words, map(str, range(len(tokenizer)))))

    def logprob(self, ids: Sequence[int]) -> float:
        """Natural logarithm of the probability of tokens that start a text."""
        padded = ["<s>"] * (ORDER - 1) + list(map(str, ids))
        return sum(math.log(max(self.model.score(padded[i], padded[i - ORDER + 1 : i]), 1e-300))
                   for i in range(ORDER - 1, len(padded)))


def opened(model: Model, given: str = "", floor: str | None = None) -> Sentences:
    """A language model, opened for `score`; `floor` is a text whose n-grams stand beside it.

    RequestError for a model that says no probabilities of words.
    """
    scorer = open_scorer(model)
    if scorer.shape == "encoder" and scorer.tokenizer.mask_token_id is None:
        raise RequestError(f"{name_of(model)}: its tokenizer has no mask token, so that no token can be hidden.")
    if floor is None:
        return Sentences(scorer, given)
    texts = (text for text, _ in open_source(Source(floor), at="").documents())
    return Sentences(scorer, given, Ngrams(texts, scorer.tokenizer))


def score(
    model: Model, texts: str | Sequence[str], *, given: str = "", floor: str | None = None,
) -> SentenceScore | list[SentenceScore]:
    """How likely a model finds a text, or each of several: log-probabilities of tokens, and of the whole.

    model   a run, a folder, a hub id, a catalogue name or an opened model: causal, masked or encoder-decoder
    given   what stands before each text and isn't counted; of an encoder-decoder, what the encoder reads
    floor   a file whose n-grams stand beside the model

    A causal model gives each token after those before it, from the token that starts its texts; a masked one each token
    where all others are seen (Salazar et al. 2020, "Masked Language Model Scoring").
    """
    with left_as_it_is(model):
        found = list(opened(model, given, floor).score([texts] if isinstance(texts, str) else texts))
    return found[0] if isinstance(texts, str) else found


# ---- files ----


def pairs_in(reader: Reader) -> tuple[dict[str, Any], Iterator[tuple[str, str, str]]] | None:
    """(its columns, each pair of a file with its group); None where its rows aren't pairs of sentences."""
    rows = reader.rows()
    first, place = next(rows)
    try:
        columns = find_fields(list(first), PAIR, GROUP, reader, place)
    except DataError:
        return None

    def pairs() -> Iterator[tuple[str, str, str]]:
        for row, where in chain([(first, place)], rows):
            good, bad = (row.get(columns[name]) for name in PAIR)
            for name, text in (("good", good), ("bad", bad)):
                if not isinstance(text, str) or not text.strip():
                    raise DataError(f"{where}: {columns[name]!r} must be a sentence, not {text!r}.")
            group = row.get(columns["group"]) if "group" in columns else ""
            yield str(good), str(bad), str(group or "")

    return columns, pairs()


def compared(
    sentences: Sentences, pairs: Iterable[tuple[str, str, str]], shared: bool = False,
) -> Iterator[PairScore]:
    """Each pair with its scores; `shared`: only the tokens that both sentences have count, given all of theirs.

    So CrowS-Pairs asks a masked model (Nangia et al. 2020): a rare name isn't held against the sentence that it is in.
    """
    pairs = iter(pairs)
    while some := list(islice(pairs, AT_ONCE // 2)):
        told = list(sentences.score(text for good, bad, _ in some for text in (good, bad)))
        for (_, _, group), good, bad in zip(some, told[::2], told[1::2], strict=True):
            yield PairScore(*(on_shared(good, bad) if shared else (good, bad)), group)


def on_shared(one: SentenceScore, other: SentenceScore) -> tuple[SentenceScore, SentenceScore]:
    """Two sentences with the tokens that both have, in their order; as they are where they share none."""
    first, second = ([token.text for token in score.tokens] for score in (one, other))
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    left = tuple(token for block in blocks for token in one.tokens[block.a : block.a + block.size])
    right = tuple(token for block in blocks for token in other.tokens[block.b : block.b + block.size])
    return (replace(one, tokens=left), replace(other, tokens=right)) if left else (one, other)


def by_group(pairs: Iterable[PairScore]) -> list[dict[str, Any]]:
    """How often the first of two is preferred, by group and in all: {"group", "pairs", "preferred", "low", "high"}.

    `low` and `high` are Wilson's interval of 95 % for a share of so many pairs; `floor` is the share by n-grams.
    """
    groups: dict[str, list[PairScore]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    every = [pair for some in groups.values() for pair in some]
    parts = sorted(groups.items()) if len(groups) > 1 else []
    return [_share(name, some) for name, some in [*parts, ("all", every)]]


def _share(name: str, pairs: Sequence[PairScore]) -> dict[str, Any]:
    share = sum(pair.preferred for pair in pairs) / len(pairs)
    low, high = wilson(share, len(pairs))
    floors = [pair.floor for pair in pairs if pair.floor is not None]
    row: dict[str, Any] = {"group": name, "pairs": len(pairs), "preferred": share, "low": low, "high": high}
    return {**row, "floor": sum(floors) / len(floors)} if floors else row


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of 95 % for a share that was seen in `count` draws (Wilson 1927).

    >>> tuple(round(edge, 4) for edge in wilson(0.8, 10))
    (0.4902, 0.9433)
    """
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
