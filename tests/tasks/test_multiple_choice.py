"""Multiple choice: every choice is read with its question, and those of one question compete."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories, tiny

import llmkit
from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.inference import predict as prediction
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError
from llmkit.tasks.multiple_choice import MultipleChoice, series
from llmkit.training.fit import fit

FAMILIES = [name for name in registry.names("backbones")
            if "AutoModelForMultipleChoice" in registry.find("backbones", name).heads]


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 200)


def setup(tokenizer, family="bert", length=32):
    return Setup(tokenizer, registry.find("backbones", family), length, "none", 0)


def row(answer=1, **more):
    return {"question": "who ran .", "choices": ["a hat", "a dog", "the moon"], "answer": answer, **more}


def read(write, *rows, task=None, **fields):
    return [one for one, _ in (task or MultipleChoice()).read(write(rows, **fields))]


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [1, "1", 1.0, "B", "b", "a dog", " a dog "])
def test_the_right_one_is_given_by_number_letter_or_text(write, answer):
    assert read(write, row(answer)) == [row(1)]


def test_numbers_may_count_from_one(write):
    task = MultipleChoice(first=1)
    assert [one["answer"] for one in read(write, row(1), row("3"), task=task)] == [0, 2]
    said = task.combine([[0.1, 0.2, 0.7]], row(), None)
    assert said == {"answer": 3, "text": "the moon", "score": 0.7}
    assert task.metrics({}, [(said, row(2)), (said, row(1))]) == {"accuracy": 0.5}


@pytest.mark.parametrize(("columns", "choices", "answer"), [
    ({"ending0": "x", "ending1": "y", "label": 1}, ["x", "y"], 1),
    ({"A": "x", "B": "y", "C": None, "answer": "B"}, ["x", "y"], 1),
    ({"option_1": "x", "option_2": "y", "option_3": "z", "correct": 0}, ["x", "y", "z"], 0),
    ({"options": ["x", "y"], "gold": "y"}, ["x", "y"], 1),
    ({"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, None, None),
    ({"choices": {"text": ["x", "y"], "label": ["P", "Q"]}, "answerKey": "Q"}, ["x", "y"], 1),
])
def test_choices_are_a_list_or_numbered_columns(write, columns, choices, answer):
    if choices is None:  # 2 may be its own name, or a number from 0: there is no third
        assert read(write, {"question": "q", **columns})[0]["answer"] == 1
        return
    assert read(write, {"question": "q", **columns}) == [{"question": "q", "choices": choices, "answer": answer}]


def test_choices_in_a_table_have_a_separator(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,choices,answer\nwho,x | y,y\nwhat,p|q|r,0\n")
    rows = [one for one, _ in MultipleChoice(separator="|").read(open_source(Source(str(path))))]
    assert [(one["choices"], one["answer"]) for one in rows] == [(["x", "y"], 1), (["p", "q", "r"], 0)]


@pytest.mark.parametrize(("bad", "options", "message"), [
    (row(3), {}, "the answer 3 is none of the 3 choices: a number from 0 to 2, .* say task.first: 1"),
    (row("D"), {}, "the answer 'D' is none of the 3 choices: .* a letter from A to C, or the text of one.$"),
    (row("a cat"), {}, "the answer 'a cat' is none"),
    (row(0), {"first": 1}, "the answer 0 is none of the 3 choices: a number from 1 to 3"),
    (row("1", choices=["1", "2"]), {}, "the answer '1' may be choice 0 or 1, .* as a number or text; say task.answer"),
    (row("x", choices=["x", "x"]), {}, "the answer 'x' may be choice 0 or 1, counted from 0, as a text"),
    (row(choices=["x"]), {}, "1 choices; there must be two or more"),
    (row(choices="x|y"), {}, "1 choices; .* one string with task.separator"),
    (row(choices=["x", 5]), {}, "a choice is no text: 5"),
    (row(None), {}, "the field 'answer' is empty"),
    (row(question=7), {}, "the field 'question' is no text: 7"),
])
def test_what_has_no_right_choice_is_told_with_its_line(write, bad, options, message):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {message}"):
        read(write, row(2), bad, task=MultipleChoice(**options))


def test_an_ambiguous_answer_is_settled_by_the_recipe(write):
    bad = row("1", choices=["1", "2"])
    for how, right in (("number", 1), ("text", 0)):
        assert read(write, bad, task=MultipleChoice(answer=how))[0]["answer"] == right


# ---- features ---------------------------------------------------------------------------------------------------


def test_every_choice_is_a_pair_with_its_question(write, wordpiece):
    rows = [row(context=None), row(0, choices=["the moon", "a cat"], context="the cat saw")]
    sets = MultipleChoice().prepare([write(rows)], None, setup(wordpiece))
    batch = MultipleChoice().collate(sets.train[0].features, wordpiece)
    assert [wordpiece.decode([i for i in ids if i]) for ids in batch["input_ids"].tolist()] == [
        "[CLS] who ran. [SEP] a hat [SEP]", "[CLS] who ran. [SEP] a dog [SEP]", "[CLS] who ran. [SEP] the moon [SEP]",
        "[CLS] the cat saw [SEP] who ran. the moon [SEP]", "[CLS] the cat saw [SEP] who ran. a cat [SEP]"]
    assert (batch["choices"].tolist(), batch["labels"].tolist()) == ([3, 2], [1, 0])
    assert batch["token_type_ids"].shape == batch["input_ids"].shape
    assert MultipleChoice().targets(batch)["loss"] == 2


def test_a_choice_is_kept_whole_and_the_question_cut(write, wordpiece):
    long = row(question="the cat saw the moon and the cat saw the moon and the cat")
    sets = MultipleChoice().prepare([write([long])], None, setup(wordpiece, length=10))
    batch = MultipleChoice().collate(sets.train[0].features, wordpiece)
    assert batch["input_ids"].shape == (3, 10)
    assert all(wordpiece.decode(ids).endswith(f"[SEP] {one} [SEP]") for ids, one in
               zip(batch["input_ids"].tolist(), long["choices"], strict=True))


# ---- loss and figures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_transformers_own_and_missing_choices_change_nothing(write, family):
    from transformers import AutoModelForMultipleChoice

    kind, task = registry.find("backbones", family), MultipleChoice()
    tokenizer = tokenizers.train(stories(80), kind.tokenizer, 300, None, kind.special)
    torch.manual_seed(0)
    model = AutoModelForMultipleChoice.from_config(
        kind.config("tiny", SMALL[family] | STILL[family], tokenizer)).eval()
    rows = [row(1), row(2, question="who saw the moon ?"), row(1, choices=["a dog", "a cat"])]
    features = task.prepare([write(rows)], None, setup(tokenizer, family, 48)).train[0].features
    batch = task.collate(features[:2], tokenizer)
    with torch.no_grad():
        losses, chances = task.judge(model, batch, kind)
        whole = {name: batch[name].view(2, 3, -1) for name in ("input_ids", "attention_mask", "token_type_ids")
                 if name in batch}
        theirs = model(**whole, labels=batch["labels"])
        assert losses["loss"].item() == pytest.approx(2 * theirs.loss.item(), rel=1e-5)
        assert chances == [pytest.approx(one) for one in theirs.logits.softmax(-1).tolist()]
        uneven = task.collate(features, tokenizer)
        apart = sum(task.loss(model, task.collate([one], tokenizer), kind)["loss"].item() for one in features)
        assert task.loss(model, uneven, kind)["loss"].item() == pytest.approx(apart, rel=1e-5)
        assert task.predict(model, uneven, kind)[2][2] == 0


def test_floors_are_a_guess_the_longest_and_shared_words():
    rows = [{"question": "who saw the red hat ?", "choices": ["a red hat", "a very long answer"], "answer": 0},
            {"question": "what", "choices": ["a", "bb", "cccc", "d"], "answer": 2}]
    floors = MultipleChoice().floors([], rows)
    assert floors["a guess"] == {"accuracy": pytest.approx((1 / 2 + 1 / 4) / 2)}
    assert floors["the longest choice"] == {"accuracy": 0.5}
    assert floors["TF-IDF, cosine"]["accuracy"] >= 0.5


def test_a_run_predicts_the_choice_and_is_measured(choices: Path, tmp_path: Path) -> None:
    tree = tiny("bert", choices, tmp_path / "run", max_steps=3)
    del tree["objective"]
    tree["data"]["max_length"] = 48
    fit(recipe.load({**tree, "task": "multiple_choice"}))
    rows = [json.loads(line) for line in choices.read_text().splitlines()]
    unanswered = tmp_path / "rows.jsonl"
    unanswered.write_text("".join(
        json.dumps({name: one[name] for name in ("question", "choices")}) + "\n" for one in rows))
    said = list(prediction.predict(tmp_path / "run", unanswered, batch_size=5))
    assert all(one["choices"][there["answer"]] == there["text"] for one, there in zip(rows, said, strict=True))
    measured = llmkit.evaluate(tmp_path / "run", choices)
    right = np.mean([one["answer"] == there["answer"] for one, there in zip(rows, said, strict=True)])
    assert measured["metrics"]["accuracy"] == pytest.approx(right)
    assert set(measured["floors"]) == {"a guess", "the longest choice", "TF-IDF, cosine"}


@pytest.mark.parametrize(("row", "question", "context"), [
    # SWAG: what the choices go on from, and what comes before it
    ({"sent1": "A man walks.", "sent2": "He", "ending0": "sits.", "ending1": "runs.", "label": 1},
     "He", "A man walks."),
    ({"sent1": "A man walks.", "sent2": "", "ending0": "sits.", "ending1": "runs.", "label": 1}, "A man walks.", None),
    # COPA
    ({"premise": "It rained.", "question": "effect", "choice1": "It is wet.", "choice2": "It is dry.", "label": 0},
     "effect", "It rained."),
    # DREAM, SciQ
    ({"dialogue": "A: Hi.", "question": "Who?", "choice": ["A", "B"], "answer": 0}, "Who?", "A: Hi."),
])
def test_what_a_question_is_about_is_read(write, row, question, context):
    ((found, _),) = MultipleChoice().read(write(row))
    assert (found["question"], found.get("context")) == (question, context)


# ---- rows of others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "answer"), [
    ({"answerKey": "B", "question": {"question_concept": "cat", "stem": "who ran.", "choices": [
        {"label": "A", "text": "a dog"}, {"label": "B", "text": "a cat"}]}}, 1),
    ({"answerKey": "2", "question": {"stem": "who ran.", "choices": [
        {"text": "a dog", "label": "1"}, {"text": "a cat", "label": "2"}]}}, 1),
    ({"question": "who ran.", "answer": "P", "choices": [
        {"id": "Q", "content": "a dog"}, {"id": "P", "content": "a cat"}]}, 1),
    ({"question": "who ran.", "answer": "A", "options": {"A": "a dog", "B": "a cat"}}, 0),
    ({"question": {"text": "who ran."}, "answer": "a cat", "options": ["a dog", "a cat"]}, 1),
    ({"question": "who ran.", "label": 0, "choices": [{"text": "a dog"}, {"text": "a cat"}]}, 0),
])
def test_choices_with_names_of_their_own(write, given, answer):
    given = {"id": "7", **given}
    if given.get("answerKey") == "2":  # it is the name of the second, and may be the number of a third: there is none
        assert read(write, given)[0]["answer"] == 1
    assert read(write, given) == [{"question": "who ran.", "choices": ["a dog", "a cat"], "answer": answer}]


def test_a_nested_question_is_predicted_without_its_answer(write):
    rows = [{"id": "1", "question": {"stem": "who ran.", "choices": [{"label": "A", "text": "x"},
                                                                     {"label": "B", "text": "y"}]}}]
    assert [one for one, _ in MultipleChoice().stream(write(rows), answered=False)] == [
        {"question": "who ran.", "choices": ["x", "y"]}]


@pytest.mark.parametrize(("question", "message"), [
    ({"stem": "who?"}, "no column is called 'choices'"),
    ({"choices": [{"text": "x"}, {"text": "y"}]}, "no column is called 'question'"),
    ({"stem": "who?", "choices": [{"text": "x"}]}, "1 choices; there must be two or more"),
    ({"stem": "who?", "choices": [{"text": "x"}, {"label": "B"}]}, "a choice is no text: {'label': 'B'}"),
])
def test_what_a_nested_question_lacks_is_told(write, question, message):
    with pytest.raises(DataError, match=message):
        read(write, {"answerKey": "A", "question": question})


HUB = "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"


@pytest.mark.parametrize("first", [",", "index,", "Unnamed: 0,", ""])
def test_swag_as_the_hub_has_it(tmp_path, first):
    path = tmp_path / "swag.csv"
    lines = [f'{f"{i}," if first else ""}anetv_{i},{100 + i},A man walks. He,A man walks.,He,gold,"sits, {i}.",runs.,'
             f"flies.,sleeps.,{i % 4}" for i in range(6)]
    path.write_text("\n".join([f"{first}{HUB}", *lines]) + "\n")
    rows = [one for one, _ in MultipleChoice().read(open_source(Source(str(path))))]
    assert rows[1] == {"question": "He", "context": "A man walks.", "answer": 1,
                       "choices": ["sits, 1.", "runs.", "flies.", "sleeps."]}
    assert len(rows) == 6


@pytest.mark.parametrize(("columns", "found"), [
    (["0", "sent1", "ending0", "ending1"], ["ending0", "ending1"]),
    (["A", "B", "C", "1"], ["A", "B", "C"]),
    (["Option 1", "option 2", "b"], ["Option 1", "option 2"]),
    (["0", "1", "2"], ["0", "1", "2"]),
    (["text", "label"], []),
])
def test_choices_are_columns_that_are_called_alike(columns, found):
    assert series(columns) == found
