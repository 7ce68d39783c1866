"""Two answers and a verdict, as arenas and crowds write them: SHP, LMSYS, AlpacaFarm, SafeRLHF, WebGPT, HelpSteer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.data.sources import Place
from llmkit.system.errors import DataError
from llmkit.tasks.shared.conversation import unwritten

ANSWER = re.compile(r"(human ref|response|answer|output|completion|conversation|conv|text|summary|reply|candidate"
                    r"|generation|assistant|resp|回答|回复|回覆|答案) ?([ab012])")
"""A column with one of two answers, in plain letters: response_a, human_ref_B, answer 0, output1."""
PAIRS = (("a", "b"), ("0", "1"), ("1", "2"))
"""What the two are told apart by."""
LISTS = ("completions", "responses", "answers", "summaries", "candidates", "outputs", "generations")
"""What a list of answers to one prompt is called (UltraFeedback, Nectar, summaries of OpenAI)."""
TEXTS = ("text", "response", "answer", "content", "output", "completion", "summary", "generation")
"""Where an answer of such a list has its text."""
HIGHER = ("overall score", "score", "rating", "reward", "fine grained score", "upvotes", "votes")
"""Figures of an answer that are better the higher they are."""
LOWER = ("rank", "ranking")
"""Figures that are better the lower they are."""
SIGNED = ("overall preference", "preference strength")
"""Below 0 the first is better, above 0 the second (HelpSteer)."""
VERDICTS = ("better response id", "better response", "preferred response", "winner", "preference", "preferred",
            "better", "chosen", "choice", "verdict", "vote", "selected", "labels", "label", "human preference",
            "更好", "偏好")
"""Columns that name the better one."""
TIES = ("tie", "tie (bothbad)", "bothbad", "both bad", "both", "neither", "equal", "same", "draw", "none", "a=b",
        "平局")
"""What they say where none is better."""
NAMED = re.compile(r"\[*(?:(?:model|assistant|response|answer|output|option|completion|human ref) ?)?([ab012])\]*")

Verdict = Callable[[Mapping[str, Any], Place], int | None]
"""Which of the two answers of a row is better, 0 or 1; None where neither is."""


@dataclass(frozen=True)
class Judged:
    """Where a table has two answers, and what says which is better."""

    answers: tuple[str, str]
    by: tuple[str, ...]
    verdict: Verdict

    def row(self, row: Mapping[str, Any], place: Place) -> dict[str, Any] | None:
        """{"prompt": "Q", "response_a": "x", "response_b": "y", "winner": "b"}  ->  {"prompt": "Q", "chosen": "y", …}

        None where neither is better.
        """
        better = self.verdict(row, place)
        if better is None:
            return None
        said = [row.get(name) for name in self.answers]
        rest = {name: value for name, value in row.items() if name not in (*self.answers, *self.by)}
        return whole({**rest, "chosen": said[better], "rejected": said[1 - better]})

    def note(self) -> str:
        """What is read as what."""
        first, second = self.answers
        says = "says" if len(self.by) == 1 else "say"
        return f"{' and '.join(map(repr, self.by))} {says} which is better, {first!r} or {second!r}"


def judged(columns: Sequence[Any]) -> Judged | None:
    """Where a table has two answers and what says which is better; None where it has none.

    ["prompt", "response_a", "response_b", "winner"]  ->  Judged(("response_a", "response_b"), ("winner",), …)
    """
    plain = {_plain(column): str(column) for column in reversed(columns)}
    for base, marks, two in _twos(plain):
        by = _verdict(plain, marks, base)
        if by is not None:
            return Judged(two, *by)
    return None


def _twos(plain: Mapping[str, str]) -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    """(what they are called, what tells them apart, both columns) of answers that are two."""
    found = {(match[1], match[2]): plain[name] for name in plain if (match := ANSWER.fullmatch(name))}
    return [(base, marks, (found[base, marks[0]], found[base, marks[1]])) for base, mark in found for marks in PAIRS
            if mark == marks[0] and (base, marks[1]) in found]


def undecided(columns: Sequence[Any]) -> str:
    """What to say of a table with two answers of which nothing says the better one; "" of any other."""
    two = next((two for _, _, two in _twos({_plain(column): str(column) for column in columns})), None)
    return "" if two is None else (
        f"{two[0]!r} and {two[1]!r} are two answers, and no column says which is better: winner, preference, or a "
        "score of each. If all rows have it in one of the two, name them chosen and rejected in data.train's `fields`.")


def _verdict(
    plain: Mapping[str, str], marks: tuple[str, str], base: str,
) -> tuple[tuple[str, ...], Verdict] | None:
    """(the columns that decide, how they do) of a table."""
    for stem in ("winner model", "winner", "win", "is better"):
        if all(two := _both(plain, stem, marks)):
            ties = tuple(plain[name] for name in ("winner tie", "winner tie bothbad", "tie") if name in plain)
            return (*two, *ties), _by_figures(two)
    if base == "human ref" and "labels" in plain:  # SHP: 1 where A is better
        return (plain["labels"],), _by_flag(plain["labels"])
    if (signed := next((plain[name] for name in SIGNED if name in plain), None)) is not None:
        return (signed,), _by_sign(signed)
    if (word := next((plain[name] for name in VERDICTS if name in plain), None)) is not None:
        return (word,), _by_name(word, marks)
    for sign, names in ((1, HIGHER), (-1, LOWER)):
        for stem in names:
            if all(two := _both(plain, stem, marks)):
                return two, _by_figures(two, sign)
    return None


def _both(plain: Mapping[str, str], stem: str, marks: tuple[str, str]) -> tuple[str, str]:
    """The columns of a figure of each answer: score_a and score_b, or score1 and score2; "" where there are none."""
    first, second = (plain.get(f"{stem} {mark}", plain.get(f"{stem}{mark}", "")) for mark in marks)
    return first, second


def _by_figures(two: tuple[str, str], sign: int = 1) -> Verdict:
    """The one with the higher figure; of sign -1, the lower one."""
    def higher(row: Mapping[str, Any], place: Place) -> int | None:
        first, second = (sign * _number(row.get(name), name, place) for name in two)
        return None if first == second else int(second > first)

    return higher


def _by_flag(column: str) -> Verdict:
    """The first where a column is 1, the second where it is 0."""
    def flagged(row: Mapping[str, Any], place: Place) -> int:
        number = _number(row.get(column), column, place)
        if number not in (0, 1):
            raise DataError(f"{place}: the field {column!r} is {row.get(column)!r}; it must be 0 or 1.")
        return 1 - int(number)

    return flagged


def _by_sign(column: str) -> Verdict:
    """The first where a number is below 0, the second where it is above."""
    def signed(row: Mapping[str, Any], place: Place) -> int | None:
        number = _number(row.get(column), column, place)
        return None if number == 0 else int(number > 0)

    return signed


def _by_name(column: str, marks: tuple[str, str]) -> Verdict:
    """The one that a word or a number names."""
    return lambda row, place: _named(row.get(column), column, marks, place)


def _named(said: Any, column: str, marks: tuple[str, str], place: Place) -> int | None:
    """Which one a word or a number names."""
    word = _plain(said) if isinstance(said, str) else said
    if word in TIES:
        return None
    if isinstance(word, str) and (graded := re.fullmatch(r"\[*([ab])([>=]+)([ab])\]*", word)):
        return None if ">" not in graded[2] else "ab".index(graded[1])
    number = _of_text(word)
    if number is not None and not isinstance(said, bool) and marks[0].isdecimal():
        first = int(marks[0])
        if first <= number <= first + 1:  # AlpacaEval's may be between the two
            return None if number == first + 0.5 else int(number > first + 0.5)
    match = NAMED.fullmatch(word) if isinstance(word, str) else None
    if match is not None and match[1] in marks:
        return marks.index(match[1])
    ways = " or ".join(map(repr, marks))
    more = "; a number doesn't say which it means" if number is not None and not marks[0].isdecimal() else ""
    raise DataError(f"{place}: the field {column!r} is {said!r}; it must name the better answer, {ways}, or be a tie"
                    f"{more}.")


def _number(said: Any, column: str, place: Place) -> float:
    number = _of_text(said)
    if number is None:
        raise DataError(f"{place}: the field {column!r} is {said!r}, which is no number.")
    return number


def _of_text(value: Any) -> float | None:
    """The number that a value is, a truth value too."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _plain(name: Any) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()


