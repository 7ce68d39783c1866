"""The answer of a row: a label, a number, several labels in a list, as text or at the place of each; or none at all."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from llmkit.data.sources import Place, Reader
from llmkit.system.errors import DataError
from llmkit.tasks.shared.lists import unwritten

HOT = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}
"""What may stand at the place of a label, and whether it says that the label is there."""
COMMA = re.compile(r"[+-]?\d+,\d+")
"""A number whose decimals stand behind a comma."""
BLANKS = frozenset({"", "-1", "-1.0", "none", "null", "nan", "?"})
"""What stands where no answer is given: GLUE and its like have -1."""
LARGEST = 3.4e38
"""Numbers are learned in fp32, which ends there."""


def answer(value: Any, problem: str, separator: str | None, place: Place) -> Any:
    """A row's answer as its problem has it: a name, a list of names, or a number."""
    if problem == "regression":
        number = measured(value)
        if number is None:
            raise DataError(f"{place}: the label {value!r} is no number; task.problem is regression.")
        if abs(number) > LARGEST:
            raise DataError(f"{place}: the label {value!r} is too large to learn: fp32 ends at {LARGEST:g}. Give "
                            "it in a larger unit.")
        return number
    if problem == "multi_label":
        if isinstance(value, str):
            value = [part for part in value.split(separator) if part.strip()] if separator else [value]
        some = value if isinstance(value, list | tuple) else [value]
        return list(dict.fromkeys(_named(one, place) for one in some))
    return _named(value, place)


def _named(label: Any, place: Place) -> str:
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, str | int):
        raise DataError(f"{place}: the label {label!r} is neither a word nor a whole number.")
    try:
        return str(label).strip()
    except ValueError as error:  # Python writes no number of so many digits
        raise DataError(f"{place}: the label is a number of more than 4,300 digits; write it as a text.") from error


def measured(value: Any) -> float | None:
    """A finite number where one is meant, be its decimals behind a point or, as in much of the world, a comma."""
    return finite(value.replace(",", ".") if isinstance(value, str) and COMMA.fullmatch(value.strip()) else value)


def commas(answers: Sequence[Any]) -> list[str]:
    """A note where labels may be numbers with decimal commas: 4,5 may as well be the labels 4 and 5."""
    texts = [one.strip() for one in answers if isinstance(one, str)]
    some = [one for one in texts if COMMA.fullmatch(one)]
    if not some or len(texts) < len(answers) or not all(finite(one.replace(",", ".")) is not None for one in texts):
        return []
    return [f"{len(some):,} labels as {some[0]!r} are learned as names; where they are numbers with a decimal comma, "
            "say task.problem: regression, and where they are several labels, task.separator: ','"]


def finite(value: Any) -> float | None:
    """A finite number, also one that a table has as a string."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # no number, or one that no float can hold: 10**400
        return None
    return number if math.isfinite(number) else None


def each(label: Any) -> list[str]:
    """The labels of a row, be it one or several."""
    return label if isinstance(label, list) else [label]


def unwritten_label(value: Any, separator: str | None, place: Place) -> Any:
    """An answer as it is in a row, but a list that was written as text as that list: "['a', 'b']" is no label.

    DataError where such a list can't be read.
    """
    if not isinstance(value, str):
        return value
    if separator is not None and is_hot(parts := value.split(separator)):
        return parts
    try:
        found = unwritten(value, bare=separator is None)
    except ValueError as error:
        raise DataError(f"{place}: the label {value[:60]!r} is a list written as text, and {error}; write it as "
                        '["a", "b"], or as a|b with task.separator: "|".') from error
    return value if found is None else found


def is_hot(label: Any) -> bool:
    """Whether a label is a list of nothing but 0 and 1, two or more."""
    return isinstance(label, list) and len(label) > 1 and all(str(one).strip() in HOT for one in label)


def places(labels: Sequence[Any]) -> int | None:
    """How many labels have a place in lists of 0 and 1; None where lists name labels instead.

    [1, 0, 1], [0, 0, 1]  ->  3    [1], [0, 1]  ->  None: these are numbers of labels, none is there twice
    """
    lists = [label for label in labels if isinstance(label, list)]
    hot = [label for label in lists if is_hot(label)]
    sure = any(len({str(one) for one in label}) < len(label) for label in hot)
    if not hot or (not sure and (len(hot) < len(labels) or {len(label) for label in hot} != {2})):
        return None
    return Counter(map(len, hot)).most_common(1)[0][0]


def there(label: Any, names: Sequence[str], place: Place) -> list[str]:
    """The names of the labels that have a 1; DataError where it isn't a 0 or 1 for each.

    there([1, 0, 1], ["glad", "proud", "sad"])  ->  ["glad", "sad"]
    """
    if not is_hot(label) or len(label) != len(names):
        raise DataError(f"{place}: labels are lists of {len(names)} zeros and ones, one for each label; this is "
                        f"{label!r}.")
    return [name for name, one in zip(names, label, strict=True) if HOT[str(one).strip()]]


# ---- rows without an answer, as in test sets ----


class NoLabelsError(DataError):
    """No row of a source says what is to be learned or measured: leaving bad rows out would leave none."""


def is_blank(answer: Any) -> bool:
    """Whether an answer says that there is none: None, "", -1, "?"."""
    return answer is None or (isinstance(answer, str | int | float) and str(answer).strip().casefold() in BLANKS)


def no_labels(count: int, seen: Any) -> str:
    """Say that a source has no labels, and what can be done with it all the same."""
    what = "nothing stands" if seen is None or not str(seen).strip() else f"{seen} stands"
    return (f"this split has no labels: in all {count:,} rows {what} where one would be, as in test sets. "
            "`llmkit predict` says labels of such rows; to learn or to measure, take a split that has some.")


def refuse_unlabelled(name: str, answers: Sequence[Any], known: Collection[str] = ()) -> None:
    """NoLabelsError where each of several answers is -1, and no label is called so."""
    minus = len(answers) > 1 and all(str(one).strip() in ("-1", "-1.0") for one in answers)
    if minus and "-1" not in known:
        raise NoLabelsError(f"{name}: {no_labels(len(answers), -1)}")


def doubts(answers: Sequence[Any], known: Collection[str], single: bool) -> list[str]:
    """What labels may mean that isn't what they are learned as; `single`: a row has one."""
    return [*minus_one(answers, known), *(commas(answers) if single else ())]


