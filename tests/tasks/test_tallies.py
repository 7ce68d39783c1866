"""A count of answers, beside scikit-learn's."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from llmkit.tasks.base import Encoded
from llmkit.tasks.shared import tallies

KNOWN = ("a", "b", "c", "never")


def found(seed: int = 0, rows: int = 60) -> list[tuple[Any, dict[str, Any], int, dict[str, Any]]]:
    """Random answers to random rows: (chances, example, tokens, prediction)."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(rows):
        chances = [*rng.dirichlet([1, 1, 1]).tolist(), 0.0]
        label = str(rng.choice(["a", "b", "c"]))
        best = int(np.argmax(chances))
        out.append((chances, {"text": f"text {i}", "label": label}, int(rng.integers(3, 30)),
                    {"label": KNOWN[best], "score": chances[best]}))
    return out


def test_labels_are_counted_as_scikit_learn_counts_them() -> None:
    answers = found()
    tally = tallies.tallied(answers, KNOWN)
    true, said = [row["label"] for _, row, _, _ in answers], [one["label"] for *_, one in answers]
    assert tally["labels"] == ["a", "b", "c"]  # a label that is nowhere is in no table
    assert tally["confusion"] == confusion_matrix(true, said, labels=["a", "b", "c"]).tolist()
    theirs = np.array(precision_recall_fscore_support(true, said, labels=["a", "b", "c"])).T
    ours = [[row["precision"], row["recall"], row["f1"], row["rows"]] for row in tally["by_label"]]
    assert np.allclose(ours, theirs)


def test_lengths_share_the_rows_and_the_worst_errors_come_first() -> None:
    answers = found(1)
    tally = tallies.tallied(answers, KNOWN)
    assert [row["rows"] for row in tally["by_length"]] == [15, 15, 15, 15]
    right = sum(row["label"] == said["label"] for _, row, _, said in answers)
    assert sum(row["rows"] * row["accuracy"] for row in tally["by_length"]) == pytest.approx(right)
    losses = sorted((-math.log(max(chances[KNOWN.index(row["label"])], 1e-30)) for chances, row, _, said in answers
                     if row["label"] != said["label"]), reverse=True)
    assert [row["loss"] for row in tally["worst"]] == pytest.approx(losses[:12])
    assert tally["worst"][0]["chance"] == pytest.approx(math.exp(-losses[0]))


def test_many_labels_are_shown_by_what_is_confused_most() -> None:
    known = tuple(map(str, range(40)))
    rows = [([float(i == 0) for i in range(40)], {"text": "t", "label": label}, 5, {"label": "0", "score": 1.0})
            for label in (*known, "7")]
    tally = tallies.tallied(rows, known)
    assert "confusion" not in tally
    assert tally["confused"][0] == {"is": "7", "said": "0", "times": 2}
    assert tally["one_answer"] == "all 41 answers are the same: 0"


def test_several_labels_and_numbers() -> None:
    several = tallies.tallied([
        ([0.9, 0.2], {"text": "x", "label": ["b"]}, 4, {"labels": ["a"], "scores": {}}),
        ([0.9, 0.9], {"text": "y", "label": ["b", "a"]}, 5, {"labels": ["a", "b"], "scores": {}})], ("a", "b"))
    assert [(row["label"], row["rows"], row["precision"], row["recall"]) for row in several["by_label"]] == [
        ("a", 1, 0.5, 1.0), ("b", 2, 1.0, 0.5)]
    assert [row["text"] for row in several["worst"]] == ["x"]
    assert several["worst"][0]["loss"] == pytest.approx(-math.log(0.1) - math.log(0.2))
    numbers = tallies.tallied([([1.5], {"text": "x", "label": 1.0}, 4, {"score": 1.5})], ("score",))
    assert numbers["by_length"] == [{"tokens": "4", "rows": 1, "error": 0.25}]


def test_rows_that_were_not_judged_are_left_out() -> None:
    part = Encoded([{"input_ids": np.zeros(n)} for n in (3, 4, 5)], [{"text": t} for t in "xyz"])
    judged = [([2], ["second"]), ([0], ["first"])]
    assert [(outcome, row["text"], tokens) for outcome, row, tokens in tallies.outcomes(judged, [part])] == [
        ("first", "x", 3), ("second", "z", 5)]
