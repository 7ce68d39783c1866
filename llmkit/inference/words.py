"""Words beside meaning: passages ranked by the words that they share with a query (BM25), fused with their vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmkit.data.encoder import IDEOGRAPHS
from llmkit.inference.indexing import Index, titled
from llmkit.system import cache
from llmkit.system.errors import RequestError

FORMAT = "1"  # raise it when texts become terms in another way
WORD = re.compile(rf"[{IDEOGRAPHS}]+|[^\W_{IDEOGRAPHS}]+")
CONSTANT = 60
"""Of reciprocal rank fusion: how little the first places count more than those behind (Cormack et al. 2009)."""


def terms(text: str) -> list[str]:
    """Words in small letters; of a run of ideographs, which has no spaces, each pair of neighbours.

    >>> terms("BERT 预训练 models")
    ['bert', '预训', '训练', 'models']
    """
    found = []
    for run in WORD.findall(text.lower()):
        if re.match(f"[{IDEOGRAPHS}]", run) and len(run) > 1:
            found += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            found.append(run)
    return found


def fused(orders: Sequence[Sequence[int]]) -> list[int]:
    """Several orders of rows as one: reciprocal rank fusion, sum over orders of 1 / (60 + place), places from 1.

    >>> fused([[7, 3, 5], [3, 9]])     # 3: 1/62 + 1/61, 7: 1/61, 9: 1/62, 5: 1/63
    [3, 7, 9, 5]
    """
    sums: dict[int, float] = {}
    for order in orders:
        for place, row in enumerate(order, 1):
            sums[row] = sums.get(row, 0.0) + 1 / (CONSTANT + place)
    return sorted(sums, key=lambda row: -sums[row])  # of equals, the one that came first


@dataclass
class WordIndex:
    """Passages by their words: BM25 (Robertson and Zaragoza 2009) as Lucene computes it, k1 1.5 and b 0.75."""

    ranked: Any
    passages: int

    def closest(self, query: str, many: int) -> list[int]:
        """Rows of passages that share a word with the query, the best first; none where they share none."""
        wanted = [term for term in dict.fromkeys(terms(query)) if term in self.ranked.vocab_dict]
        if not wanted:
            return []
        rows, scores = self.ranked.retrieve([wanted], k=min(many, self.passages), show_progress=False)
        return [int(row) for row, score in zip(rows[0], scores[0], strict=True) if score > 0]


def open_words(index: Index) -> WordIndex:
    """The words of an index's passages, from the cache, beside the index; RequestError where BM25 isn't installed."""
    library = bm25s()

    def make(folder: Path) -> None:
        ranked = library.BM25(method="lucene")
        texts = [terms(titled(*index.text(row))) or [""] for row in range(len(index))]
        ranked.index(texts, show_progress=False)
        ranked.save(str(folder))

    place = index.folder
    folder = cache.once(f"search/{place.parent.name}", f"{place.name}-words{FORMAT}", make)
    return WordIndex(library.BM25.load(str(folder), mmap=True), len(index))


def bm25s() -> Any:
    """The library that ranks by words; RequestError where it isn't installed."""
    if find_spec("bm25s") is None:
        raise RequestError("--mix needs bm25s: pip install 'llmkit-train[search]'; without it, search is by meaning "
                           "alone.")
    import bm25s as library

    return library
