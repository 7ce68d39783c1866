"""The answer of a row: a label, a number, or several labels in a list, as text or as a 0 or 1 at the place of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmkit.data.sources import Place
from llmkit.system.errors import DataError
from llmkit.tasks.shared.lists import unwritten

HOT = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}
"""What may stand at the place of a label, and whether it says that the label is there."""


def answer(value: Any, problem: str, separator: str | None, place: Place) -> Any:
    """A row's answer as its problem has it: a name, a list of names, or a number."""
    if problem == "regression":
        number = finite(value)
        if number is None:
            raise DataError(f"{place}: the label {value!r} is no number; task.problem is regression.")
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
