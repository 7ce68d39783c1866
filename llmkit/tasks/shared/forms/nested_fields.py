"""Columns that are objects, as CAIL's meta: what is looked for in them becomes columns, called by the way to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def flat(row: Mapping[Any, Any], names: Collection[Any]) -> Mapping[Any, Any]:
    """A row with a column for each field of an object that holds one of the names; any other object stays whole.

    {"fact": "…", "meta": {"accusation": ["theft"], "term": {"months": 2}}, "source": {"id": 7}}, accusation
        ->  {"fact": "…", "meta.accusation": ["theft"], "meta.term.months": 2, "source": {"id": 7}}

    A name is that of a field, or the way to it (`meta.accusation`). What was chosen in Label Studio stays an object.
    """
    made: dict[Any, Any] = {}
    for name, value in row.items():
        inside = dict(_fields(value, f"{name}.")) if isinstance(value, Mapping) and "choices" not in value else {}
        opened = any(way in names or way.rpartition(".")[2] in names for way in inside)
        made |= inside if opened else {name: value}
    return made


def _fields(held: Mapping[Any, Any], way: str) -> Iterator[tuple[str, Any]]:
    for name, value in held.items():
        if isinstance(value, Mapping) and value:
            yield from _fields(value, f"{way}{name}.")
        else:
            yield f"{way}{name}", value
