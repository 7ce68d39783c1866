"""The contract of a task: an objective that also has fields, labels, predictions and metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llmkit.data.batches import Features
from llmkit.data.sources import Place, Reader, find_fields
from llmkit.errors import DataError
from llmkit.objectives.base import Objective, Sets, Setup

Row = dict[str, Any]


class Task(Objective):
    """What a model learns from labelled examples."""

    packings: ClassVar[tuple[str, ...]] = ("none",)
    wanted: ClassVar[Mapping[str, Sequence[str]]]
    """Fields that every row has, and other names that they go by."""
    optional: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Fields that a row may have."""

    def texts(self, reader: Reader) -> Iterator[str]:
        """What a tokenizer is trained on: every field of text of every row."""
        return (row[name] for row, _ in self.read(reader) for name in row if isinstance(row[name], str))

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Read all rows, hold some out, and turn each into features."""
        learned, held = [self.read(reader) for reader in train], []
        if isinstance(validation, float):
            parts = [hold_out(rows, validation, setup.seed) for rows in learned]
            learned, held = [part[0] for part in parts], [part[1] for part in parts]
            if not any(learned) or not any(held):
                raise DataError(f"data.validation: a share of {validation} of {sum(len(a) + len(b) for a, b in parts)} "
                                "rows leaves one side empty; give validation sources of its own, or a larger share.")
        elif validation:
            held = [self.read(reader) for reader in validation]
        for rows, what in ((learned, "data.train"), (held, "data.validation")):
            if (what == "data.train" or validation is not None) and not sum(map(len, rows)):
                raise DataError(f"{what}: no row is left to learn from.")
        notes: list[str] = []
        for rows, what in ((learned, "training"), (held, "validation")):
            longest = sum(map(len, rows))
            if longest:
                notes.append(f"{longest:,} {what} rows")
        cut: list[int] = []
        sets = [[Encoded(self.encode(rows, setup, cut) if rows else []) for rows in part] for part in (learned, held)]
        if cut:
            notes.append(f"{len(cut):,} rows are longer than {setup.max_length} tokens and were cut "
                         f"({sum(cut):,} tokens left out)")
        return Sets(sets[0], sets[1], notes)

    def read(self, reader: Reader) -> list[tuple[Row, Place]]:
        """The rows of a source, each with the fields of this task and nothing else."""
        columns: dict[str, str | int] = {}
        rows: list[tuple[Row, Place]] = []
        for row, place in reader.rows():
            if not columns:
                columns = self.columns(row, reader)
            fields = {name: row.get(column) for name, column in columns.items()}  # type: ignore[arg-type]
            rows.append((self.check(fields, columns, place), place))
        return rows

    def columns(self, row: Mapping[Any, Any], reader: Reader) -> dict[str, str | int]:
        """Which column of a file each field is."""
        return find_fields(list(row), self.wanted, self.optional, reader)

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Raise DataError, with file and line, where a row isn't what the task learns from."""
        for name in self.wanted:
            value = row[name]
            if value is None or (isinstance(value, str) and not value.strip()):
                raise DataError(f"{place}: the field {columns[name]!r} is empty.")
        return row

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Rows to features; the number of tokens that each row lost to max_length goes to `cut`."""
        raise NotImplementedError


class Encoded:
    """Examples that were turned into features once; nothing about them is chance."""

    def __init__(self, features: Sequence[Features]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def draw(self, row: int, rng: np.random.Generator) -> Features:
        """The features of a row."""
        return self.features[row]


def hold_out(
    rows: list[tuple[Row, Place]], share: float, seed: int, key: Callable[[Row], str] = repr,
) -> tuple[list[tuple[Row, Place]], list[tuple[Row, Place]]]:
    """(training, validation), drawn by a hash of seed and content: equal rows go together; one side may be empty."""
    held: list[tuple[Row, Place]] = []
    learned: list[tuple[Row, Place]] = []
    for row in rows:
        digest = hashlib.blake2b(f"{seed}\n{key(row[0])}".encode(errors="surrogatepass"), digest_size=8).digest()
        (held if int.from_bytes(digest, "little") < share * 2**64 else learned).append(row)
    return learned, held
