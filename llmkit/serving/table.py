"""A table of keys and values: a row for each text that is written, filled to its own length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from llmkit.backbones.kernels.packed_decoder import States
from llmkit.inference.writing.memory import pairs_of
from llmkit.system.devices import sent

ROOM = 128
"""Places that a table's rows get at a time."""


class TableLayer(CacheLayerMixin):
    """Keys and values of one attention: (rows, heads, places, width)."""

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, table: StateTable) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("a table's rows are filled before they are read")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Write a key and a value (rows, heads, 1, width) at each row's own next place; give all that there are."""
        table = self.table
        self.keys[table.rows, :, table.places] = key_states[:, :, 0]
        self.values[table.rows, :, table.places] = value_states[:, :, 0]
        return self.keys[: len(table.rows), :, : table.width], self.values[: len(table.rows), :, : table.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.table.width, 0

    def get_seq_length(self) -> int:
        return self.table.width - 1

    def get_max_length(self) -> int:
        return -1


class StateTable(Cache):
    """What a model remembers of the texts that it writes: a row each, filled to its own length."""

    def __init__(self, layers: int) -> None:
        self.parts = [TableLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.parts))
        self.filled: list[int] = []
        """Places in use, of each row."""
        self.rows = self.places = torch.empty(0, dtype=torch.long)
        self.width = 0

    def reserve(self, more: int, read: DynamicCache | States) -> None:
        """Make room for more rows like one that was read."""
        self._reserve(len(self.filled) + more, read.get_seq_length() + 1, pairs_of(read))

    def join(self, read: DynamicCache | States, copies: int) -> None:
        """Put what was read of a prompt into new rows."""
        length = read.get_seq_length()
        first = len(self.filled)
        sources = pairs_of(read)
        self._reserve(first + copies, length + 1, sources)
        for layer, (keys, values) in zip(self.parts, sources, strict=True):
            layer.keys[first : first + copies, :, :length] = keys
            layer.values[first : first + copies, :, :length] = values
        self.filled += [length] * copies

    def leave(self, row: int, clean: bool = False) -> None:
        """Free a row: the last one moves there. Where none is left, the memory is given back.

        `clean`: what is in it isn't finite, and no mask hides that from whoever has the row next.
        """
        last = len(self.filled) - 1
        length = self.filled[last]
        for layer in self.parts:
            if last == 0:
                layer.keys = layer.values = None
                continue
            if clean:
                layer.keys[row].zero_()
                layer.values[row].zero_()
            if row != last:
                layer.keys[row, :, :length] = layer.keys[last, :, :length]
                layer.values[row, :, :length] = layer.values[last, :, :length]
        self.filled[row] = length
        self.filled.pop()

    def copy(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """The keys and values of a row, (1, heads, filled, width) each, by layer."""
        here = slice(row, row + 1), slice(None), slice(self.filled[row])
        return [(layer.keys[here].clone(), layer.values[here].clone()) for layer in self.parts]

    def begin_step(self) -> None:
        """Make room for one more token in every row."""
        self.width = max(self.filled) + 1
        self._reserve(len(self.filled), self.width)
        device = self.parts[0].keys.device
        self.rows, self.places = torch.arange(len(self.filled), device=device), sent(self.filled, device)
        self.filled = [length + 1 for length in self.filled]

    def states(self) -> States:
        """The rows as they stood before the step that has begun, for a decoder to write into."""
        keys, values = [layer.keys for layer in self.parts], [layer.values for layer in self.parts]
        return States(keys, values, [length - 1 for length in self.filled])

    def _reserve(self, rows: int, places: int, like: list[tuple[Tensor, Tensor]] | None = None) -> None:
        for i, layer in enumerate(self.parts):
            for which, name in enumerate(("keys", "values")):
                old = vars(layer)[name]
                if old is not None and old.shape[0] >= rows and old.shape[2] >= places:
                    continue
                there = old if old is not None else like[i][which][:0, :, :0]  # type: ignore[index]
                size = max(rows, there.shape[0]), max(-(-places // ROOM) * ROOM, there.shape[2])
                new = there.new_zeros(size[0], there.shape[1], size[1], there.shape[3])  # a mask hides no NaN
                new[: there.shape[0], :, : there.shape[2]] = there
                setattr(layer, name, new)