# ---- lists of answers ----


def ranked(row: Mapping[str, Any], place: Place) -> tuple[dict[str, Any] | None, str] | None:
    """The best and the worst of a list of answers, and what says so; (None, …) where all are as good.

    {"prompt": "Q", "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}]}
        ->  {"prompt": "Q", "chosen": "x", "rejected": "y"}

    None where a row has no such list.
    """
    name = next((name for name in LISTS if isinstance(row.get(name), list) and len(row[name]) > 1), None)
    if name is None:
        return None
    some = row[name]
    found = _figures(row, some)
    if found is None:
        return None
    by, figures, used = found
    texts = [next((one[key] for key in TEXTS if key in one), None) if isinstance(one, Mapping) else one for one in some]
    if any(figure is None for figure in figures):
        raise DataError(f"{place}: an answer of {name!r} has no {by!r}.")
    best, worst = (pick(range(len(some)), key=lambda i: figures[i] or 0) for pick in (max, min))
    rest = {key: value for key, value in row.items() if key not in (name, *used)}
    if figures[best] == figures[worst]:
        return None, by
    return whole({**rest, "chosen": texts[best], "rejected": texts[worst]}), by


def _figures(row: Mapping[str, Any], some: Sequence[Any]) -> tuple[str, list[float | None], tuple[str, ...]] | None:
    """(what it is called, how good each answer is, columns that said it); None where nothing says it."""
    plain = {_plain(name): name for name in row}
    for sign, names in ((1, HIGHER), (-1, LOWER)):
        for stem in names:
            inside = [_inside(one, stem) for one in some]
            if any(figure is not None for figure in inside):
                return stem, [None if figure is None else sign * figure for figure in inside], ()
            for key in (f"{stem}s", stem):
                values = row.get(plain.get(key, ""))
                if isinstance(values, list) and len(values) == len(some):
                    each = [_of_text(one) for one in values]
                    return key, [None if one is None else sign * one for one in each], (plain[key],)
    choice = next((plain[key] for key in ("choice", "label", "better", "preferred") if key in plain), None)
    number = None if choice is None else _of_text(row[choice])
    if choice is not None and len(some) == 2 and number in (0, 1):  # OpenAI's summaries: 0 where the first is better
        return choice, [1 - (number or 0), number], (choice,)
    return None


