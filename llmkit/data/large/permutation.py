"""Orders of any number of rows that take no memory: which row is the i-th is computed, not looked up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from math import isqrt

ROUNDS = 8
"""Of a Feistel network: 4 are enough for large halves (Luby and Rackoff 1988), small ones need more."""
WINDOW = 2**18
"""Rows that are mixed with each other where the order is by windows."""
STRETCH = 2**16
"""Rows that stay together, of a source that isn't in shards."""
ALL = 2**64 - 1


class Permutation:
    """The numbers 0 to n-1 in an order that a key decides: a Feistel network over a square that is walked in cycles.

    A number x below a² is a pair (x // a, x % a). Each round adds a hash of one half to the other modulo a, which can
    be undone, so the network permutes the square; where it leads out of 0 … n-1 it is applied again until it leads
    back in (cycle walking, Black and Rogaway 2002, §4). a² is at most n + 2√n + 1: seldom more than once.

    >>> [Permutation(5, (1, 2))(i) for i in range(5)]
    [1, 3, 4, 0, 2]
    """

    def __init__(self, n: int, key: Sequence[int]) -> None:
        self.n, self.half = n, isqrt(max(0, n - 1)) + 1
        seed = 0
        for part in key:
            seed = _mix(seed ^ _mix(part & ALL))
        self.keys = [_mix(seed + i) for i in range(ROUNDS)]
        self.odd = _mix(seed + ROUNDS) & 1
        """Whether 0 and 1 change places: rounds alone give one of the two halves of all permutations."""

    def __call__(self, i: int) -> int:
        """Which number is the i-th."""
        if not 0 <= i < self.n:
            raise IndexError(f"{i} is none of {self.n} numbers")
        half, n = self.half, self.n
        while True:
            left, right = divmod(i, half)
            for key in self.keys:
                left, right = right, (left + _mix(key ^ right)) % half
            i = left * half + right
            if i < 2 and half > 1:
                i ^= self.odd
            if i < n:
                return i


def _mix(x: int) -> int:
    """splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of x."""
    x = (x + 0x9E3779B97F4A7C15) & ALL
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ALL
    return x ^ (x >> 31)


class KeyedOrder:
    """An endless order, as `llmkit.data.batches.Order` is one, in which each row is computed and none is held.

    sizes     rows of each source
    weights   what of an epoch's rows is each one's; by its size where there are none
    edges     of each source, the number of each shard's first row and how many rows there are, as [0, 900, 1800, 2000];
              None where it isn't in shards
    window    rows that are mixed with each other; None: all of an epoch

    By windows, the shards of a source come in a new order in each pass, their rows one after the other; the sources go
    on side by side, each by its share, and what they have in a stretch of `window` rows is mixed. So a row is read near
    those before it, and still each pass is another order and each row comes once in it.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int,
        edges: Sequence[Sequence[int] | None] | None = None, window: int | None = None,
    ) -> None:
        self.sizes, self.seed, self.shares = list(sizes), seed, shares(sizes, weights)
        self.epoch_rows = sum(self.shares)
        self.offsets = [0, *accumulate(sizes)]
        self.windows = 1 if window is None else max(1, -(-self.epoch_rows // window))
        self.mixes = window is not None or len(sizes) > 1
        self.edges = [stretched(size) if given is None else [int(edge) for edge in given]
                      for size, given in zip(sizes, edges or [None] * len(sizes), strict=True)]
        self.by_window = window is not None
        self._mixed = lru_cache(maxsize=4)(self._mixing)
        self._rows = lru_cache(maxsize=4 * max(1, len(self.sizes)))(self._pass)
        self._shards = lru_cache(maxsize=2 * max(1, len(self.sizes)))(self._shards_of)

    def at(self, position: int) -> tuple[int, int]:
        """(pass, row): which row is the `position`-th to be seen, and for which time."""
        epoch, place = divmod(position, self.epoch_rows)
        k = self._window_of(place)
        before, counts = self._counts(k), self._counts(k + 1)
        place -= sum(before)
        if self.mixes:
            place = self._mixed(epoch, k, sum(counts) - sum(before))(place)
        source = 0
        while place >= counts[source] - before[source]:
            place -= counts[source] - before[source]
            source += 1
        nth, place = divmod(epoch * self.shares[source] + before[source] + place, self.sizes[source])
        row = self._by_shards(source, nth, place) if self.by_window else self._rows(source, nth)(place)
        return nth, self.offsets[source] + row

    def _counts(self, k: int) -> list[int]:
        """How many rows each source has before the k-th window of an epoch."""
        return [share * k // self.windows for share in self.shares]

    def _window_of(self, place: int) -> int:
        """Which window of its epoch a place is in."""
        k = min(self.windows - 1, place * self.windows // self.epoch_rows)
        while sum(self._counts(k)) > place:
            k -= 1
        while sum(self._counts(k + 1)) <= place:
            k += 1
        return k

    def _mixing(self, epoch: int, k: int, rows: int) -> Permutation:
        return Permutation(rows, (self.seed, 1, epoch, k))

    def _pass(self, source: int, nth: int) -> Permutation:
        return Permutation(self.sizes[source], (self.seed, 2, source, nth))

    def _shards_of(self, source: int, nth: int) -> tuple[list[int], list[int]]:
        """(the shards in the order of a pass, how many rows are before each)."""
        edges = self.edges[source]
        order = Permutation(len(edges) - 1, (self.seed, 3, source, nth))
        shards = [order(i) for i in range(len(edges) - 1)]
        return shards, [0, *accumulate(edges[shard + 1] - edges[shard] for shard in shards)]

    def _by_shards(self, source: int, nth: int, place: int) -> int:
        shards, before = self._shards(source, nth)
        number = bisect_right(before, place) - 1
        return self.edges[source][shards[number]] + place - before[number]


def shares(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """How many rows of an epoch are each source's; one that kept no row has no share."""
    if weights is None:
        return list(sizes)
    kept = [weight if size else 0.0 for weight, size in zip(weights, sizes, strict=True)]
    return [max(1, round(sum(sizes) * weight / sum(kept))) if weight else 0 for weight in kept]


def stretched(size: int) -> list[int]:
    """The edges of stretches of a source that isn't in shards: [0, 65536, 100000]"""
    return [*range(0, size, STRETCH), size]
