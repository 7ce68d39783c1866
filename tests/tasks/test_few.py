"""Few rows a label: which are drawn, what is said of them, and that floors see the same rows and no more."""

import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

import llmkit
from llmkit import recipe
from llmkit.data.sources import Place
from llmkit.inference.evaluate import learned_rows
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.base import split
from llmkit.tasks.classification import Classification
from llmkit.tasks.shared.few import few_shots, rank, set_apart
from llmkit.tasks.shared.figures import as_seen

HERE = Place("rows.jsonl", None)


def read(*labels):
    """A row for each label, in one source."""
    return [({"text": f"text {number}", "label": label}, HERE) for number, label in enumerate(labels)]


def label_of(row):
    return row["label"] if isinstance(row["label"], list) else [row["label"]]


def test_so_many_rows_of_each_label_are_drawn_by_the_seed():
    rows = read(*"abc" * 40)
    (drawn,), said = few_shots([rows], 5, 1, label_of)
    assert sorted(row["label"] for row, _ in drawn) == list("aaaaabbbbbccccc")
    assert said == "data.shots: 5 rows a label, 15 of 120 training rows"
    assert drawn == [pair for pair in rows if pair in drawn]  # in the file's order
    assert few_shots([rows[::-1]], 5, 1, label_of)[0][0][::-1] == drawn  # whatever the order of the file is
    assert few_shots([rows], 5, 2, label_of)[0][0] != drawn


def test_the_rows_are_the_first_of_their_label_in_the_order_of_hashes():
    rows = read(*"ab" * 30)
    (drawn,), _ = few_shots([rows], 3, 7, label_of)
    for label in "ab":
        mine = sorted((row for row, _ in rows if row["label"] == label), key=lambda row: rank(repr(row), 7))
        assert {row["text"] for row in mine[:3]} == {row["text"] for row, _ in drawn if row["label"] == label}


def test_a_rare_label_has_all_its_rows_and_is_named():
    (drawn,), said = few_shots([read(*"aaaaaaaaab")], 4, 1, label_of)
    assert sorted(row["label"] for row, _ in drawn) == list("aaaab")
    assert said == "data.shots: 4 rows a label, 5 of 10 training rows; fewer there are of b"


def test_sources_are_counted_together_and_keep_their_own_rows():
    parts, said = few_shots([read(*"a" * 20), read(*"b" * 20), read(*"ab" * 10)], 6, 3, label_of)
    labels = [row["label"] for part in parts for row, _ in part]
    assert (labels.count("a"), labels.count("b"), len(parts)) == (6, 6, 3)
    assert "12 of 60" in said


def test_equal_rows_count_once():
    twice = [({"text": "the same", "label": "a"}, HERE)] * 9 + read("a", "b")
    (drawn,), _ = few_shots([twice], 2, 1, label_of)
    assert sorted(row["text"] for row, _ in drawn) == ["text 0", "text 1", "the same"]


def test_a_row_of_several_labels_counts_for_each():
    rows = read(*([["a", "b"]] * 10), *([["b"]] * 10), *([[]] * 10))
    (drawn,), _ = few_shots([rows], 4, 1, label_of)
    for label in ("a", "b"):
        assert sum(label in row["label"] for row, _ in drawn) >= 4
    assert sum(not row["label"] for row, _ in drawn) == 4
    assert len(drawn) <= 12


def test_without_labels_they_are_rows_in_all():
    (drawn,), said = few_shots([read(*"abcdefgh")], 3, 1, lambda row: ())
    assert len(drawn) == 3
    assert said == "data.shots: 3 of 8 training rows"


def test_a_number_of_validation_rows_is_the_same_for_every_seed():
    rows = read(*"ab" * 50)
    (learned,), (held,) = split([rows], 30, 1)
    assert (len(learned), len(held)) == (70, 30)
    assert split([rows], 30, 2) == ([learned], [held])
    assert {row["text"] for row, _ in split([rows[::-1]], 30, 2)[1][0]} == {row["text"] for row, _ in held}
    assert {row["text"] for row, _ in split([rows], 10, 2)[1][0]} < {row["text"] for row, _ in held}


def test_rows_that_belong_together_are_held_out_together():
    rows = [({"text": f"document {number // 4}", "label": "a"}, HERE) for number in range(40)]
    (learned,), (held,) = set_apart([rows], 10, lambda row: row["text"])
    assert len(held) == 12
    assert not {row["text"] for row, _ in held} & {row["text"] for row, _ in learned}


