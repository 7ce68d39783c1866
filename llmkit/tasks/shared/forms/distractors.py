"""The right answer in a column of its own, beside wrong ones: SWAG's whole file, SciQ, TruthfulQA, GPQA, quizzes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.data.sources import Place
from llmkit.system.errors import DataError
from llmkit.tasks.shared.lists import from_cell

RIGHT = ("gold_ending", "correct_answer", "right_answer", "best_answer", "correct_option", "correct", "gold_answer",
         "gold", "answer", "answer_text", "正确答案", "正確答案", "答案")
"""What the column of the right answer is called, beside wrong ones; the likelier names first."""
WRONG_LISTS = ("distractors", "incorrect_answers", "wrong_answers", "false_answers", "negatives", "干扰项", "錯誤答案",
               "错误答案")
"""What a list of the wrong ones is called."""
WRONG = re.compile(r"(?:distractor|distracter|incorrect(?: answer| option)?|wrong(?: answer| option)?|false(?: answer)?"
                   r"|干扰项|错误答案|錯誤答案) ?[0-9a-h]", re.I)
"""What a column with one of them is called: distractor-0, distractor1, Incorrect Answer 2."""


@dataclass(frozen=True)
class Apart:
    """Which columns hold the choices of a table with the right answer apart."""

    right: str
    wrong: tuple[str, ...]

    def row(self, row: Mapping[str, Any], place: Place, first: int, by: str) -> dict[str, Any]:
        """A row with its choices in a list, and which one is right.

        {"question": "2 + 2?", "correct_answer": "4", "distractor1": "3"}
            ->  {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}

        The order is that of a hash: were the right one always first, a model that can't tell them apart had found it.
        first   the number of the first choice
        by      how the answer is to be said: text, else its number
        """
        wrong = [one for name in self.wrong for one in _several(row.get(name), name, place)]
        right = row.get(self.right)
        rest = {name: value for name, value in row.items() if name not in (self.right, *self.wrong)}
        if not isinstance(right, str) or not right.strip():
            raise DataError(f"{place}: the field {self.right!r}, the right answer, is no text: {right!r}.")
        right = right.strip()
        texts = list(dict.fromkeys(str(one).strip() for one in wrong))
        if right in texts:
            raise DataError(f"{place}: {right!r} is the right answer and a wrong one.")
        choices = sorted([right, *texts], key=lambda text: hashlib.sha256(f"{rest}{text}".encode()).digest())
        return {**rest, "choices": choices, "answer": right if by == "text" else choices.index(right) + first}

    def note(self) -> str:
        """What is read as what."""
        wrong = ", ".join(map(repr, self.wrong))
        return (f"the right answer is the column {self.right!r}, the wrong ones are {wrong}; choices stand in the "
                "order of a hash")


def apart(columns: Sequence[Any]) -> Apart | None:
    """Which columns are the right answer and the wrong ones; None where a table has them in another way.

    ["question", "distractor1", "correct_answer", "support"]  ->  Apart("correct_answer", ("distractor1",))
    """
    plain = {_plain(column): column for column in reversed(columns)}
    right = next((plain[name] for name in map(_plain, RIGHT) if name in plain), None)
    wrong = [plain[name] for name in map(_plain, WRONG_LISTS) if name in plain]
    wrong = wrong[:1] or sorted((column for column in columns if WRONG.fullmatch(_plain(column))), key=str)
    return Apart(str(right), tuple(map(str, wrong))) if right is not None and wrong else None


def _plain(column: Any) -> str:
    return re.sub(r"[\s_-]+", " ", str(column)).strip().casefold()


def _several(value: Any, name: str, place: Place) -> list[Any]:
    """The wrong answers of a cell: one, or a list of them; empty ones are left out."""
    value = from_cell(value, f"the field {name!r}", place, bare=True)
    found = value if isinstance(value, list) else [value]
    for one in found:
        if one is not None and not isinstance(one, str):
            raise DataError(f"{place}: the field {name!r}, a wrong answer, is no text: {one!r}.")
    return [one for one in found if one is not None and one.strip()]
