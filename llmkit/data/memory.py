"""Rows that are in the memory of a program, not in a file: a list, a data set, or a function that yields them."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np

from llmkit.data.fields import shown
from llmkit.data.files import Place
from llmkit.data.sources import Reader
from llmkit.recipe import Source
from llmkit.system.errors import DataError, RequestError

IN_MEMORY = "memory:"
"""What a recipe calls rows of a program by, before their SHA-256."""
BAD = b"bad\n"
"""What is hashed of a row that is left out."""
Given: TypeAlias = "Iterable[Mapping[str, Any] | str] | Callable[[], Iterable[Mapping[str, Any] | str]]"
"""What a program gives: a list of dicts or of texts, a `datasets.Dataset`, or a function that yields such rows."""


class MemoryRows:
    """Rows of a program, read from the first on at each pass; each time they must be the same.

    given    as `Given` says; a function is called anew at each pass
    label    what errors call it: `memory:train`, its third row `memory:train:3`
    spares   whether rows that JSON can't say are left out, where they are errors otherwise

    Raises RequestError where it is of another type, or can be gone through only once.
    """

    kind: ClassVar[str] = "memory"

    def __init__(self, given: Given, label: str, spares: bool = False) -> None:
        if isinstance(given, Iterator):
            raise RequestError(f"{label}: {_a(given)} can be gone through only once; give a list, or the function that "
                               "makes it.")
        if isinstance(given, str | bytes) or not (
            isinstance(given, Sequence) or callable(given) or _is_dataset(given)
        ):
            raise RequestError(f"{label}: rows are a list of dicts or of texts, a datasets.Dataset, or a function that "
                               f"yields them, not {_a(given)}.")
        self.given, self.label, self.spares = given, label, spares

    def rows(self, spare: Callable[[DataError], None]) -> Iterator[tuple[dict[str, Any], Place]]:
        """Each row with its number from 1; a text is {"text": …}.

        Raises DataError, with number and field, for a row that is no dict of what JSON can say (numbers, texts, truth
        values, null, lists and dicts of these), but where these are left out, and at the end where the rows aren't
        those of the first pass.
        """
        digest = hashlib.sha256()
        for row, place, written in self._written(spare if self.spares else None):
            digest.update(written)
            if row is not None:
                yield row, place
        if digest.hexdigest() != self._sha256:
            raise DataError(f"{self.label}: the rows are others than at first; they must be the same each time that "
                            "they are gone through.")

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the rows in their order, each as JSON with sorted keys and a line end."""
        return self._sha256

    def features(self) -> dict[str, Any] | None:
        """What a data set says of its columns: types, and the names of numbered classes."""
        features = self.given.features if _is_dataset(self.given) else None  # type: ignore[union-attr]
        return None if features is None else dict(features.to_dict())

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for _, _, written in self._written((lambda error: None) if self.spares else None):
            digest.update(written)
        return digest.hexdigest()

    def _written(
        self, spare: Callable[[DataError], None] | None,
    ) -> Iterator[tuple[dict[str, Any] | None, Place, bytes]]:
        """Each row as it is hashed; of one that is left out only that there was one."""
        rows = self.given() if callable(self.given) and not isinstance(self.given, Sequence) else self.given
        if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
            raise RequestError(f"{self.label}: the function must yield rows, dicts or texts; it gives {_a(rows)}.")
        for number, given in enumerate(rows, 1):
            place = Place(self.label, number)
            try:
                row = _row(given, place)
                written = _canonical(row, place)
            except DataError as error:
                if spare is None:
                    raise
                spare(error)
                yield None, place, BAD
            else:
                yield row, place, written


def _row(given: Any, place: Place) -> dict[str, Any]:
    """A text is {"text": …}; DataError for what is no dict either."""
    if not isinstance(given, str | Mapping):
        raise DataError(f"{place}: a row must be a dict or a text, not {shown(given)}.")
    return {"text": given} if isinstance(given, str) else {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """Numpy's numbers and arrays as Python's own, tuples as lists; anything else as it is."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return list(map(_plain, value)) if isinstance(value, tuple | list) else value


def _canonical(row: dict[str, Any], place: Place) -> bytes:
    """A row as one line of JSON, keys in order; DataError, with the field, for what JSON can't say."""
    try:
        if all(isinstance(name, str) for name in row):
            return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):
        pass  # which field it is takes longer to say
    for name, value in row.items():
        if not isinstance(name, str):
            raise DataError(f"{place}: the name of a field must be a text, not {shown(name)}.")
        try:
            json.dumps([name, value], ensure_ascii=False, sort_keys=True).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: the field {name!r} has the lone surrogate "
                            f"\\u{ord(error.object[error.start]):04x}, which is half a character.") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{place}: the field {name!r} must be text, a number, a list or a dict, as JSON has them, "
                            f"not {shown(value)}: {error}.") from error
    raise DataError(f"{place}: this row can't be written as JSON.")


def _is_dataset(given: object) -> bool:
    """Whether it is a data set of `datasets`: who has one has imported the library."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(given, library.Dataset | library.IterableDataset)


def _a(thing: object) -> str:
    kind = type(thing).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def memory_reader(
    rows: Given, label: str, fields: Mapping[str, str] | None = None, spares: bool = False, way_out: str = "",
) -> Reader:
    """Rows of a program as a source of a run: read like those of a file, document by document or row by row.

    rows     a list of dicts, [{"text": …, "label": …}, …], or of texts, each a document; a `datasets.Dataset`; or a
             function that yields such rows, which is called anew at each pass
    label    what errors and the run's record call it: `memory:train`, `memory:validation`
    fields   field -> the name that it has in the rows, as `fields` of a source in a recipe
    spares   whether bad rows are left out and noted, where they are an error otherwise; `way_out` is added to it

    The reader's `source.source` is `memory:` and the SHA-256 of the rows in their order, which is what a recipe
    records: all rows are gone through once here. Raises RequestError for what is no such thing or can be read only
    once (a generator: give the function), DataError, with the row's number and the field, for what JSON can't say.
    """
    memory = MemoryRows(rows, label, spares)
    source = Source(f"{IN_MEMORY}{memory.fingerprint()}", fields=dict(fields or {}))
    return Reader(source, label, origin=memory, spares=spares, way_out=way_out)


@dataclass(frozen=True)
class HeldRows:
    """Rows that are gone through as they are, once: those of a prediction."""

    kind: ClassVar[str] = "held"
    label: str
    given: Iterable[Mapping[str, Any]]

    def rows(self, spare: object = None) -> Iterator[tuple[dict[str, Any], Place]]:
        """Each row with its number from 1."""
        for number, row in enumerate(self.given, 1):
            yield dict(row), Place(self.label, number)

    def fingerprint(self) -> str:
        """It has none: nothing that is made of such rows is kept."""
        raise NotImplementedError

    def features(self) -> None:
        """It says nothing of its columns."""


def hold(
    rows: Iterable[Mapping[str, Any]], label: str = "rows", spares: bool = False, way_out: str = "",
) -> Reader:
    """Rows to predict, fields by their names; an error says which row of `label` it is about."""
    return Reader(Source(label), label, origin=HeldRows(label, rows), spares=spares, way_out=way_out)
