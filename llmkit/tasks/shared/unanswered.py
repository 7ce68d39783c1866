"""Rows whose answer isn't known: test sets come with -1, or nothing, in its place, because they are for predictions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from llmkit.system.errors import DataError

BLANKS = frozenset({"", "-1", "-1.0", "none", "null", "nan", "?"})
"""What stands where no answer is given: GLUE and its like have -1."""


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


def minus_one(answers: Sequence[Any], known: Collection[str]) -> list[str]:
    """A note where -1 is learned beside 0 and 1, for it may stand for no label."""
    count = sum(str(one).strip() in ("-1", "-1.0") for one in answers)
    return [f"{count:,} rows have the label -1, which is learned like the others; where it stands for none, as in "
            "SNLI, leave these rows out: task.labels without it, data.on_bad_row: skip"] if count and {
                "-1", "0", "1"} <= set(known) else []
