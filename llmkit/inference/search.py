"""Search by meaning: which passages of these files are closest to what is asked?

An index holds a vector for each passage. It is built once, kept in llmkit's cache, and knows by content when files
changed: then only passages that are new are embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmkit.data.search.folders import listed
from llmkit.inference import indexing, words
from llmkit.inference.embedding import Embedder
from llmkit.inference.indexing import Index, unit
from llmkit.inference.words import WordIndex, fused
from llmkit.system import report
from llmkit.system.errors import RequestError

PASSAGE = 128
"""Tokens of a passage at most, where nothing is said."""
DEEP = 50
"""Of both ways of ranking, so many passages are fused."""
Where: TypeAlias = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    score: float
    """The cosine of the angle between its vector and the query's: 1 is the same, about 0 is something else."""
    file: str
    line: int
    """Where it starts, from 1; of a table or a built-in text, which row."""
    text: str
    title: str = ""
    """What the row says that it is about, where it has a title."""

    def as_json(self) -> dict[str, Any]:
        """`{"score": 0.62, "file": "docs/tuning.md", "line": 3, "text": …}`, with `title` where there is one."""
        about = {"score": self.score, "file": self.file, "line": self.line, "text": self.text}
        return about | ({"title": self.title} if self.title else {})


def search(
    query: str, where: Where, model: str | Embedder = "minilm-l6", top: int = 5, mix: bool = False,
    precision: str = "auto",
) -> list[Hit]:
    """The passages of files, folders or built-in texts that are closest in meaning to a query, the closest first.

    >>> search("copy a file", "builtin:python-docs")[0].title      # doctest: +SKIP
    'distutils.file_util.copy_file'

    `model` is a run, a folder, a catalogue name or a hub id, or an `Embedder` that is open. `mix`: rank passages by
    their words (BM25), too, and fuse both orders. `precision`: what a model that isn't open computes in, as for
    `Embedder.open`. For more than one query, keep a `Searcher`.
    DataError where there is nothing to search, RequestError where the model is no encoder.
    """
    return Searcher.open(where, model, mix=mix, precision=precision).search([query], top)[0]


class Searcher:
    """An index and the model that made it, kept open: `Searcher.open("docs").search(["how to resume"])`."""

    def __init__(
        self, embedder: Embedder, index: Index, shown: Sequence[str], indexed: dict[str, Any],
        words: WordIndex | None = None,
    ) -> None:
        """`words`: what ranks passages by their words; None: they are ranked by meaning alone."""
        self.embedder, self.index, self.shown, self.indexed, self.words = embedder, index, shown, indexed, words

    @classmethod
    def open(
        cls, where: Where, model: str | Embedder = "minilm-l6", *, passage_tokens: int | None = None,
        approximate: bool = False, mix: bool = False, precision: str = "auto",
    ) -> Searcher:
        """Open the index of files, folders, globs, `builtin:` or `hub:` texts; build it, or what is new of it.

        `indexed` then says how many files and passages there are, how many of these had to be embedded, and what was
        passed over and why. `approximate`: compare a part of a large index only, by FAISS (the extra `search`). `mix`:
        rank by words, too, by BM25 (the same extra). `precision`: what a model that isn't open computes in; passages
        are embedded anew where it is another than the index has.
        """
        if passage_tokens is not None and passage_tokens < 8:
            raise RequestError(f"--passage-tokens {passage_tokens}: a passage needs 8 tokens or more.")
        if approximate:
            indexing.faiss()
        if mix:
            words.bm25s()
        places = [str(where)] if isinstance(where, str | Path) else list(map(str, where))
        listing = listed(places)  # before a model is loaded
        embedder = model if isinstance(model, Embedder) else Embedder.open(model, precision)
        if passage_tokens is not None and passage_tokens > embedder.room:
            raise RequestError(f"--passage-tokens {passage_tokens}: {embedder.name} reads {embedder.room} at once.")
        most = passage_tokens or min(PASSAGE, embedder.room)
        index, listing, embedded = indexing.open_index(places, listing, embedder, most, approximate)
        if passed := listing.passed():
            report.log.info("passed over: %s", passed)
        indexed = {"files": len(listing.sources), "passages": len(index), "embedded": embedded,
                   "passed_over": {why: len(names) for why, names in sorted(listing.passed_over.items())}}
        ranked = words.open_words(index) if mix else None
        return cls(embedder, index, [one.shown for one in listing.sources], indexed, ranked)

    def search(self, queries: Sequence[str], top: int = 5) -> list[list[Hit]]:
        """For each query the closest passages, the closest first; a text that stands in several places comes once."""
        if top < 1:
            raise RequestError(f"--top {top}: ask for 1 or more.")
        empty = next((i for i, query in enumerate(queries) if not query.strip()), None)
        if empty is not None:
            raise RequestError("the query is empty: say what is looked for.")
        vectors = unit(self.embedder.embed(list(queries), "query"))
        if self.words is None:
            return [[self._hit(score, row) for score, row in best] for best in self.index.closest(vectors, top)]
        return [self._fused(query, vector, near, top) for query, vector, near
                in zip(queries, vectors, self.index.closest(vectors, max(top, DEEP)), strict=True)]

    def _fused(self, query: str, vector: NDArray[np.float32], near: list[tuple[float, int]], top: int) -> list[Hit]:
        """The best of both orders; the score of each is its cosine, so that they needn't fall."""
        assert self.words is not None
        first = {int(self.index.digests[row]): row for _, row in reversed(near)}  # a text that stands twice is one
        worded = self.words.closest(query, max(top, DEEP))
        rows = list(dict.fromkeys(first.setdefault(int(self.index.digests[row]), row) for row in worded))
        best = fused([[row for _, row in near], rows])[:top]
        return [self._hit(float(self.index.vectors[row] @ vector), row) for row in best]

    def _hit(self, score: float, row: int) -> Hit:
        title, text = self.index.text(row)
        return Hit(round(score, 4), self.shown[self.index.files[row]], int(self.index.lines[row]), text, title)
