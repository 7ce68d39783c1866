"""Rows to batches: in which order, with which chance, and for which process; all pure functions of the position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llmkit.data.large.permutation import WINDOW, KeyedOrder, shares
from llmkit.system.signals import deaf

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

Batch: TypeAlias = "dict[str, Tensor]"
"""Tensors of (rows, longest) by name."""
Key = tuple[int, int]
"""(pass, row): which row, and for which time it is seen."""
Features = dict[str, NDArray[Any]]
"""What a row becomes: `input_ids`, `labels` … of one length."""

MORE = 8
"""Times as many rows as learn together may be judged together: nothing is kept of them for a backward pass."""
EVALUATION = 2**32  # the pass that evaluation rows are drawn in: masks are the same at every step, for every seed


class Examples(Protocol):
    """Rows that can be drawn: chance comes in as an argument."""

    def __len__(self) -> int: ...

    def draw(self, row: int, rng: np.random.Generator) -> Features: ...


class Order:
    """The endless order in which rows are seen: every source again and again, each pass in a new order.

    A source with a weight contributes its share of an epoch's rows and goes on in the next epoch where it stopped,
    so none of its rows is forgotten. Rows are numbered through all sources.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        self.sizes, self.seed, self.shares = list(sizes), seed, shares(sizes, weights)
        self.epoch_rows = sum(self.shares)
        self._epoch = lru_cache(maxsize=2)(self._make)

    def at(self, position: int) -> Key:
        """Which row is the `position`-th to be seen."""
        epoch, place = divmod(position, self.epoch_rows)
        passes, rows = self._epoch(epoch)
        return int(passes[place]), int(rows[place])

    def _make(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        passes, rows, offset = [], [], 0
        for number, (size, share) in enumerate(zip(self.sizes, self.shares, strict=True)):
            start, stop = epoch * share, (epoch + 1) * share
            while start < stop:
                nth, place = divmod(start, size)
                taken = self._pass(number, nth)[place : place + stop - start]
                rows.append(taken + offset)
                passes.append(np.full(len(taken), nth))
                start += len(taken)
            offset += size
        all_passes, all_rows = np.concatenate(passes), np.concatenate(rows)
        if len(self.sizes) > 1:
            mixed = np.random.default_rng((self.seed, len(self.sizes), epoch)).permutation(len(all_rows))
            all_passes, all_rows = all_passes[mixed], all_rows[mixed]
        return all_passes, all_rows

    def _pass(self, source: int, nth: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, source, nth)).permutation(self.sizes[source])


@runtime_checkable
class InShards(Protocol):
    """Rows that may be of shards."""

    @property
    def shards(self) -> Sequence[int] | None:
        """The number of each shard's first row, and how many rows there are; None where there are no shards."""


class RowOrder(Protocol):
    """An endless order of rows."""

    @property
    def epoch_rows(self) -> int: ...

    def at(self, position: int) -> Key: ...


def order_of(sets: Sequence[Examples], weights: Sequence[float] | None, seed: int, shuffle: str) -> RowOrder:
    """The order in which the rows of some sources are seen: `full` or `window`, as a recipe says it.

    All rows of text that a run tokenized itself are in one of all orders, as they always were; those of a folder of
    tokens, and those by windows, in one that takes no memory.
    """
    edges = [examples.shards if isinstance(examples, InShards) else None for examples in sets]
    sizes = [len(examples) for examples in sets]
    if shuffle == "full" and all(edge is None for edge in edges):
        return Order(sizes, weights, seed)
    return KeyedOrder(sizes, weights, seed, edges, WINDOW if shuffle == "window" else None)


class Micro:
    """The micro-batches of one process, from a step on, without end.

    A step's rows are positions step x global to (step + 1) x global, whatever the number of processes; accumulation
    and processes only divide them. Where the lengths of rows are known, rows of one length go together: less padding.
    """

    def __init__(
        self, order: RowOrder, whole: int, micro: int, rank: int, processes: int, step: int,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.order, self.whole, self.micro = order, whole, micro
        self.rank, self.processes, self.step, self.lengths = rank, processes, step, lengths

    def __iter__(self) -> Iterator[list[Key]]:
        stride = self.micro * self.processes
        step = self.step
        while True:
            first = step * self.whole
            starts = range(self.rank * self.micro, self.whole, stride)
            if self.lengths is None:  # a thousand processes need not look up each other's rows
                for start in starts:
                    yield [self.order.at(first + place) for place in range(start, min(start + self.micro, self.whole))]
            else:
                keys = [self.order.at(position) for position in range(first, first + self.whole)]
                keys.sort(key=lambda key: -self.lengths[key[1]])  # type: ignore[index]
                for start in starts:
                    yield keys[start : start + self.micro]
            step += 1


class Drawn:
    """A map from (pass, row) to features, for torch's DataLoader: chance is a function of the key and the seed."""

    def __init__(self, sets: Sequence[Examples], seed: int) -> None:
        self.sets, self.seed = list(sets), seed
        self.edges = np.cumsum([len(examples) for examples in sets])

    def __len__(self) -> int:
        return int(self.edges[-1])

    def __getitem__(self, key: Key) -> Features:
        nth, row = key
        number = int(self.edges.searchsorted(row, side="right"))
        local = row - (int(self.edges[number - 1]) if number else 0)
        return self.sets[number].draw(local, cast("np.random.Generator", Chance((self.seed, nth, row))))


class Chance:
    """A numpy generator that is seeded when it is first asked: that takes longer than to read a row without chance."""

    def __init__(self, seed: tuple[int, ...]) -> None:
        self.seed = seed

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rng, name)