def minus_one(answers: Sequence[Any], known: Collection[str]) -> list[str]:
    """A note where -1 is learned beside 0 and 1, or a dash beside others, for it may stand for no label."""
    dashes = sum(isinstance(one, str) and one.strip() == "-" for one in answers)
    if dashes and len(known) > 2:
        return [f"{dashes:,} rows have the label '-', which is learned like the others; where it stands for none, as "
                "in MNLI, leave these rows out: task.labels without it, data.on_bad_row: skip"]
    count = sum(str(one).strip() in ("-1", "-1.0") for one in answers)
    return [f"{count:,} rows have the label -1, which is learned like the others; where it stands for none, as in "
            "SNLI, leave these rows out: task.labels without it, data.on_bad_row: skip"] if count and {
                "-1", "0", "1"} <= set(known) else []


# ---- names of classes that a data set of a program has: `datasets.ClassLabel` ----


def class_names(reader: Reader) -> dict[str, list[str]]:
    """The names of classes by column, of a program's rows or a known set's: {"label": ["negative", "positive"]}."""
    if reader.origin is None or reader.origin.kind not in ("memory", "known") or not reader.names_classes:
        return {}
    found = {column: _classes(feature) for column, feature in (reader.origin.features() or {}).items()}
    return {column: names for column, names in found.items() if names}


def _classes(feature: Any) -> list[str]:
    """The names of a column's classes, or of those in its lists; none where it has no classes."""
    if isinstance(feature, Mapping) and isinstance(feature.get("names"), list):
        return [str(name) for name in feature["names"]]
    inner = feature.get("feature") if isinstance(feature, Mapping) else None
    return _classes(inner) if inner is not None else []


def named(row: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with names in the place of numbers; what is no number of a class stays, as -1 does."""
    return {column: _class(value, names[column]) if column in names else value for column, value in row.items()}


def _class(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):  # not zeros and ones at the places of labels
        return [_class(one, names) for one in value] if len(set(map(str, value))) == len(value) else value
    number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)
    return names[value] if number else value


def in_their_order(found: Sequence[str], reader: Reader) -> tuple[str, ...]:
    """All names of the column whose classes were found, as the data set has them; what was found where none has."""
    return next((tuple(names) for names in class_names(reader).values() if set(found) <= set(names)), tuple(found))


def by_number(readers: Sequence[Reader], known: Sequence[str] | None) -> list[Reader]:
    """The sources with numbers where a model that is there knows none of the names."""
    return [replace(reader, names_classes=False) if known is not None and not any(
        set(names) & set(known) for names in class_names(reader).values()) else reader for reader in readers]


def by_value(label: str) -> tuple[bool, Decimal, str]:
    """What labels are sorted by: whole numbers by their value, then words."""
    whole = re.fullmatch("-?[0-9]+", label) is not None
    return not whole, Decimal(label if whole else 0), label  # int() takes 4,300 digits at most