@pytest.mark.parametrize("count", [20, 21, 1000])
def test_to_hold_out_all_is_an_error(count):
    with pytest.raises(DataError, match=f"data.validation: {count:,} of 20 rows leaves one side empty; .* fewer rows: "
                       "--set data.validation=2\\."):
        split([read(*"ab" * 10)], count, 1)


def test_a_share_is_held_out_as_before():
    learned, held = split([read(*"ab" * 200)], 0.25, 5)
    assert 70 < len(held[0]) < 130
    assert len(learned[0]) + len(held[0]) == 400


@pytest.mark.parametrize(("problem", "label", "counted"), [
    ("single_label", 3, ["3"]), ("single_label", " good ", ["good"]), ("multi_label", ["x", "y"], ["x", "y"]),
    ("multi_label", [], ("none",)), ("regression", 0.5, ())])
def test_what_a_row_of_classification_counts_for(problem, label, counted):
    assert Classification(problem=problem).labels_of({"text": "t", "label": label}) == counted


# ---- in a run ----

@pytest.fixture
def topics(tmp_path):
    """A file with forty rows of each of two labels."""
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(json.dumps({"text": f"{word} number {number}", "label": word}) + "\n"
                            for number in range(40) for word in ("cats", "dogs")))
    return path


@pytest.fixture
def tree(topics, encoder, tmp_path):
    return {"name": "few", "backbone": {"pretrained": str(encoder)}, "task": "classification",
            "data": {"train": str(topics), "validation": 20, "shots": 4, "max_length": 16},
            "training": {"figures": False, "max_steps": 2, "global_batch_size": 4}, "output_dir": str(tmp_path / "run")}


def test_a_run_learns_from_few_and_says_so(tree, caplog):
    caplog.set_level("INFO", "llmkit")
    summary = llmkit.fit(tree)
    assert "data.shots: 4 rows a label, 8 of 60 training rows" in caplog.text
    assert "8 training rows" in caplog.text
    assert "20 validation rows" in caplog.text
    assert set(summary["floors"]) == {"majority class", "TF-IDF, logistic regression"}


def test_evaluate_has_the_floors_of_the_rows_that_the_run_learned_from(tree, topics):
    llmkit.fit(tree)
    asked = recipe.load(tree)
    rows = learned_rows(Classification(problem="single_label"), asked)
    assert sorted(row["label"] for row in rows) == ["cats"] * 4 + ["dogs"] * 4
    whole = learned_rows(Classification(problem="single_label"), replace(asked, data=replace(asked.data, shots=None)))
    assert len(whole) == 60
    assert all(row in whole for row in rows)
    assert llmkit.evaluate(tree["output_dir"], topics)["floors"]["TF-IDF, logistic regression"]["accuracy"] == 1.0


def test_other_shots_are_another_run(tree):
    llmkit.fit(tree)
    with pytest.raises(llmkit.LlmkitError, match=r"data\.shots"):
        llmkit.fit({**tree, "data": {**tree["data"], "shots": 5}})


def test_an_objective_has_no_shots(tmp_path):
    base = {"backbone": {"family": "gpt2", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
            "objective": "causal_lm", "training": {"max_steps": 1}}
    for data, said in (({"shots": 4}, "data.shots: rows are counted by the labels of a task"),
                       ({"validation": 10}, "data.validation: a number of rows is for tasks")):
        with pytest.raises(RequestError, match=said):
            recipe.load({**base, "data": {"train": "x.txt", **data}})


# ---- what floors see ----

def test_texts_end_where_the_model_stops_reading(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    text = "the cat sat on the mat and then it went away"
    rows = [{"text": text, "label": "a"}, {"text": "the cat", "label": "b"}]
    cut, whole = as_seen(rows, tokenizer, 8)
    assert whole == rows[1]
    assert text.startswith(cut["text"])
    assert len(cut["text"]) < len(text)
    assert tokenizer(cut["text"])["input_ids"] == tokenizer(text, truncation=True, max_length=8)["input_ids"]


def test_of_a_pair_both_texts_end_there(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    row = {"text": "the cat sat on the mat", "text_pair": "the dog ran to the cat and sat there", "label": "a"}
    (cut,) = as_seen([row], tokenizer, 11)
    pair = tokenizer(row["text"], row["text_pair"], truncation=True, max_length=11)["input_ids"]
    assert tokenizer(cut["text"], cut["text_pair"])["input_ids"] == pair
