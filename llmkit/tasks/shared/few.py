"""Few rows of many, drawn by a hash of seed and content: the same rows on any machine, whatever their order is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llmkit.data.sources import Place

Row: TypeAlias = dict[str, Any]
Read: TypeAlias = list[tuple[Row, Place]]


def rank(content: str, seed: int | str) -> int:
    """Where a row of this content stands in the order that a seed draws: 64 bits."""
    digest = hashlib.blake2b(f"{seed}\n{content}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def few_shots(
    sources: Sequence[Read], shots: int, seed: int, labels_of: Callable[[Row], Sequence[str]],
) -> tuple[list[Read], str]:
    """`shots` rows a label of all sources together, each source in its own order, and what became of them in words.

    Rows are taken in the order that the seed draws as long as one of their labels lacks some; of equal rows one
    counts. Where `labels_of` gives none for any row, `shots` rows in all.
    """
    drawn = sorted((rank(repr(row), seed), part, at) for part, rows in enumerate(sources)
                   for at, (row, _) in enumerate(rows))
    had: Counter[str] = Counter()
    taken: set[tuple[int, int]] = set()
    before = None
    for digest, part, at in drawn:
        labels = labels_of(sources[part][at][0]) or ("",)
        if digest != before and any(had[label] < shots for label in labels):
            taken.add((part, at))
            had.update(labels)
        before = digest
    kept = [[pair for at, pair in enumerate(rows) if (part, at) in taken] for part, rows in enumerate(sources)]
    return kept, _told(shots, len(taken), len(drawn), had)


def _told(shots: int, taken: int, rows: int, had: Counter[str]) -> str:
    if not had or set(had) == {""}:
        return f"data.shots: {taken:,} of {rows:,} training rows"
    short = sorted(label for label, count in had.items() if count < shots and label)
    fewer = f"; fewer there are of {', '.join(short[:5])}{' …' if len(short) > 5 else ''}" if short else ""
    return f"data.shots: {shots} rows a label, {taken:,} of {rows:,} training rows{fewer}"


def set_apart(sources: Sequence[Read], count: int, key: Callable[[Row], str]) -> tuple[list[Read], list[Read]]:
    """(what is learned from, `count` rows or a few more that aren't), the same ones whatever the seed is.

    Rows of one `key` go together, so that the last of them may be beyond the count.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for part, rows in enumerate(sources):
        for at, (row, _) in enumerate(rows):
            groups.setdefault(key(row), []).append((part, at))
    held: set[tuple[int, int]] = set()
    for content in sorted(groups, key=lambda content: rank(content, "validation")):
        if len(held) >= count:
            break
        held.update(groups[content])

    def side(there: bool) -> list[Read]:
        return [[pair for at, pair in enumerate(rows) if ((part, at) in held) == there]
                for part, rows in enumerate(sources)]

    return side(False), side(True)
