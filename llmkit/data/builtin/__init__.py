"""Text that every Python carries, so that a recipe runs with no download: the language reference and docstrings."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from llmkit.data.builtin.sets import SETS
from llmkit.data.files import Place
from llmkit.system.errors import RequestError, nearest


@dataclass(frozen=True)
class BuiltInRows:
    """A set as a source's origin; construct it through `named`."""

    kind: ClassVar[str] = "builtin"
    name: str
    """What stands after `builtin:`."""

    def rows(self, spare: object = None) -> Iterator[tuple[dict[str, Any], Place]]:
        """The rows of the set, each with its number from 1."""
        return rows(self.name)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the rows as this Python yields them."""
        return fingerprint(self.name)

    def features(self) -> None:
        """It says nothing of its columns."""


def names() -> tuple[str, ...]:
    """What can stand after `builtin:`."""
    return tuple(SETS)


def named(name: str) -> BuiltInRows:
    """The set of a name; RequestError where there is none."""
    _set(name)
    return BuiltInRows(name)


def describe(name: str) -> str:
    """One line on what a set holds, with its fields."""
    return inspect.getdoc(_set(name)) or ""


def rows(name: str) -> Iterator[tuple[dict[str, Any], Place]]:
    """The rows of a set, each with its number from 1; the same in the same order for the same Python.

    Raises RequestError for a name that isn't there (on the call, before the first row).
    """
    read = _set(name)
    return ((row, Place(f"builtin:{name}", number)) for number, row in enumerate(read(), 1))


def fingerprint(name: str) -> str:
    """SHA-256 (hex) of the rows as this Python yields them."""
    digest = hashlib.sha256()
    for row, _ in rows(name):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _set(name: str) -> Callable[[], Iterator[dict[str, Any]]]:
    if name not in SETS:
        raise RequestError(f"no built-in text is called {name!r}.{nearest(name, SETS)}")
    return SETS[name]
