"""What columns hold, told from some of their values: text, a label, numbers, or what no field can be made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LABELS = frozenset({"label", "labels", "score"})
"""Fields that hold one of few values, or a number."""
LISTS = frozenset({"tokens", "tags", "choices", "answers", "messages"})
"""Fields that may hold a list, beside text."""
NO_TEXT = re.compile(
    r"https?://\S+|www\.\S+|\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?([ T]\d{1,2}:\d{2}\S*)?|[0-9a-fA-F-]{16,}")
"""A link, a date, or a long number of letters and digits."""
LICENCE = re.compile(r"(?i)\bCC[- ](BY|0)|licen[cs]e|attribution|©|copyright")
"""What a column that says whose a row is has in it."""
WORD = re.compile(r"[^\W\d_]+")
USUAL = 0.9
"""The share of rows in which a word must be, to be one that says nothing of a row."""
SHARED = 0.5
"""How much of a row must be such words."""
FEW = 20
"""Rows from which on it is no chance that they are much the same."""
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


def _counts(values: Sequence[Any]) -> bool:
    """Whether a column numbers rows: each has a number of its own."""
    return len(set(values)) == len(values) and all(map(number, values))


def says_where_from(values: Sequence[Any]) -> bool:
    """Whether a column says where rows are from: links, dates, or much the same words in each, as a licence has.

    CC-BY 2.0 (France) Attribution: tatoeba.org #538123 (CM) & #891077 (GlossaMatik)
    """
    some = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if len(some) < 2 or len(some) < len(values):
        return False
    if all(map(NO_TEXT.fullmatch, some)):
        return True
    words = [set(WORD.findall(value)) for value in some]
    common = Counter(word for each in words for word in each)
    usual = {word for word, count in common.items() if count >= USUAL * len(some)}
    shares = [sum(map(len, each & usual)) / (sum(map(len, each)) or 1) for each in words]
    licence = sum(LICENCE.search(value) is not None for value in some) >= USUAL * len(some)
    return len(set(some)) > 1 and sum(shares) / len(shares) > SHARED and (licence or len(some) >= FEW)


def without_sources(columns: Mapping[Any, Sequence[Any]]) -> dict[Any, Sequence[Any]]:
    """The columns that don't say where rows are from; all where none is left."""
    rest = {column: values for column, values in columns.items() if not says_where_from(values)}
    return rest or dict(columns)


def kinds(columns: Mapping[int, Sequence[str]]) -> dict[str, int]:
    """Which column is the text, by far the longest; and which the label, the only one of few values. Else neither.

    Where two are texts of much the same length, and one is a label, they are a pair with it.
    """
    columns = without_sources(columns)
    few = [i for i, values in columns.items() if label_like(values)]
    sizes = {i: size for i, values in columns.items() if len(set(values)) > 1 and (size := text_size(values))}
    ranked = sorted(sizes, key=lambda i: -sizes[i])
    many = [i for i in ranked if i not in few]
    if not ranked:
        return {}
    text = many[0] if many and 3 * sizes[many[0]] >= sizes[ranked[0]] else ranked[0]  # labels may have long names
    near = [i for i in many if i != text and LONGER * sizes[i] > sizes[text]]
    if len(near) == 1 and len(many) == 2 and len(few) == 1:
        first, second = sorted((text, *near))
        return {"text": first, "text_pair": second, "label": few[0]}
    if near:
        return {}
    few = [i for i in few if i != text]
    return {"text": text, **({"label": few[0]} if len(few) == 1 else {})}


def fits(name: str, values: Sequence[Any]) -> bool:
    """Whether a column can be a field: none is an object; a label may be a number, words may be a list."""
    some = [value for value in values if value not in (None, "")]
    if name in LABELS:
        return bool(some) and all(isinstance(value, str | int | float | list) for value in some)
    return text_size(some) > 0 or (name in LISTS and any(isinstance(value, list) for value in some))


def likely(name: str, columns: Mapping[Any, Sequence[Any]], first: bool = False) -> Any | None:
    """The column that a field of this name is likeliest to be; None where none can be it.

    first   whether it is the first that is a text, rather than the longest

    likely("text", {"ticket": ["7", "8"], "remark": ["It broke.", "It works."]})  ->  "remark"
    """
    able = {column: values for column, values in columns.items() if fits(name, values)}
    if name in LABELS:
        few = [column for column, values in able.items() if label_like(values)]
        return min(few, key=lambda column: _counts(able[column]), default=None)
    if first and able:
        return next((column for column, values in able.items() if not label_like(values)), next(iter(able)))
    return max(able, key=lambda column: text_size(able[column]), default=None)
