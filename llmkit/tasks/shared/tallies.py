"""A count of the answers of an evaluation: which labels were taken for which, by label, by length, the worst errors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmkit.tasks.shared.floors import one_answer

MOST_LABELS = 30
"""Labels of which a whole table is shown; of more, the pairs that are confused most."""
WORST, LETTERS, BANDS = 12, 300, 4
"""Errors that are shown, letters of their texts, and ranges of lengths."""
Tally = dict[str, Any]
"""What a page shows, as JSON has it."""


@dataclass(frozen=True)
class Judgement:
    """One row's: what it is, what was said of it, and at what loss."""

    row: Mapping[str, Any]
    said: Any
    """A label, several, or a number."""
    loss: float
    """In nats; of a number, its squared error."""
    tokens: int
    chance: float | None = None
    """The probability of the right answer, where there is one."""

    @property
    def right(self) -> bool:
        """Whether it is what the row says."""
        return bool(self.said == self.row["label"])


def outcomes(judged: Sequence[tuple[list[int], list[Any]]], sets: Sequence[Any]) -> Iterator[tuple[Any, Any, int]]:
    """(outcome, its example, tokens) of each row of features, in their order; of rows that weren't judged, none."""
    found = {row: outcome for rows, some in judged for row, outcome in zip(rows, some, strict=True)}
    first = 0
    for part in sets:
        for i, owner in enumerate(part.owners):
            if first + i in found:
                yield found[first + i], part.rows[owner], part.length(i)
        first += len(part)


def of_labels(answers: Sequence[Judgement], known: Sequence[str]) -> Tally:
    """Answers that are a label each."""
    pairs = Counter((str(answer.row["label"]), str(answer.said)) for answer in answers)
    labels = [label for label in known if any(label in pair for pair in pairs)]
    table = [[pairs[true, said] for said in labels] for true in labels]
    tally: Tally = {"rows": len(answers), "one_answer": one_answer([answer.said for answer in answers]),
                    "by_label": [by_label(label, table, i) for i, label in enumerate(labels)],
                    "by_length": by_length(answers), "worst": worst(answers)}
    if len(labels) <= MOST_LABELS:
        return {**tally, "labels": labels, "confusion": table}
    wrong = [(count, pair) for pair, count in pairs.items() if pair[0] != pair[1]]
    return {**tally, "confused": [{"is": true, "said": said, "times": count}
                                  for count, (true, said) in sorted(wrong, reverse=True)[:MOST_LABELS]]}


def by_label(label: str, table: Sequence[Sequence[int]], place: int) -> Tally:
    """Precision, recall and F1 of a label, from the table of what was said of what."""
    hits, there, said = table[place][place], sum(table[place]), sum(row[place] for row in table)
    return {"label": label, "rows": there, **rates(hits, there, said)}


def rates(hits: int, there: int, said: int) -> dict[str, float | None]:
    """Precision is undefined where a label was never said, recall where it is nowhere."""
    return {"precision": hits / said if said else None, "recall": hits / there if there else None,
            "f1": 2 * hits / (there + said) if there + said else None}


def of_several(answers: Sequence[Judgement], known: Sequence[str]) -> Tally:
    """Answers that are several labels each."""
    rows = []
    for label in known:
        there = [label in answer.row["label"] for answer in answers]
        said = [label in answer.said for answer in answers]
        hits = sum(a and b for a, b in zip(there, said, strict=True))
        rows.append({"label": label, "rows": sum(there), **rates(hits, sum(there), sum(said))})
    return {"rows": len(answers), "one_answer": one_answer([sorted(answer.said) for answer in answers]),
            "by_label": rows, "by_length": by_length(answers), "worst": worst(answers)}


def of_numbers(answers: Sequence[Judgement]) -> Tally:
    """Answers that are a number each."""
    return {"rows": len(answers), "one_answer": one_answer([round(answer.said, 6) for answer in answers]),
            "by_length": by_length(answers, numbers=True), "worst": worst(answers)}


def by_length(answers: Sequence[Judgement], numbers: bool = False) -> list[Tally]:
    """Accuracy, or the mean squared error of numbers, of the shorter and of the longer rows, so many in each range."""
    ordered = sorted(answers, key=lambda answer: answer.tokens)
    edges = [i * len(ordered) // BANDS for i in range(BANDS + 1)]
    out: list[Tally] = []
    for start, stop in pairwise(edges):
        band = ordered[start:stop]
        if not band:
            continue
        reach = f"{band[0].tokens} to {band[-1].tokens}" if band[0].tokens < band[-1].tokens else str(band[0].tokens)
        figure = {"error": sum(one.loss for one in band) / len(band)} if numbers else {
            "accuracy": sum(one.right for one in band) / len(band)}
        out.append({"tokens": reach, "rows": len(band), **figure})
    return out


def worst(answers: Sequence[Judgement]) -> list[Tally]:
    """The wrong answers with the largest loss, the largest first."""
    wrong = sorted((answer for answer in answers if not answer.right), key=lambda answer: -answer.loss)
    return [{"text": text_of(answer.row), "is": words(answer.row["label"]), "said": words(answer.said),
             **({} if answer.chance is None else {"chance": answer.chance}), "loss": answer.loss}
            for answer in wrong[:WORST]]


def text_of(row: Mapping[str, Any]) -> str:
    """The texts of a row, short enough to be looked through."""
    whole = " ‖ ".join(str(row[name]) for name in ("text", "text_pair") if row.get(name))
    return whole if len(whole) <= LETTERS else f"{whole[:LETTERS]}…"


def words(label: Any) -> str:
    """A label, several, or a number, in words."""
    if isinstance(label, float):
        return f"{label:.4g}"
    return ", ".join(map(str, label)) or "none" if isinstance(label, list) else str(label)


def nats(chance: float) -> float:
    """The loss of what had this probability."""
    return -math.log(max(chance, 1e-30))


def tallied(found: Sequence[tuple[Any, Mapping[str, Any], int, Mapping[str, Any]]], known: Sequence[str]) -> Tally:
    """Of classification's (chances, example, tokens, prediction); {} where there are none."""
    if not found:
        return {}
    kind, places = found[0][3], {label: place for place, label in enumerate(known)}
    if "label" in kind:
        chances = [outcome[places[row["label"]]] for outcome, row, _, _ in found]
        return of_labels([Judgement(row, said["label"], nats(chance), tokens, chance)
                          for chance, (_, row, tokens, said) in zip(chances, found, strict=True)], known)
    if "labels" in kind:
        return of_several([
            Judgement({**row, "label": sorted(row["label"])}, sorted(said["labels"]),
                   sum(nats(outcome[place] if label in row["label"] else 1 - outcome[place])
                       for label, place in places.items()), tokens)
            for outcome, row, tokens, said in found], known)
    return of_numbers([Judgement(row, said["score"], (said["score"] - row["label"]) ** 2, tokens)
                       for _, row, tokens, said in found])
