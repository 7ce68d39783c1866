"""Documents to rows: which tokens the model sees together, for each way of packing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmkit.data.tokens import Documents, Ids

Counts = NDArray[np.integer[Any]]


class SegmentRows(Protocol):
    """A fixed list of rows, each one or more segments of token ids."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> list[Ids]: ...


@dataclass(frozen=True)
class Layout:
    """How an objective lays documents out in rows."""

    length: int
    """Tokens in a full segment: a row of its own, or a part of one."""
    room: int
    """Positions in a row."""
    before: tuple[int, ...] = ()
    """Tokens put before each document."""
    after: tuple[int, ...] = ()
    """Tokens put after each document."""
    overlap: int = 0
    """Tokens that two segments in a row share: 1 where the last of one is only a target."""
    shortest: int = 1
    """Segments with fewer tokens have nothing to learn and are left out."""
    positions: Callable[[Counts], Counts] = lambda lengths: lengths
    """Positions that segments of so many tokens take in a row."""


class Wrapped:
    """Documents with the tokens before and after each, as one long stream of ids."""

    def __init__(self, documents: Documents, layout: Layout) -> None:
        self.documents, self.before, self.after = documents, layout.before, layout.after
        self.lengths = documents.lengths + len(self.before) + len(self.after)
        self.ends = np.cumsum(self.lengths)

    def part(self, document: int, start: int, stop: int) -> Ids:
        """Tokens start to stop of one wrapped document."""
        first, last = int(self.documents.starts[document]), int(self.documents.stops[document])
        lead, size = len(self.before), last - first
        body = self.documents.ids[first + max(0, start - lead) : first + max(0, min(stop - lead, size))]
        head = self.before[start:stop]
        tail = self.after[max(0, start - lead - size) : max(0, stop - lead - size)]
        return np.concatenate([np.array(head, body.dtype), body, np.array(tail, body.dtype)]) if head or tail else body

    def stream(self, start: int, stop: int) -> Ids:
        """Tokens start to stop of all documents, one after the other."""
        parts = []
        document = int(self.ends.searchsorted(start, side="right"))
        while start < stop:
            begin = int(self.ends[document] - self.lengths[document])
            end = min(stop, int(self.ends[document]))
            parts.append(self.part(document, start - begin, end - begin))
            start, document = end, document + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Blocks:
    """One stream of all documents, cut into rows of equal length; a row may hold the end of one and the next."""

    def __init__(self, documents: Documents, layout: Layout) -> None:
        self.wrapped, self.length = Wrapped(documents, layout), layout.length
        self.total = int(self.wrapped.lengths.sum())
        self.step = layout.length - layout.overlap
        self.count = max(0, -(-(self.total - layout.overlap) // self.step))
        if self.count and self.total - (self.count - 1) * self.step < layout.shortest:
            self.count -= 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> list[Ids]:
        start = row * self.step
        return [self.wrapped.stream(start, min(self.total, start + self.length))]


class Segments:
    """Rows of whole documents, each apart from its neighbours; a document too long for a row makes several segments."""

    def __init__(self, documents: Documents, layout: Layout, packed: bool) -> None:
        self.wrapped, self.length = Wrapped(documents, layout), layout.length
        step = layout.length - layout.overlap
        counts = np.maximum(1, -(-(self.wrapped.lengths - layout.overlap) // step))
        most = max(self.wrapped.lengths.sum(), counts.sum())
        small: type[np.signedinteger[Any]] = np.int32 if most < 2**31 else np.int64  # the index is long
        document = np.repeat(np.arange(len(documents), dtype=small), counts)
        first = np.repeat((np.cumsum(counts) - counts).astype(small), counts)
        start: Counts = step * (np.arange(len(document), dtype=small) - first)
        del first
        sizes = np.minimum(layout.length, self.wrapped.lengths[document] - start).astype(small)
        kept = sizes >= layout.shortest
        self.document, self.start, sizes = document[kept], start[kept], layout.positions(sizes[kept])
        rows = pack(sizes, layout.room) if packed else np.arange(len(sizes), dtype=small)
        self.order = np.argsort(rows, kind="stable").astype(small)
        self.edges = np.concatenate([[0], np.cumsum(np.bincount(rows))]) if len(rows) else np.zeros(1, np.int64)
        self.filled = float(sizes.sum() / max(1, len(self) * layout.room))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, row: int) -> list[Ids]:
        chosen = self.order[self.edges[row] : self.edges[row + 1]]
        return [self._segment(int(self.document[i]), int(self.start[i])) for i in chosen]

    def _segment(self, document: int, start: int) -> Ids:
        return self.wrapped.part(document, start, min(start + self.length, int(self.wrapped.lengths[document])))


def pack(sizes: Counts, room: int) -> Counts:
    """Which row each segment goes to: the longest first, each into the fullest row that still has room for it.

    >>> pack(np.array([5, 3, 4, 4]), 8).tolist()
    [0, 0, 1, 1]
    """
    order, rows = np.argsort(-sizes, kind="stable"), np.zeros(len(sizes), sizes.dtype)
    waiting: list[list[Counts]] = [[] for _ in range(room + 1)]  # rows by the room that is left; last in, first out
    open_ = 0  # bit r is set where some row has r left: its lowest set bit above a size is the best fit
    count = placed = 0
    for size, many in zip(*(part[::-1].tolist() for part in np.unique(sizes, return_counts=True)), strict=True):
        end = placed + many
        while placed < end:  # all segments of one size that go to rows with the same room
            fits = open_ >> size
            left = size + (fits & -fits).bit_length() - 1 if fits else room
            # a row takes so many, for with one of them in it, it is still the best fit for the next
            each = max(1, left // size)
            used = -(-(end - placed) // each)
            if fits:
                stack = np.concatenate(waiting[left])
                taking = stack[::-1][:used]
                waiting[left] = [stack[:-used]] if used < len(stack) else []
                open_ ^= 0 if waiting[left] else 1 << left
            else:
                taking = np.arange(count, count + used)
                count += used
            taken = np.repeat(taking, each)[: end - placed]
            rows[order[placed : placed + len(taken)]] = taken
            placed += len(taken)
            last = len(taken) - each * (len(taking) - 1)  # segments in the last of the rows
            for full, those in ((each, taking[:-1]), (last, taking[-1:])):
                rest = left - full * size
                if rest > 0 and len(those):
                    waiting[rest].append(those)
                    open_ |= 1 << rest
    return rows


def arrange(documents: Documents, layout: Layout, packing: str) -> SegmentRows:
    """Rows of documents in one of the three ways: blocks, documents, none."""
    if packing == "blocks":
        return Blocks(documents, layout)
    return Segments(documents, layout, packed=packing == "documents")
