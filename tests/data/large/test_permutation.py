"""Orders that take no memory: every row once in each pass, in any order, on any number of processes."""

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from llmkit.data.batches import Micro, Order, order_of
from llmkit.data.large.permutation import KeyedOrder, Permutation, stretched


@pytest.mark.parametrize("n", [*range(1, 40), 63, 64, 65, 255, 257, 1000, 4096])
def test_it_is_a_permutation(n):
    for key in ((0,), (7, 3, 2**40)):
        assert sorted(Permutation(n, key)(i) for i in range(n)) == list(range(n))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_permutation_is_as_likely(n):
    """Chi-square over 40 keys for each of the n! permutations; a Feistel network alone gives even ones too often."""
    count, each = math.factorial(n), 40
    found = Counter(tuple(Permutation(n, (key, 9))(i) for i in range(n)) for key in range(count * each))
    chi = sum((found[one] - each) ** 2 / each for one in found) + (count - len(found)) * each
    freedom = count - 1
    assert chi < freedom + 4 * math.sqrt(2 * freedom) + 4


def test_where_a_row_comes_does_not_depend_on_its_number():
    """Of 400 keys, where the first, the second and the last of 1000 come: even over ten tenths, and independent."""
    places = np.array([[Permutation(1000, (key,))(i) for i in (0, 1, 999)] for key in range(400)])
    for column in places.T:
        tenths = np.bincount(column // 100, minlength=10)
        assert ((tenths - 40) ** 2 / 40).sum() < 28  # chi-square, 9 degrees: p = .001
    assert abs(np.corrcoef(places.T)[np.triu_indices(3, 1)]).max() < 0.17


def test_a_row_of_a_billion_is_computed_in_no_memory():
    tracemalloc.start()
    order = KeyedOrder([10**9, 3 * 10**8], None, 42, [list(range(0, 10**9 + 1, 10**6)), None], 2**18)
    rows = [order.at(position)[1] for position in (0, 1, 10**8, 1_299_999_999, 5 * 10**9)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(rows)) == 5
    assert all(0 <= row < 13 * 10**8 for row in rows)
    assert peak < 2_000_000


@pytest.mark.parametrize("window", [None, 1, 7, 50, 10_000])
@pytest.mark.parametrize("sizes", [[1], [10], [97], [40, 60], [3, 0, 90, 7]])
def test_every_row_comes_once_in_each_pass(sizes, window):
    order = KeyedOrder(sizes, None, 3, None, window)
    assert order.epoch_rows == sum(sizes)
    passes = [[order.at(epoch * order.epoch_rows + i) for i in range(order.epoch_rows)] for epoch in range(3)]
    for epoch, keys in enumerate(passes):
        assert [nth for nth, _ in keys] == [epoch] * len(keys)
        assert sorted(row for _, row in keys) == list(range(sum(sizes)))
    if sum(sizes) > 20 and window != 1:
        assert passes[0] != [(0, row) for _, row in passes[1]]


@pytest.mark.parametrize("window", [None, 16])
def test_a_source_with_a_weight_goes_on_where_it_stopped(window):
    """As `Order` has it: 30 and 70 rows with equal weights give 50 each, and no row is forgotten."""
    order, other = KeyedOrder([30, 70], [1, 1], 5, None, window), Order([30, 70], [1, 1], 5)
    assert order.epoch_rows == other.epoch_rows == 100
    keys = [order.at(i) for i in range(700)]
    assert Counter(row < 30 for _, row in keys) == {True: 350, False: 350}
    counts = Counter(row for _, row in keys if row >= 30)
    assert set(counts) == set(range(30, 100))
    assert set(counts.values()) == {5}
    assert len(set(keys)) == 700  # no row twice in one of its passes


def test_by_windows_shards_come_one_after_the_other_in_a_new_order():
    edges = [0, 100, 180, 300, 400, 500]
    order = KeyedOrder([500], None, 1, [edges], window=50)
    shards = [np.searchsorted(edges, [order.at(i)[1] for i in range(start, start + 500)], side="right") - 1
              for start in (0, 500, 1000)]
    for seen in shards:
        firsts = {int(shard): int(np.flatnonzero(seen == shard)[0]) for shard in range(5)}
        lasts = {int(shard): int(np.flatnonzero(seen == shard)[-1]) for shard in range(5)}
        assert all(lasts[shard] - firsts[shard] < edges[shard + 1] - edges[shard] + 100 for shard in range(5))
    assert len({tuple(dict.fromkeys(seen.tolist())) for seen in shards}) > 1
    within = [order.at(i)[1] for i in range(50)]
    assert within != sorted(within)


def test_by_windows_sources_go_on_side_by_side():
    order = KeyedOrder([1000, 3000], None, 1, None, window=100)
    for start in range(0, 4000, 400):
        first = sum(order.at(i)[1] < 1000 for i in range(start, start + 400))
        assert 75 <= first <= 125


def test_the_rows_of_a_step_are_the_same_on_any_number_of_processes():
    order = KeyedOrder([90, 40], None, 11, [[0, 50, 90], None], 32)
    steps = []
    for processes in (1, 2, 4):
        micros = [iter(Micro(order, 8, 2, rank, processes, 5)) for rank in range(processes)]
        rows = [key for _ in range(3 * 4 // processes) for micro in micros for key in next(micro)]
        steps.append([sorted(rows[i : i + 8]) for i in range(0, 24, 8)])
    assert steps[0] == steps[1] == steps[2]


class Some:
    """So many rows, of shards or not."""

    def __init__(self, size, shards=None):
        self.size, self.shards = size, shards

    def __len__(self):
        return self.size


def test_text_without_shards_keeps_the_order_that_it_always_had():
    old, now = Order([50, 20], None, 42), order_of([Some(50), Some(20)], None, 42, "full")
    assert isinstance(now, Order)
    assert [now.at(i) for i in range(200)] == [old.at(i) for i in range(200)]
    assert [old.at(i) for i in range(6)] == [(0, 25), (0, 46), (0, 40), (0, 52), (0, 22), (0, 5)]  # as in 0.1.0


def test_shards_and_windows_take_the_order_without_memory():
    assert isinstance(order_of([Some(50, [0, 30, 50])], None, 1, "full"), KeyedOrder)
    assert order_of([Some(50, [0, 30, 50])], None, 1, "full").windows == 1
    windows = order_of([Some(50)], None, 1, "window")
    assert isinstance(windows, KeyedOrder)
    assert windows.by_window


def test_a_source_that_is_in_no_shards_is_cut_in_stretches():
    assert stretched(150_000) == [0, 65_536, 131_072, 150_000]
    assert stretched(0) == [0]
