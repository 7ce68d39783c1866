"""What tasks have in common in how they are measured: correlations, and words for floors."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

log = logging.getLogger("llmkit")

FLOOR_ROWS = 20_000
"""Training rows that a floor is fitted on at most: more take minutes and change little."""
WORD = r"(?u)[一-鿿]|[^\W一-鿿]+"
"""What a word is to TF-IDF; of Chinese, a character."""
Numbers = np.ndarray[Any, Any]


def words_of(texts: Iterable[str], longest: int = 1) -> TfidfVectorizer | None:
    """TF-IDF of the words of texts, and of up to `longest` words in a row; None, said once, where no text has a word.

    Texts of nothing but punctuation or emoji have none.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, longest), sublinear_tf=True)
    texts, split = list(texts), made.build_tokenizer()
    if not any(split(text.lower()) for text in texts):
        log.info("no text has a word: there is no floor from TF-IDF")
        return None
    return made.fit(texts)


def correlation(one: Numbers, other: Numbers) -> float:
    """Pearson's, or 0 where one side never changes."""
    if not (np.ptp(one) and np.ptp(other)):
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def agreement(predicted: Numbers, true: Numbers) -> dict[str, float]:
    """Pearson's and Spearman's correlation."""
    return {"pearson": correlation(predicted, true), "spearman": correlation(ranks(predicted), ranks(true))}


def ranks(values: Numbers) -> Numbers:
    """The rank of each value; equal ones share the mean of theirs: 5 7 7 9 -> 1 2.5 2.5 4."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: Numbers = (counts.cumsum() - (counts - 1) / 2)[which]
    return found
