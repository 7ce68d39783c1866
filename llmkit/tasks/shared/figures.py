"""What tasks have in common in how they are measured: correlations, and words for floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FLOOR_ROWS = 20_000
"""Training rows that a floor is fitted on at most: more take minutes and change little."""
WORD = r"(?u)[一-鿿]|[^\W一-鿿]+"
"""What a word is to TF-IDF; of Chinese, a character."""
Numbers = np.ndarray[Any, Any]
Rows = Sequence[Mapping[str, Any]]


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


def by_words(learned: Rows, labels: Sequence[Any], asked: Rows, problem: str) -> list[Any]:
    """What a linear model on the words says; of a pair, on each text's and on those that both have."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    words = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True)
    paired = any(row.get("text_pair") for row in learned)
    sides = [[[row.get(name) or "" for row in rows] for name in (("text", "text_pair") if paired else ("text",))]
             for rows in (learned, asked)]
    words.fit([text for side in sides[0] for text in side])

    def table(texts: Sequence[Sequence[str]]) -> Any:
        parts = [words.transform(side) for side in texts]
        return csr_matrix(hstack([*parts, parts[0].multiply(parts[1])])) if paired else parts[0]

    known, new = map(table, sides)
    if problem == "regression":
        return list(Ridge(alpha=1.0).fit(known, labels).predict(new).tolist())
    model = LogisticRegression(C=10, max_iter=1000)
    if problem == "multi_label":
        tables = MultiLabelBinarizer()
        fitted = OneVsRestClassifier(model).fit(known, tables.fit_transform(labels))
        return [list(found) for found in tables.inverse_transform(fitted.predict(new))]
    return list(model.fit(known, labels).predict(new).tolist())
