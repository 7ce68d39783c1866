"""Rows that are in the memory of a program, not in a file."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llmkit.data.files import Place
from llmkit.data.sources import Reader
from llmkit.recipe import Source


@dataclass(frozen=True)
class Held:
    """Rows that are gone through as they are."""

    kind: ClassVar[str] = "memory"
    label: str
    given: Iterable[Mapping[str, Any]]

    def rows(self) -> Iterator[tuple[dict[str, Any], Place]]:
        """Each row with its number from 1."""
        for number, row in enumerate(self.given, 1):
            yield dict(row), Place(self.label, number)

    def fingerprint(self) -> str:
        """It has none: what is done with such rows isn't kept."""
        raise NotImplementedError

    def features(self) -> None:
        """It says nothing of its columns."""


def hold(rows: Iterable[Mapping[str, Any]], label: str = "rows") -> Reader:
    """Rows in memory as a source, fields by their names; an error says which row of `label` it is about."""
    return Reader(Source(label), label, origin=Held(label, rows))
