"""1,024 processes in one: which rows each of them reads, from which shards, while some of them fail.

The code is the run's own: `Order`, `Micro` and `Drawn`. What a run has learned from is what its surviving steps read: a
failure throws away the steps since the last checkpoint, and the restart, on as many processes as are left, reads them
again.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytest

from llmkit.data.batches import Drawn, Features, Key, Micro, Order

WHOLE = 3_072
"""Rows of a step: 3 for each of 1,024 processes, and a whole number for each size of world below."""
WORLDS = (1024, 768, 512, 384, 256, 192, 96, 8)
"""Processes of a start, of a restart …"""
SHARDS = [9_600, 1, 4_095, 12_288, 700, 2_100, 16_384, 3_000, 12_000, 988, 5_000, 7_435]
"""Rows of each file: 73,591 in all, which no number of processes divides."""


@dataclass
class Shard:
    """A file of rows that notes which of them are read."""

    rows: int
    read: Counter[int] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self.rows

    def draw(self, row: int, rng: np.random.Generator) -> Features:
        assert 0 <= row < self.rows
        self.read[row] += 1
        return {"input_ids": np.array([row])}


def read_by(order: Order, world: int, step: int, steps: int = 1, micro: int = 1, **more: Any) -> list[list[Key]]:
    """What each process of a world reads in some steps."""
    each = steps * (WHOLE // (world * micro))
    return [[key for keys in islice(Micro(order, WHOLE, micro, rank, world, step, **more), each) for key in keys]
            for rank in range(world)]


def history(rng: random.Random, last: int, every: int) -> Iterator[tuple[int, int, int]]:
    """(world, first step, step after the last) of each life of a run; it ends at `last`, and saves each `every` steps.

    A life that fails goes on from the last checkpoint before its end.
    """
    step = 0
    while step < last:
        end = min(last, step + rng.randint(1, 9))
        yield rng.choice(WORLDS), step, end
        step = end if end == last else end // every * every


def test_what_1024_processes_read_in_a_step_is_disjoint_and_complete() -> None:
    order = Order(SHARDS, None, seed=7)
    for step in (0, 5, 23, 24):  # 23 and 24 reach into the second pass
        parts = read_by(order, 1024, step)
        assert {len(part) for part in parts} == {3}
        seen = [key for part in parts for key in part]
        assert len(set(seen)) == WHOLE
        assert sorted(seen) == sorted(order.at(position) for position in range(step * WHOLE, (step + 1) * WHOLE))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("at_once", ["a row", "all rows"])
def test_a_step_has_the_rows_that_it_has_on_one_process(world: int, at_once: str) -> None:
    micro = 1 if at_once == "a row" else WHOLE // world
    order = Order(SHARDS, None, seed=3)
    alone = sorted(order.at(position) for position in range(11 * WHOLE, 12 * WHOLE))
    assert sorted(key for part in read_by(order, world, 11, micro=micro) for key in part) == alone


def test_rows_of_one_length_are_shared_by_1024_processes_too() -> None:
    """Rows sorted by length within a step are the step's own all the same; few processes stand for all."""
    order = Order([WHOLE * 2], None, seed=1)
    lengths = np.random.default_rng(0).integers(1, 100, WHOLE * 2).tolist()
    seen: list[Key] = []
    for rank in range(0, 1024, 16):
        seen += next(iter(Micro(order, WHOLE, 3, rank, 1024, 0, lengths)))
    assert len(set(seen)) == len(seen) == 3 * 64
    whole = [key for part in read_by(order, 8, 0, micro=3, lengths=lengths) for key in part]
    assert set(seen) <= set(whole)
    assert sorted(whole) == sorted(order.at(position) for position in range(WHOLE))


@pytest.mark.parametrize("seed", [0, 1])
def test_after_failures_and_restarts_no_row_is_lost_or_read_twice(seed: int) -> None:
    """Two passes over the data with a failure every few steps, each restart on another number of processes."""
    rng, order = random.Random(seed), Order(SHARDS, None, seed)
    steps = 2 * sum(SHARDS) // WHOLE
    kept: dict[int, list[Key]] = {}
    lives = list(history(rng, steps, every=4))
    assert len(lives) > 8 and len({world for world, _, _ in lives}) > 3
    for world, first, end in lives:
        parts = read_by(order, world, first, end - first)
        for number, step in enumerate(range(first, end)):  # what a failed life read after its checkpoint is read again
            each = WHOLE // world
            kept[step] = [key for part in parts for key in part[number * each : (number + 1) * each]]
    learned = Counter(key for step in range(steps) for key in kept[step])
    assert set(learned.values()) == {1}
    epoch = sum(SHARDS)
    assert {row for passed, row in learned if passed == 0} == set(range(epoch))
    assert sum(passed == 0 for passed, _ in learned) == epoch


def test_every_row_of_every_shard_is_read_once_a_pass_by_one_process() -> None:
    """The last step of the pass takes its missing rows from the next one."""
    shards = [Shard(rows) for rows in SHARDS]
    order, drawn = Order(SHARDS, None, seed=2), Drawn(shards, seed=2)
    steps = -(-sum(SHARDS) // WHOLE)
    for world, first, end in ((1024, 0, 10), (96, 10, 17), (768, 17, steps)):
        for part in read_by(order, world, first, end - first):
            for key in part:
                if key[0] == 0:
                    drawn[key]
    for shard in shards:
        assert sorted(shard.read) == list(range(shard.rows))
        assert set(shard.read.values()) == {1}


def test_a_process_looks_up_its_own_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 1,024 processes each would otherwise look up all rows of a step to take three."""
    order, looked = Order(SHARDS, None, seed=5), list[int]()
    usual = order.at
    monkeypatch.setattr(order, "at", lambda position: looked.append(position) or usual(position))
    next(iter(Micro(order, WHOLE, 3, 1_000, 1024, 2)))
    assert looked == [2 * WHOLE + 3_000, 2 * WHOLE + 3_001, 2 * WHOLE + 3_002]
