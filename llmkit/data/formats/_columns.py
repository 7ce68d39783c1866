"""What columns hold, told from some of their values: text, a label, numbers, or what no field can be made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LABELS = frozenset({"label", "labels", "score"})
"""Fields that hold one of few values, or a number."""
LISTS = frozenset({"tokens", "tags", "choices", "answers", "messages"})
"""Fields that may hold a list, beside text."""
LONGER = 1.5
"""How many times as long as the next one the longest text must be, to be it without doubt."""


def number(value: Any) -> bool:
    """Whether a value is a number, or a text that is one: 3, -0.5, and 0,5 as half of the world writes it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        float(str(value).strip().replace(",", "."))
    except ValueError:
        return False
    return True


def text_size(values: Iterable[Any]) -> int:
    """Characters of all texts of a column; 0 where one is no text, or all are numbers."""
    some = [value for value in values if value not in (None, "")]
    if not all(isinstance(value, str) for value in some) or all(map(number, some)):
        return 0
    return sum(map(len, some))


def label_like(values: Sequence[Any]) -> bool:
    """Whether a column has few different values, and one in each row."""
    if not all(isinstance(value, str | int | float) and str(value).strip() for value in values):
        return False
    return 1 < len(set(values)) <= max(2, len(values) // 4)


def kinds(columns: Mapping[int, Sequence[str]]) -> dict[str, int]:
    """Which column is the text, by far the longest; and which the label, the only one of few values. Else neither."""
    few = [i for i, values in columns.items() if label_like(values)]
    sizes = {i: size for i, values in columns.items() if len(set(values)) > 1 and (size := text_size(values))}
    ranked = sorted(sizes, key=lambda i: -sizes[i])
    many = [i for i in ranked if i not in few]
    if not ranked:
        return {}
    text = many[0] if many and 3 * sizes[many[0]] >= sizes[ranked[0]] else ranked[0]  # labels may have long names
    if any(LONGER * sizes[i] > sizes[text] for i in many if i != text):
        return {}
    few = [i for i in few if i != text]
    return {"text": text, **({"label": few[0]} if len(few) == 1 else {})}


def fits(name: str, values: Sequence[Any]) -> bool:
    """Whether a column can be a field: none is an object; a label may be a number, words may be a list."""
    some = [value for value in values if value not in (None, "")]
    if name in LABELS:
        return bool(some) and all(isinstance(value, str | int | float | list) for value in some)
    return text_size(some) > 0 or (name in LISTS and any(isinstance(value, list) for value in some))


def likely(name: str, columns: Mapping[Any, Sequence[Any]]) -> Any | None:
    """The column that a field of this name is likeliest to be; None where none can be it.

    likely("text", {"ticket": ["7", "8"], "remark": ["It broke.", "It works."]})  ->  "remark"
    """
    able = {column: values for column, values in columns.items() if fits(name, values)}
    if name in LABELS:
        few = [column for column, values in able.items() if label_like(values)]
        return next(iter(few), None)
    return max(able, key=lambda column: text_size(able[column]), default=None)
