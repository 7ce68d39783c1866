"""Test sets without labels: they are predicted, and training and evaluation say that nothing is there to learn."""

import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data.memory import memory_reader
from llmkit.data.sources import open_source
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError
from llmkit.tasks.classification import Classification
from llmkit.tasks.multiple_choice import MultipleChoice
from llmkit.tasks.shared.labels import NoLabelsError, is_blank, no_labels, refuse_unlabelled
from llmkit.tasks.summarization import Summarization


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 200)


def setup(tokenizer, labels=None, **more):
    return Setup(tokenizer, registry.find("backbones", "bert"), 32, "none", seed=0, labels=labels, **more)


def glue(*labels):
    return [{"sentence": f"a film {i}", "label": label, "idx": i} for i, label in enumerate(labels)]


@pytest.mark.parametrize(("answer", "blank"), [
    (-1, True), ("-1", True), (-1.0, True), (" -1 ", True), ("", True), (None, True), ("?", True), ("NaN", True),
    (0, False), (1, False), ("-", False), ("-2", False), (False, False), ([], False), ("no", False),
])
def test_what_says_that_there_is_no_answer(answer, blank):
    assert is_blank(answer) is blank


def test_it_is_said_in_one_line_what_such_a_split_is_for():
    assert no_labels(1821, -1) == (
        "this split has no labels: in all 1,821 rows -1 stands where one would be, as in test sets. `llmkit predict` "
        "says labels of such rows; to learn or to measure, take a split that has some.")
    assert no_labels(2, None).startswith("this split has no labels: in all 2 rows nothing stands where one would be")


@pytest.mark.parametrize(("answers", "known"), [([-1], ()), ([-1, 0], ()), ([], ()), (["-1", "-1"], ("-1", "1"))])
def test_labels_that_may_be_meant_are_left_alone(answers, known):
    refuse_unlabelled("test.tsv", answers, known)


def test_a_split_of_minus_one_is_no_training_data(write, wordpiece):
    with pytest.raises(NoLabelsError, match=r"rows\.jsonl: this split has no labels: in all 3 rows -1 stands"):
        Classification().prepare([write(glue(-1, -1, -1))], None, setup(wordpiece))


@pytest.mark.parametrize("label", [-1, "-1", -1.0])
def test_it_is_told_of_a_validation_set_with_labels_known_from_the_training_rows(tmp_path, write, wordpiece, label):
    held = tmp_path / "held.tsv"
    held.write_text(f"sentence\tlabel\nfine\t{label}\ndull\t{label}\n")
    with pytest.raises(NoLabelsError, match=r"held\.tsv: this split has no labels: in all 2 rows"):
        Classification().prepare([write(glue(0, 1, 0))], [open_source(Source(str(held)))], setup(wordpiece))


def test_it_is_told_of_numbers_too(write, wordpiece):
    number = setup(wordpiece, labels=("score",), problem="regression")
    with pytest.raises(NoLabelsError, match="has no labels"):
        Classification().prepare([write([{"text": "a", "label": -1.0}, {"text": "b", "label": -1.0}])], None, number)


def test_leaving_bad_rows_out_changes_nothing_about_it(wordpiece):
    rows = memory_reader(glue(-1, -1), "memory:train", {}, spares=True)
    with pytest.raises(NoLabelsError, match="has no labels"):
        Classification().prepare([rows], None, setup(wordpiece, labels=("0", "1")))


def test_a_model_that_knows_a_label_of_this_name_is_measured(write, wordpiece):
    known = setup(wordpiece, labels=("-1", "0", "1"))
    sets = Classification().prepare([write(glue(-1, -1))], None, known)
    assert [int(one["labels"][0]) for one in sets.train[0].features] == [0, 0]


def test_minus_one_among_zeros_and_ones_is_learned_and_said(write, wordpiece):
    sets = Classification().prepare([write(glue(-1, 0, 1, -1, 2))], None, setup(wordpiece))
    assert sets.facts["labels"] == ["-1", "0", "1", "2"]
    (note,) = [one for one in sets.notes if "-1, which" in one]
    assert note.startswith("2 rows have the label -1, which is learned like the others; where it stands for none")


def test_it_can_be_left_out_as_that_says(wordpiece):
    rows = memory_reader(glue(-1, 0, 1, -1), "memory:train", {}, spares=True)
    sets = Classification(labels=["0", "1"]).prepare([rows], None, setup(wordpiece))
    assert [row["label"] for row in sets.train[0].rows] == ["0", "1"]
    assert len(rows.bad) == 2


@pytest.mark.parametrize("label", ["", None, -1])
def test_choices_without_an_answer(write, label):
    rows = [{"ctx": "A man sits. He", "endings": ["runs.", "stands up."], "label": label}] * 3
    with pytest.raises(NoLabelsError, match=r"rows\.jsonl:1: .* This split has no labels: in all 3 rows"):
        MultipleChoice().read(write(rows))
    assert len(list(MultipleChoice().stream(write(rows), answered=False))) == 3


def test_texts_that_nobody_summed_up(write):
    rows = [{"text": "a long story", "summary": ""}, {"text": "another one", "summary": None}]
    with pytest.raises(NoLabelsError, match=r"the field 'summary' is empty\. This split has no labels: in all 2 rows"):
        Summarization().read(write(rows))


def test_one_row_without_an_answer_is_a_bad_row_as_before(write):
    rows = [{"text": "a", "label": ""}, {"text": "b", "label": "x"}]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the field 'label' is empty\.$"):
        Classification().read(write(rows))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the field 'label' is empty\.$"):
        Classification().read(write(rows[:1]))
