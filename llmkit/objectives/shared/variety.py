"""How good and how varied sampled texts are: n-grams that they repeat, share with each other, share with real text."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

Text = Sequence[int]
"""Token ids."""


def distinct(texts: Sequence[Text], n: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016, distinct-n): 1 where none comes twice, 0 where there is none.

    >>> distinct([[1, 2, 1, 2]], 2)
    0.6666666666666666
    """
    found = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(found)) / max(1, len(found))


def bleu(texts: Sequence[Text], references: Sequence[Text]) -> float:
    """Mean BLEU-4 of each text against all references, 0 to 100.

    By sacrebleu on token ids: n-grams up to the text's own length, exponential smoothing.
    """
    from sacrebleu.metrics.bleu import BLEU

    # references given here are counted once for all texts; each text then is a corpus of one
    judge = BLEU(tokenize="none", effective_order=True, references=[[spelled(one)] for one in references])
    return mean([judge.corpus_score([spelled(text)], None).score for text in texts])


def self_bleu(texts: Sequence[Text]) -> float:
    """Mean BLEU-4 of each text against all others (Zhu et al. 2018): 100 where all are the same."""
    from sacrebleu.metrics.bleu import BLEU

    judge = BLEU(tokenize="none", effective_order=True)
    words = [spelled(text) for text in texts]
    return mean([judge.sentence_score(one, words[:i] + words[i + 1 :]).score for i, one in enumerate(words)])


def harmonic(one: float, other: float) -> float:
    """The harmonic mean of two figures, 0 where one is 0: high where both are."""
    return 2 * one * other / (one + other) if one and other else 0.0


def spelled(text: Text) -> str:
    """Ids as words for a metric that reads words."""
    return " ".join(map(str, text))


def mean(figures: Sequence[float]) -> float:
    """The mean; their order changes nothing."""
    return fsum(figures) / len(figures)
