"""What tasks have in common in how they are measured: correlations, and what floors are made of."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.data.tokens import AT_ONCE

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

FLOOR_ROWS = 20_000
"""Training rows that a floor is fitted on at most: more take minutes and change little."""
WORD = r"(?u)[一-鿿]|[^\W一-鿿]+"
"""What a word is to TF-IDF; of Chinese, a character."""
TEXTS = ("text", "text_pair")
Numbers = np.ndarray[Any, Any]
Rows = Sequence[Mapping[str, Any]]


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


def by_words(learned: Rows, labels: Sequence[Any], held: Rows, problem: str) -> list[Any] | None:
    """What a linear model on the words says; of a pair, on each text's and on those that both have. None: no words."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    paired = any(row.get("text_pair") for row in learned)
    sides = [[[row.get(name) or "" for row in rows] for name in (("text", "text_pair") if paired else ("text",))]
             for rows in (learned, held)]
    words = words_of((text for side in sides[0] for text in side), 2)
    if words is None:
        return None

    def table(texts: Sequence[Sequence[str]]) -> Any:
        parts = [words.transform(side) for side in texts]
        return csr_matrix(hstack([*parts, parts[0].multiply(parts[1])])) if paired else parts[0]

    known, new = map(table, sides)
    if problem == "regression":
        return list(Ridge(alpha=1.0).fit(known, labels).predict(new).tolist())
    model = LogisticRegression(C=10, max_iter=1000)
    if problem == "multi_label":
        tables = MultiLabelBinarizer()
        there = tables.fit_transform(labels)
        fitted = OneVsRestClassifier(model).fit(known, there)  # of a single label, it gives (rows,)
        return [list(found) for found in tables.inverse_transform(fitted.predict(new).reshape(-1, there.shape[1]))]
    return list(model.fit(known, labels).predict(new).tolist())


def as_seen(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int,
) -> list[dict[str, Any]]:
    """Rows whose `text` and `text_pair` end where the tokenizer cuts them; whole where it can't say where that is.

    {"text": "a b c d", "label": 1}, of two tokens beside [CLS] and [SEP]  ->  {"text": "a b", "label": 1}
    """
    if not tokenizer.is_fast:
        return list(rows)
    return [row for start in range(0, len(rows), AT_ONCE)
            for row in _cut(rows[start : start + AT_ONCE], tokenizer, max_length)]


def _cut(rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, length: int) -> list[dict[str, Any]]:
    names = [name for name in TEXTS if name in rows[0]]
    lengths = [len(ids) for ids in tokenizer(*([row[name] for row in rows] for name in names))["input_ids"]]
    out = []
    for row, size in zip(rows, lengths, strict=True):
        if size > length:
            short = tokenizer(*(row[name] for name in names), truncation=True, max_length=length,
                              return_offsets_mapping=True)
            ends = [0] * len(names)
            for side, (_, end) in zip(short.sequence_ids(), short["offset_mapping"], strict=True):
                if side is not None:
                    ends[side] = max(ends[side], end)
            row = {**row, **{name: row[name][:end] for name, end in zip(names, ends, strict=True)}}
        out.append(row)
    return out


def of_several(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> dict[str, float]:
    """`accuracy` is of whole sets; `f1` is averaged over labels, `f1_micro` over all their occurrences."""
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    tables = MultiLabelBinarizer().fit([*predicted, *true])
    one, other = tables.transform(true), tables.transform(predicted)
    accuracy = float((one == other).all(1).mean())
    if not tables.classes_.size:  # no row has a label, and none is said to have one
        return {"accuracy": accuracy, "f1": 0.0, "f1_micro": 0.0}
    # of a single column, sklearn would count its absence as a label of its own
    ways = ("binary", "binary") if tables.classes_.size == 1 else ("macro", "micro")
    return {"accuracy": accuracy, **{
        name: float(f1_score(one, other, average=way, zero_division=0))
        for name, way in zip(("f1", "f1_micro"), ways, strict=True)}}


def of_numbers(predicted: np.ndarray[Any, Any], true: np.ndarray[Any, Any]) -> dict[str, float]:
    """Pearson's and Spearman's correlation (0 where one side never changes), mean squared error, R squared."""
    error = float(np.mean((predicted - true) ** 2))
    spread = float(np.var(true))
    return {**agreement(predicted, true), "mse": error, "r2": 1 - error / spread if spread else 0.0}
