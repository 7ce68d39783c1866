"""The ids of many shards as one array, wherever their files are."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.encoder import Ids
from llmkit.data.large.remote import IDS, MOST, NOTE, Far, block_of
from llmkit.system.errors import PlaceError

OPEN = 128
"""Files of ids that are mapped at once: each has a descriptor."""
PIECE = 2**22
"""Bytes of a file that is far away that are fetched at once: two million ids."""
TRIES = 3


class JoinedIds:
    """The ids of several files as one array, of which slices and positions are taken; a part of the files is mapped.

    files, counts   the files, here or far away, and how many ids each has
    """

    def __init__(self, files: Sequence[Path | Far], counts: Sequence[int], dtype: str) -> None:
        self.files, self.dtype = list(files), np.dtype(dtype)
        self.edges: list[int] = [0, *np.cumsum(counts).tolist()]
        for file, count in zip(files, counts, strict=True):
            size = file.size if isinstance(file, Far) else file.stat().st_size
            if size != count * self.dtype.itemsize:
                name = file.address if isinstance(file, Far) else f"{file.parent.name}/{file.name}"
                raise ValueError(f"{name} has not the {count:,} ids that it is said to have")
        self._maps: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return self.edges[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_maps": OrderedDict()}  # a loader's worker maps them itself

    def __getitem__(self, where: slice | NDArray[np.int64]) -> Ids:
        if not isinstance(where, slice):
            return self._at(np.asarray(where))
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError("only stretches without gaps are taken")
        parts = []
        while start < stop:
            number = bisect_right(self.edges, start) - 1
            end = min(stop, self.edges[number + 1])
            parts.append(self._map(number)[start - self.edges[number] : end - self.edges[number]])
            start = end
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, self.dtype), *parts])

    def _at(self, where: NDArray[np.int64]) -> Ids:
        out = np.empty(where.shape, self.dtype)
        numbers = np.searchsorted(self.edges, where, side="right") - 1
        for number in np.unique(numbers).tolist():
            here = numbers == number
            out[here] = self._map(number)[where[here] - self.edges[number]]
        return out

    def _map(self, number: int) -> Any:
        """The ids of a file; of those that are open, the one that waited longest goes."""
        found = self._maps.pop(number, None)
        if found is None:
            found = self._opened(number)
            while len(self._maps) >= OPEN:
                self._maps.popitem(last=False)
        self._maps[number] = found
        return found

    def _opened(self, number: int) -> Any:
        file = self.files[number]
        if isinstance(file, Far):
            return FarIds(file, self.dtype)
        return mapped_ids(file, self.dtype) if file.stat().st_size else np.zeros(0, self.dtype)


class FarIds(JoinedIds):
    """The ids of a file that is far away: a block of it is fetched when one of its ids is asked for, and kept here."""

    def __init__(self, file: Far, dtype: np.dtype[Any]) -> None:
        count, each = file.size // dtype.itemsize, PIECE // dtype.itemsize
        self.file, self.dtype, self.edges = file, dtype, [*range(0, count, each), count]
        self._maps = OrderedDict()

    def _opened(self, number: int) -> Any:
        start, stop = (edge * self.dtype.itemsize for edge in self.edges[number : number + 2])
        for _ in range(TRIES):
            with suppress(FileNotFoundError):  # another process has made room meanwhile
                return mapped_ids(block_of(self.file, start, stop), self.dtype)
        raise PlaceError(f"{self.file.name}: its blocks are removed as soon as they are here: too little room is "
                         f"allowed ({MOST}).")


def mapped_ids(path: Path, dtype: np.dtype[Any]) -> Ids:
    """The ids of a file that isn't empty; as a plain array: a slice of a memmap takes five times as long."""
    return np.asarray(np.memmap(path, dtype, "r"))


def ids_of(place: Path) -> Path | Far:
    """Where a shard's ids are: here, or far away as a note in their place says it."""
    note = place / NOTE
    return Far(**json.loads(note.read_text())) if note.is_file() else place / IDS
