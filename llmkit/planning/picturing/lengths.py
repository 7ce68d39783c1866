"""How long the texts of a data set are in tokens, and how many of these the tokenizer doesn't know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.encoder import Unknown
from llmkit.data.tokens import tokenize
from llmkit.data.words import bare

if TYPE_CHECKING:
    from llmkit.data.sources import Reader
    from llmkit.objectives.base import Sets, Setup

BINS = 40
"""Bars of a plot."""


def of_documents(readers: Sequence[Reader], setup: Setup) -> dict[str, Any]:
    """Of the documents of text, before they are cut into rows."""
    unknown, lengths, missing = Unknown(setup.tokenizer).id, list[int](), list[int]()
    for reader in readers:
        documents = tokenize(reader, setup.tokenizer, setup.plain)
        lengths += documents.lengths.tolist()
        missing += [_unknown(bare(documents.read(start, stop)), unknown)
                    for start, stop in zip(documents.starts, documents.stops, strict=True)]
    return told("documents", lengths, missing, setup.max_length)


def of_rows(sets: Sets, setup: Setup) -> dict[str, Any]:
    """Of a task's rows, as the model reads them: with special tokens and template, and cut where they are too long."""
    unknown, lengths, missing = Unknown(setup.tokenizer).id, list[int](), list[int]()
    for part in sets.train:
        for row in range(len(part)):
            ids = part.draw(row, np.random.default_rng(0)).get("input_ids", np.zeros(0, int))
            lengths.append(int(ids.size))
            missing.append(_unknown(ids, unknown))
    return told("rows", lengths, missing, setup.max_length)


def _unknown(ids: NDArray[Any], unknown: int | None) -> int:
    return 0 if unknown is None else int((ids == unknown).sum())


def told(what: str, lengths: Sequence[int], missing: Sequence[int], most: int) -> dict[str, Any]:
    """{"of", "count", "tokens", "shortest", "median", "mean", "longest", "max_length", "longer", "unknown", …}

    `lengths` and `missing` are the numbers themselves; `longer` and `unknown` are counts.

    >>> found = told("rows", [2, 3, 10], [0, 0, 1], 8)
    >>> found["median"], found["longer"], found["unknown"]
    (3.0, 1, 1)
    """
    sizes = np.array(lengths or [0])
    return {"of": what, "count": len(lengths), "tokens": int(sizes.sum()), "shortest": int(sizes.min()),
            "median": float(np.median(sizes)), "mean": float(sizes.mean()), "longest": int(sizes.max()),
            "max_length": most, "longer": int((sizes > most).sum()), "unknown": int(np.sum(missing)),
            "with_unknown": int(np.count_nonzero(missing)), "lengths": list(lengths), "missing": list(missing)}


def in_words(found: dict[str, Any]) -> list[str]:
    """The figures as two lines."""
    share = found["unknown"] / max(1, found["tokens"])
    cut = "" if found["of"] == "rows" else f"; {found['longer']:,} are longer than a row of {found['max_length']:,}"
    return [f"{found['count']:,} {found['of']}, {found['tokens']:,} tokens: {found['shortest']:,} to "
            f"{found['longest']:,}, median {found['median']:,.0f}, mean {found['mean']:,.1f}{cut}",
            f"unknown tokens: {found['unknown']:,} ({share:.2%}), in {found['with_unknown']:,} of the {found['of']}"]


def bars(lengths: Sequence[int], bins: int = 12, wide: int = 40) -> list[str]:
    """A histogram as lines, for a terminal.

    >>> bars([1, 1, 2, 4], bins=2, wide=4)
    ['  1 to   2  ████ 3', '  3 to   4  █ 1']
    """
    low, high = min(lengths, default=0), max(lengths, default=0)
    step = max(1, -(-(high - low + 1) // bins))
    edges = list(range(low, high + 1, step))
    counts = [sum(edge <= length < edge + step for length in lengths) for edge in edges]
    digits = max(3, len(f"{high:,}"))
    most = max(counts, default=1)
    return [f"{edge:>{digits},} to {min(high, edge + step - 1):>{digits},}  "
            f"{'█' * round(wide * count / most)} {count:,}"
            for edge, count in zip(edges, counts, strict=True)]
