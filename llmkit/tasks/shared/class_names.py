"""Numbers of classes that a data set of a program has names for: `datasets.ClassLabel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmkit.data.sources import Reader


def class_names(reader: Reader) -> dict[str, list[str]]:
    """The names of classes by column, of the rows of a program: {"label": ["negative", "positive"]}."""
    if reader.origin is None or reader.origin.kind != "memory" or not reader.names_classes:
        return {}
    found = {column: _names(feature) for column, feature in (reader.origin.features() or {}).items()}
    return {column: names for column, names in found.items() if names}


def _names(feature: Any) -> list[str]:
    """The names of a column's classes, or of those in its lists; none where it has no classes."""
    if isinstance(feature, Mapping) and isinstance(feature.get("names"), list):
        return [str(name) for name in feature["names"]]
    inner = feature.get("feature") if isinstance(feature, Mapping) else None
    return _names(inner) if inner is not None else []


def named(row: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with names in the place of numbers; what is no number of a class stays, as -1 does."""
    return {column: _named(value, names[column]) if column in names else value for column, value in row.items()}


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):  # not zeros and ones at the places of labels
        return [_named(one, names) for one in value] if len(set(map(str, value))) == len(value) else value
    number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)
    return names[value] if number else value


def in_their_order(found: Sequence[str], reader: Reader) -> tuple[str, ...]:
    """All names of the column whose classes were found, as the data set has them; what was found where none has."""
    return next((tuple(names) for names in class_names(reader).values() if set(found) <= set(names)), tuple(found))


def by_number(readers: Sequence[Reader], known: Sequence[str] | None) -> list[Reader]:
    """The sources with numbers where a model that is there knows none of the names."""
    return [replace(reader, names_classes=False) if known is not None and not any(
        set(names) & set(known) for names in class_names(reader).values()) else reader for reader in readers]
