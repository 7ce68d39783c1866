"""Documents to rows: which tokens the model sees together, for each way of packing."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmkit.data.tokens import Documents, Ids, array_in
from llmkit.system import cache

FORMAT = 2
"""Goes up when rows are laid out otherwise: those that are kept aren't used then."""
OPEN = 48
"""Shards whose rows are mapped at once: each has a few descriptors."""

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
        self.around = len(self.before) + len(self.after)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Where each wrapped document ends in the stream."""
        return np.cumsum(self.lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each wrapped document, computed when they are asked for."""
        return self.documents.lengths + self.around

    def length(self, document: int) -> int:
        """Tokens in one of them."""
        return int(self.documents.stops[document]) - int(self.documents.starts[document]) + self.around

    def part(self, document: int, start: int, stop: int) -> Ids:
        """Tokens start to stop of one wrapped document."""
        first, last = int(self.documents.starts[document]), int(self.documents.stops[document])
        lead, size = len(self.before), last - first
        body = self.documents.read(first + max(0, start - lead), first + max(0, min(stop - lead, size)))
        head = self.before[start:stop]
        tail = self.after[max(0, start - lead - size) : max(0, stop - lead - size)]
        return np.concatenate([np.array(head, body.dtype), body, np.array(tail, body.dtype)]) if head or tail else body

    def stream(self, start: int, stop: int) -> Ids:
        """Tokens start to stop of all documents, one after the other."""
        parts = []
        document = int(self.ends.searchsorted(start, side="right"))
        while start < stop:
            begin = int(self.ends[document]) - self.length(document)
            end = min(stop, int(self.ends[document]))
            parts.append(self.part(document, start - begin, end - begin))
            start, document = end, document + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Blocks:
    """One stream of all documents, cut into rows of equal length; a row may hold the end of one and the next.

    kept   what `arrays` gave when they were laid out before; it isn't computed then
    """

    def __init__(self, documents: Documents, layout: Layout, kept: Mapping[str, NDArray[Any]] | None = None) -> None:
        self.wrapped, self.length = Wrapped(documents, layout), layout.length
        if kept is not None:
            vars(self.wrapped)["ends"] = kept["ends"]
        self.total = int(self.wrapped.ends[-1]) if len(documents) else 0
        self.step = layout.length - layout.overlap
        self.count = max(0, -(-(self.total - layout.overlap) // self.step))
        if self.count and self.total - (self.count - 1) * self.step < layout.shortest:
            self.count -= 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What takes as much memory as there are documents."""
        return {"ends": self.wrapped.ends}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> list[Ids]:
        start = row * self.step
        return [self.wrapped.stream(start, min(self.total, start + self.length))]


class Segments:
    """Rows of whole documents, each apart from its neighbours; a document too long for a row makes several segments.

    kept   what `arrays` gave when they were laid out before; it isn't computed then
    """

    def __init__(
        self, documents: Documents, layout: Layout, packed: bool, kept: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.wrapped, self.length = Wrapped(documents, layout), layout.length
        if kept is not None:
            self.document, self.start, self.order, self.edges = (
                kept[name] for name in ("document", "start", "order", "edges"))
            self.filled = float(kept["filled"])
            return
        lengths = self.wrapped.lengths
        step = layout.length - layout.overlap
        counts = np.maximum(1, -(-(lengths - layout.overlap) // step))
        most = max(lengths.sum(), counts.sum())
        small: type[np.signedinteger[Any]] = np.int32 if most < 2**31 else np.int64  # the index is long
        document = np.repeat(np.arange(len(documents), dtype=small), counts)
        first = np.repeat((np.cumsum(counts) - counts).astype(small), counts)
        start: Counts = step * (np.arange(len(document), dtype=small) - first)
        del first
        sizes = np.minimum(layout.length, lengths[document] - start).astype(small)
        long = sizes >= layout.shortest
        self.document, self.start, sizes = document[long], start[long], layout.positions(sizes[long])
        rows = pack(sizes, layout.room) if packed else np.arange(len(sizes), dtype=small)
        self.order = np.argsort(rows, kind="stable").astype(small)
        self.edges = np.concatenate([[0], np.cumsum(np.bincount(rows))]) if len(rows) else np.zeros(1, np.int64)
        self.filled = float(sizes.sum() / max(1, len(self) * layout.room))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What takes as much memory as there are segments."""
        return {"document": self.document, "start": self.start, "order": self.order, "edges": self.edges,
                "filled": np.array(self.filled)}

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, row: int) -> list[Ids]:
        chosen = self.order[self.edges[row] : self.edges[row + 1]]
        return [self._segment(int(self.document[i]), int(self.start[i])) for i in chosen]

    def _segment(self, document: int, start: int) -> Ids:
        return self.wrapped.part(document, start, min(start + self.length, self.wrapped.length(document)))


class Sharded:
    """Rows of a source that is in shards: the documents of each are laid out by themselves, so that none needs another.

    Of many documents a shard's rows are opened when one of them is asked for, and few shards are open at once.
    """

    def __init__(self, documents: Documents, layout: Layout, packing: str) -> None:
        self.documents, self.layout, self.packing = documents, layout, packing
        self._open: OrderedDict[int, Blocks | Segments] = OrderedDict()
        self.key = place_of(documents, layout, packing) if documents.kept else ""
        self.most = OPEN if self.key else documents.count_of_shards
        self.shards: list[int] = [0, *accumulate(self._counts())]
        """The number of each shard's first row, and how many rows there are."""

    def _counts(self) -> list[int]:
        if not self.key:
            return [len(self._rows(i)) for i in range(self.documents.count_of_shards)]

        def write(folder: Path) -> None:
            counts = [len(self._rows(i)) for i in range(self.documents.count_of_shards)]
            np.save(folder / "counts.npy", np.array(counts, np.int64))

        return list(np.load(cache.once("rows", self.key, write) / "counts.npy").tolist())

    def _rows(self, shard: int) -> Blocks | Segments:
        """The rows of a shard; of those that are open, the one that waited longest goes."""
        found = self._open.pop(shard, None)
        if found is None:
            key = sha256(f"{self.key} {shard}".encode()).hexdigest() if self.key else ""
            found = laid_out(self.documents.shard(shard), self.layout, self.packing, key)
            while len(self._open) >= self.most:
                self._open.popitem(last=False)
        self._open[shard] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """A loader's worker opens rows that are kept itself; there it lays out none."""
        opened = OrderedDict() if self.key else self._open
        return {**vars(self), "_open": opened, "layout": replace(self.layout, positions=_laid_out_elsewhere)}

    def __len__(self) -> int:
        return self.shards[-1]

    def __getitem__(self, row: int) -> list[Ids]:
        shard = bisect_right(self.shards, row) - 1
        return self._rows(shard)[row - self.shards[shard]]


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
    """Rows of documents in one of the three ways: blocks, documents, none; of a source in shards, shard by shard."""
    if documents.count_of_shards > 1:
        return Sharded(documents, layout, packing)
    return laid_out(documents, layout, packing)


def _laid_out_elsewhere(lengths: Counts) -> Counts:
    raise RuntimeError("rows are laid out by the process that reads them first")


def laid_out(documents: Documents, layout: Layout, packing: str, key: str = "") -> Blocks | Segments:
    """Rows of documents; of many, what says where each row is lies in the cache by a key, and is mapped from there."""
    if not documents.kept and not key:
        return _made(documents, layout, packing)

    def write(folder: Path) -> None:
        for name, array in _made(documents, layout, packing).arrays().items():
            np.save(folder / f"{name}.npy", array)

    folder = cache.once("rows", key or place_of(documents, layout, packing), write)
    return _made(documents, layout, packing, {path.stem: array_in(path) for path in folder.glob("*.npy")})


def _made(
    documents: Documents, layout: Layout, packing: str, kept: Mapping[str, NDArray[Any]] | None = None,
) -> Blocks | Segments:
    if packing == "blocks":
        return Blocks(documents, layout, kept)
    return Segments(documents, layout, packing == "documents", kept)


def place_of(documents: Documents, layout: Layout, packing: str) -> str:
    """What rows are kept by: the documents, and all that decides how they are laid out."""
    sizes = layout.positions(np.arange(layout.length + 1)).tolist()
    about = [FORMAT, documents.key, packing, layout.length, layout.room, layout.before, layout.after, layout.overlap,
             layout.shortest, sizes]
    return sha256(json.dumps(about).encode()).hexdigest()
