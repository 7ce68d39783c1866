"""Columns that are objects, as CAIL's meta: what is in them becomes columns, called by the way to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flat(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """A row with a column for each field of an object in it; what was chosen in Label Studio stays an object.

    {"fact": "…", "meta": {"accusation": ["theft"], "term": {"months": 2}}}
        ->  {"fact": "…", "meta.accusation": ["theft"], "meta.term.months": 2}
    """
    return dict(_fields(row, ""))


def _fields(row: Mapping[Any, Any], way: str) -> Iterator[tuple[Any, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping) and value and "choices" not in value:
            yield from _fields(value, f"{way}{name}.")
        else:
            yield (f"{way}{name}" if way else name), value
