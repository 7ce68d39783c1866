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
CLASSES = tuple(map(frozenset, (
    ("entailment", "neutral", "contradiction", "not_entailment", "not entailment", "-"),
    ("positive", "negative", "neutral", "mixed", "pos", "neg", "neu", "very positive", "very negative"),
    ("acceptable", "unacceptable"), ("equivalent", "not_equivalent"), ("duplicate", "not_duplicate"), ("ham", "spam"),
    ("true", "false"), ("yes", "no", "maybe"),
    ("正面", "负面", "負面", "中性"), ("正向", "负向", "負向", "中性"),
    ("积极", "消极", "積極", "消極", "中性", "中立"),
    ("好评", "差评", "中评", "好評", "差評", "中評"), ("蕴含", "中立", "矛盾", "蘊含"), ("是", "否"), ("对", "错"))))
"""Names of classes that go together: a column of one of these is a label."""
MOST_CLASSES = 10
"""Numbers from 0, or 1, that a column of at most so many different ones has are classes."""
NAME_OF_ROW = re.compile(r"(?=[\x21-\x7e]*\d)[\x21-\x7e]{1,40}")
"""train-17, 00012b, q_5.1"""
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


def class_names(values: Sequence[Any]) -> bool:
    """Whether values are names of classes that go together, and not all one: entailment, neutral."""
    some = {value.strip().casefold() if isinstance(value, str) else "" for value in values}
    return len(some) > 1 and any(some <= names for names in CLASSES)


def _classes(values: Sequence[Any]) -> bool:
    """Whether a column has names of classes, or numbers of some from 0 or 1: ["0", "1", "0"]"""
    if class_names(values):
        return True
    some = {str(value).strip() for value in values}
    return len(some) <= MOST_CLASSES and some in ({str(i + first) for i in range(len(some))} for first in (0, 1))


def _names_rows(values: Sequence[Any]) -> bool:
    """Whether each row has a name of its own, with a digit and no spaces, or a number: train-17"""
    return len(set(values)) == len(values) > 1 and all(
        isinstance(value, str) and NAME_OF_ROW.fullmatch(value.strip()) for value in values)


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

    Of several of few values, the one with names or numbers of classes is the label: in CoLA 1, where 0 says the book.
    Where two are texts of much the same length, and one is a label, they are a pair with it; of any length where the
    label says whether the second follows from the first. What names rows, as train-17, is neither.
    """
    own = without_sources(columns)
    columns = own if any(text_size(values) and not label_like(values) for values in own.values()) else columns
    columns = {i: values for i, values in columns.items() if not _names_rows(values)} or columns
    named = [i for i, values in columns.items() if class_names(values)]
    few = named + [i for i, values in columns.items() if i not in named and label_like(values)
                   and not (named and len(set(values)) == len(values))]
    sizes = {i: size for i, values in columns.items() if len(set(values)) > 1 and (size := text_size(values))}
    ranked = sorted(sizes, key=lambda i: -sizes[i])
    many = [i for i in ranked if i not in few]
    if not ranked:
        return {}
    text = many[0] if many and 3 * sizes[many[0]] >= sizes[ranked[0]] else ranked[0]  # labels may have long names
    near = [i for i in many if i != text and LONGER * sizes[i] > sizes[text]]
    few = [i for i in few if i not in (text, *near)]
    few = few if len(few) == 1 else [i for i in few if _classes(columns[i])]
    follows = len(few) == 1 and CLASSES[0].issuperset(value.strip().casefold() for value in columns[few[0]])
    if len(many) == 2 and len(few) == 1 and (near or follows):
        first, second = sorted(many)
        return {"text": first, "text_pair": second, "label": few[0]}
    if near:
        return {}
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
