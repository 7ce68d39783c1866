"""L: labels, numbers and texts that are fine for JSON and odd for all that counts them: they work, or end with 3."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import stories, tiny, write_rows
from sklearn.feature_extraction.text import TfidfVectorizer

from llmkit.cli import main
from llmkit.data.files import Place
from llmkit.inference.evaluate import real
from llmkit.system.errors import DataError
from llmkit.tasks.classification import Classification, by_words, of_several
from llmkit.tasks.multiple_choice import numbered
from llmkit.tasks.shared.figures import WORD, words_of
from llmkit.tasks.shared.labels import answer, finite

pytestmark = [pytest.mark.reliability, pytest.mark.quick]

LONG = "7" * 5000
Learn = Callable[..., tuple[int, str]]


@pytest.fixture
def learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Learn:
    """`learn(rows)`: (status, stderr) of a classifier of two steps, in run/; `task` says more of it."""
    def make(rows: list[dict[str, Any]], task: Any = "classification") -> tuple[int, str]:
        tree = {**tiny("bert", write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", max_steps=2), "task": task}
        tree["data"]["validation"] = 0.3
        del tree["objective"]
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
        status = main(["finetune", str(tmp_path / "r.yaml")])
        err = capsys.readouterr().err
        assert "unforeseen" not in err and "Traceback" not in err
        return status, err

    return make


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": one, "label": labels[i % len(labels)]} for i, one in enumerate(stories(40))]


# ---- labels ----

@pytest.mark.parametrize("labels", [
    (LONG, "b"), ("-" + LONG[:4400], "3"), ("0" * 5000, "1"), (10**400, "x"), (LONG, LONG + "1")],
    ids=["long", "negative", "zeros", "number", "two"])
def test_labels_of_thousands_of_digits_are_learned(labels: tuple[Any, ...], learn: Learn, tmp_path: Path) -> None:
    status, _ = learn(labelled(*labels))
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert status == 0 and sorted(config["id2label"].values()) == sorted(map(str, labels))


@pytest.mark.parametrize("labels", [(10**400, 0.5), (0.5, 10**400, 2)], ids=str)
def test_a_number_that_no_float_can_hold_is_none_beside_fractions(labels: tuple[Any, ...], learn: Learn) -> None:
    status, err = learn(labelled(*labels))
    assert status == 3 and "rows.jsonl:" in err.splitlines()[-1] and "0.5" in err.splitlines()[-1]


def test_a_number_of_more_digits_than_python_reads_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "more.jsonl"
    rows.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": ' + LONG + "}\n")
    tree = {**tiny("bert", rows, tmp_path / "run", max_steps=1), "task": "classification"}
    del tree["objective"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    assert main(["finetune", str(tmp_path / "r.yaml")]) == 3
    assert "more.jsonl:2: bad JSON" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("label", "problem"), [(10**4400, "single_label"), ([10**4400], "multi_label")],
                         ids=["one", "several"])
def test_in_memory_too(label: Any, problem: str) -> None:
    with pytest.raises(DataError, match=r"^rows:3: the label is a number of more than 4,300 digits"):
        answer(label, problem, None, Place("rows", 3))


@pytest.mark.parametrize(("value", "found"), [
    (10**400, None), (-10**400, None), ("1" * 400, None), (10**300, 1e300), ("1e999", None), ("0.5", 0.5), (True, None),
    (float("nan"), None)], ids=lambda value: str(value)[:12])
def test_a_finite_number_is_one_that_a_float_holds(value: Any, found: float | None) -> None:
    assert finite(value) == found


def test_regression_of_one_that_is_too_large_is_told(learn: Learn) -> None:
    status, err = learn(labelled(0.5, 1.5, 10**400), {"name": "classification", "problem": "regression"})
    assert status == 3 and "is no number" in err.splitlines()[-1]


def test_whole_numbers_are_in_the_order_of_their_values() -> None:
    rows = [({"text": "a", "label": one}, Place("x", 1)) for one in ("b", LONG, "10", "-" + LONG, "9", "a", "-1")]
    known = Classification(problem="single_label").known(rows, "x")
    assert known == ("-" + LONG, "-1", "9", "10", LONG, "a", "b")


@pytest.mark.parametrize(("said", "found"), [("1" * 5000, []), ("1", [1]), (" 01 ", [1]), (10**400, []), (1e300, [])],
                         ids=lambda said: str(said)[:8])
def test_a_choice_of_thousands_of_digits_is_none(said: Any, found: list[int]) -> None:
    assert numbered(said, 0, 4) == found


@pytest.mark.parametrize("where", [LONG, 10**400, "²", -10**400], ids=lambda where: str(where)[:8])
def test_an_answer_that_starts_there_is_told(where: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "qa.jsonl", [
        {"question": "Who?", "context": one, "answers": [{"text": "cat", "answer_start": where}]}
        for one in stories(20)])
    tree = {**tiny("bert", rows, tmp_path / "run", max_steps=1), "task": "question_answering"}
    del tree["objective"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    status, err = main(["finetune", str(tmp_path / "r.yaml")]), capsys.readouterr().err
    assert status == 3 and "unforeseen" not in err and "qa.jsonl" in err


@pytest.mark.parametrize("score", [10**400, LONG, "x", None], ids=lambda score: str(score)[:8])
def test_a_score_that_no_float_holds_is_told(score: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "sts.jsonl", [
        {"sentence1": one, "sentence2": one, "score": score} for one in stories(20)])
    tree = {**tiny("bert", rows, tmp_path / "run", max_steps=1), "task": "similarity"}
    del tree["objective"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    status, err = main(["finetune", str(tmp_path / "r.yaml")]), capsys.readouterr().err
    assert status == 3 and "sts.jsonl:1" in err.splitlines()[-1]


# ---- several labels ----

@pytest.mark.parametrize("labels", [(["x"], []), ([], [], ["x"]), (["x"],)], ids=str)
def test_several_labels_may_be_one(labels: Any, learn: Learn, tmp_path: Path) -> None:
    status, _ = learn(labelled(*labels))
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert status == 0 and set(found["evaluation"]) == {"loss", "accuracy", "f1", "f1_micro"}


def test_but_not_none(learn: Learn) -> None:
    status, err = learn(labelled([]))
    assert status == 3 and err.splitlines()[-1].endswith("no row has a label.")


def test_rows_without_labels_are_evaluated(
    learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn(labelled(["x"], ["y"], ["x", "y"], []))[0] == 0
    rows = write_rows(tmp_path / "none.jsonl", labelled([])[:5])
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(rows), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {"loss", "accuracy", "f1", "f1_micro"}


@pytest.mark.parametrize(("said", "true", "expected"), [
    ([[], []], [[], []], (1.0, 0.0, 0.0)), ([["a"], []], [[], []], (0.5, 0.0, 0.0)),
    ([["a"], [], ["a"]], [["a"], [], []], (2 / 3, 2 / 3, 2 / 3)), ([["a"], ["a"]], [["a"], ["a"]], (1.0, 1.0, 1.0)),
    ([["a"], ["b"]], [["a", "b"], ["b"]], (0.5, (1 + 2 / 3) / 2, 4 / 5))], ids=str)
def test_figures_of_several_labels_by_hand(said: Any, true: Any, expected: tuple[float, ...]) -> None:
    """F1 is 2tp / (2tp + fp + fn), of a label; over all labels, of the sums."""
    found = of_several(said, true)
    assert (found["accuracy"], found["f1"], found["f1_micro"]) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[["x"], []] * 6, [["x"], ["y"]] * 6], ids=["one", "two"])
def test_the_floor_of_several_labels_says_lists_of_them(labels: list[list[str]]) -> None:
    rows = [{"text": f"word{i % 2} and more"} for i in range(12)]
    assert by_words(rows, labels, rows, "multi_label") == labels


# ---- texts without a word ----

WORDLESS = ["!!!", "???", "…", "😀😀"]


def test_texts_without_a_word_are_learned_and_the_floor_says_so(learn: Learn, tmp_path: Path) -> None:
    status, err = learn([{"text": WORDLESS[i % 4] * (1 + i // 4), "label": "ab"[i % 2]} for i in range(60)])
    floors = json.loads((tmp_path / "run" / "summary.json").read_text())["floors"]
    assert status == 0 and list(floors) == ["majority class"]
    assert err.count("no text has a word: there is no floor from TF-IDF") == 1


@pytest.mark.parametrize("task", ["similarity", "multiple_choice"])
def test_so_are_pairs_and_choices(task: str, tmp_path: Path) -> None:
    rows = [{"sentence1": WORDLESS[i % 4] * (1 + i), "sentence2": WORDLESS[i % 3], "score": i % 5} for i in range(40)]
    if task == "multiple_choice":
        rows = [{"question": "?" * (1 + i), "choices": ["!", "…"], "answer": i % 2} for i in range(40)]
    with (tmp_path / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    tree = {**tiny("bert", tmp_path / "rows.jsonl", tmp_path / "run", max_steps=1), "task": task}
    tree["data"]["validation"] = 0.3
    del tree["objective"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    assert main(["finetune", str(tmp_path / "r.yaml")]) == 0
    assert "TF-IDF, cosine" not in json.loads((tmp_path / "run" / "summary.json").read_text())["floors"]


@pytest.mark.parametrize("texts", [[], ["!!!"], ["", "…"]], ids=str)
def test_no_words_make_no_table(texts: list[str]) -> None:
    assert words_of(texts) is None


@pytest.mark.parametrize("longest", [1, 2])
def test_words_are_those_of_scikit_learn(longest: int) -> None:
    texts = [*stories(30), "!!!", "猫坐在垫子上"]
    found = words_of(iter(texts), longest)
    theirs = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, longest), sublinear_tf=True).fit(texts)
    assert found is not None and found.vocabulary_ == theirs.vocabulary_
    assert np.array_equal(found.transform(texts).toarray(), theirs.transform(texts).toarray())


# ---- figures that aren't defined ----

def test_a_figure_that_is_not_defined_is_null_in_json(caplog: pytest.LogCaptureFixture) -> None:
    assert real({"loss": 0.5, "mine/pearsonr": float("nan")}) == {"loss": 0.5, "mine/pearsonr": None}


def test_a_table_of_odd_labels_goes_through_all_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "rows.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([one, [LONG, "1e999"][i % 2]] for i, one in enumerate(stories(40)))
    tree = {**tiny("bert", tmp_path / "rows.csv", tmp_path / "run", max_steps=1), "task": "classification"}
    del tree["objective"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    assert main(["finetune", str(tmp_path / "r.yaml")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "rows.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 40
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "rows.csv")]) == 0
    assert {json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()} <= {LONG, "1e999"}