def _inside(one: Any, stem: str) -> float | None:
    if not isinstance(one, Mapping):
        return None
    return next((_of_text(value) for name, value in one.items() if _plain(name) == stem), None)


# ---- what was asked ----


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose prompt is one of its own fields, though it isn't called so; turns in lists become messages."""
    if isinstance(row.get("history"), str) and not {"prompt", "instruction", "question"} & row.keys():
        row = {**{name: value for name, value in row.items() if name != "history"}, "prompt": row["history"]}  # SHP
    if isinstance(context := unwritten(row.get("context")), list) and "prompt" not in row:
        row = {**{name: value for name, value in row.items() if name != "context"}, "prompt": context}  # HelpSteer 3
    for name in ("prompt", "question", "info"):  # WebGPT, OpenAI's summaries
        if isinstance(row.get(name), Mapping):
            inner = next((row[name][key] for key in ("full_text", "post", "text") if row[name].get(key)), row[name])
            row = {**{key: value for key, value in row.items() if key != name}, "prompt": inner}
    asked = unwritten(row.get("prompt"))
    if isinstance(asked, list) and asked and all(isinstance(one, str) for one in asked):  # LMSYS: lists of turns
        row |= {name: _turns(asked, row[name]) for name in ("chosen", "rejected")}
        del row["prompt"]
    return row


def _turns(asked: Sequence[str], said: Any) -> Any:
    """Questions and their answers as messages; what isn't an answer to each as it is."""
    said = unwritten(said)
    said = [said] if isinstance(said, str) and len(asked) == 1 else said
    if not isinstance(said, list) or len(said) != len(asked):
        return said
    return [message for question, answer in zip(asked, said, strict=True)
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})]


def part_early(row: Mapping[str, Any]) -> bool:
    """Whether two conversations differ before their last answer: then they answer two questions."""
    both = [unwritten(row.get(name)) for name in ("chosen", "rejected")]
    return all(isinstance(one, list) and len(one) > 1 for one in both) and both[0][:-1] != both[1][:-1]