def load(
    drawn: Drawn, batches: Any, collate: Callable[[list[Features]], Batch], workers: int = 0, pin: bool = False,
) -> Iterable[Batch]:
    """Batches by lists of keys, from a DataLoader; it draws nothing from torch's own random state."""
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Features] = DataLoader(
        drawn, batch_sampler=batches, collate_fn=Arrays(collate) if workers else collate,  # type: ignore[arg-type]
        num_workers=workers, pin_memory=pin and not workers, generator=torch.Generator(), worker_init_fn=deaf)
    return Sent(loader, pin) if workers else loader


@dataclass(frozen=True)
class Arrays:
    """Lets a worker send arrays, which go through its pipe.

    Tensors go through shared memory, of which a container has 64 MB for all its processes, or none: a worker that finds
    no more room waits for ever (torch 2.13).
    """

    collate: Callable[[list[Features]], Batch]

    def __call__(self, rows: list[Features]) -> Any:
        import torch

        return _each(torch.Tensor, lambda tensor: tensor.numpy(), self.collate(rows))


def _each(kind: type[Any], turn: Callable[[Any], Any], value: Any) -> Any:
    """A value, all things of a kind within it turned into something else."""
    if isinstance(value, kind):
        return turn(value)
    if isinstance(value, dict):
        return {name: _each(kind, turn, one) for name, one in value.items()}
    return tuple(_each(kind, turn, one) for one in value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Sent:
    """What workers sent, as batches."""

    loader: DataLoader[Features]
    pin: bool

    def __iter__(self) -> Iterator[Batch]:
        import torch

        def back(array: NDArray[Any]) -> Tensor:
            tensor = torch.from_numpy(array)
            return tensor.pin_memory() if self.pin else tensor

        for arrays in self.loader:
            yield _each(np.ndarray, back, arrays)


def in_order(
    rows: int, size: int, rank: int, processes: int, lengths: Sequence[int] | None = None, tokens: int | None = None,
) -> list[list[Key]]:
    """The batches of an evaluation for one process: every row once, in order; by their length where that is known.

    size     rows of a batch
    tokens   where lengths are known: as many rows as have so many positions together, `size` at least and MORE times
             that at most
    """
    order = range(rows) if lengths is None else sorted(range(rows), key=lambda row: -lengths[row])
    batches, start = list[list[Key]](), 0
    while start < rows:
        count = size
        if tokens is not None and lengths is not None:
            count = min(MORE * size, max(size, tokens // max(1, lengths[order[start]])))
        batches.append([(EVALUATION, row) for row in order[start : start + count]])
        start += count
    return batches[rank::processes]


def alike(batches: list[list[Key]], features: Callable[[int], Features]) -> list[list[Key]]:
    """Batches cut so that all rows of one have the same fields: only rows that are learned from may have weights."""
    def fields(key: Key) -> list[str]:
        return sorted(features(key[1]))

    return [[*together] for batch in batches for _, together in groupby(sorted(batch, key=fields), fields)]


def stack(rows: Sequence[Features], padding: dict[str, int]) -> Batch:
    """Rows to one batch, padded on the right to the longest: (rows, longest) of each field.

    `documents` and `decoder_documents` number the segments of a row. They stay only where some row has several;
    otherwise `attention_mask` marks padding, and only where there is some.
    """
    import torch

    batch: Batch = {}
    packed = any(len(row["documents"]) and row["documents"][-1] > 0 for row in rows if "documents" in row)
    for name in rows[0]:
        parts = [row[name] for row in rows]
        longest = max(len(part) for part in parts)
        if name in ("documents", "decoder_documents") and not packed:
            if name == "documents" and any(len(part) < longest for part in parts):
                lengths = torch.tensor([len(part) for part in parts])
                batch["attention_mask"] = (torch.arange(longest)[None] < lengths[:, None]).long()
            continue
        out = np.full((len(parts), longest), padding.get(name, 0), dtype=np.int64)
        for i, part in enumerate(parts):
            out[i, : len(part)] = part
            if name == "decoder_documents":  # a query that may see nothing is not a number: let padding see the last
                out[i, len(part) :] = part[-1]
        batch[name] = torch.from_numpy(out)
    return batch


def positions(batch: Batch) -> int:
    """Model input positions of a batch that aren't padding."""
    if "documents" in batch:
        count = int((batch["documents"] >= 0).sum())
    elif "attention_mask" in batch:
        count = int(batch["attention_mask"].sum())
    else:
        count = batch["input_ids"].numel()
    if "decoder_input_ids" in batch:
        count += int((batch["labels"] != -100).sum())
    return count
