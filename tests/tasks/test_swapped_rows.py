"""Rows of tasks with words swapped (data.augment): labels, answers' places and tags stay right."""

import json

import pytest
from conftest import tiny

import llmkit
from llmkit import recipe as recipes
from llmkit.data.sources import Place, open_source
from llmkit.data.swapping.doubling import doubled_rows
from llmkit.data.swapping.pairs import read_swaps
from llmkit.inference.evaluate import learned_rows
from llmkit.planning.inspect import inspect
from llmkit.planning.settle import swapping
from llmkit.recipe import Augment, Source, registry
from llmkit.tasks.question_answering import moved

HERE = Place("rows.jsonl", None)


@pytest.fixture
def swaps(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("he, she\nhis, her\nking, queen\nold man, old woman\ngrand father, grandmother\n"
                    "他, 她\n先生, 女士\n", encoding="utf-8")
    return read_swaps(str(path))


def swapped(name, row, swaps, **options):
    return registry.find("tasks", name)(**options).swapped(row, swaps)


def test_labels_and_numbers_stay_and_all_texts_are_swapped(swaps):
    assert swapped("classification", {"text": "He ran", "text_pair": "a king", "label": "he"}, swaps) == {
        "text": "She ran", "text_pair": "a queen", "label": "he"}
    assert swapped("multiple_choice", {"question": "Who is he?", "choices": ["a king", "a cat"], "answer": 1},
                   swaps) == {"question": "Who is she?", "choices": ["a queen", "a cat"], "answer": 1}
    assert swapped("similarity", {"sentence1": "He", "sentence2": "a king", "negatives": ["his"], "score": 0.5},
                   swaps) == {"sentence1": "She", "sentence2": "a queen", "negatives": ["her"], "score": 0.5}
    assert swapped("summarization", {"text": "He ran.", "summary": "He"}, swaps) == {"text": "She ran.",
                                                                                    "summary": "She"}


def test_a_translation_is_swapped_on_both_sides_or_not_at_all(swaps):
    assert swapped("translation", {"source": "He ran", "target": "他跑了"}, swaps) == {
        "source": "She ran", "target": "她跑了"}
    assert swapped("translation", {"source": "He ran", "target": "Il courait"}, swaps) is None
    assert swapped("translation", {"source": "A cat", "target": "Un chat"}, swaps) == {
        "source": "A cat", "target": "Un chat"}


@pytest.mark.parametrize(("words", "found"), [
    (["He", "saw", "his", "cat", "."], ["She", "saw", "her", "cat", "."]),
    (["The", "old", "man", "ran"], ["The", "old", "woman", "ran"]),
    (["grand", "father"], None),
    (["a", "grandmother"], ["a", "grand father"]),
    (["王", "先", "生", "和", "他"], ["王", "女", "士", "和", "她"]),
    (["王", "先生"], ["王", "女士"]),
    (["iPhone", "he", "他们", "x"], ["iPhone", "she", "她们", "x"]),
    (["he", "he", "he"], ["she", "she", "she"]),
    (["nobody"], ["nobody"]),
])
def test_each_word_keeps_its_tag(words, found, swaps):
    row = {"tokens": words, "tags": [str(i) for i in range(len(words))]}
    assert swapped("tagging", row, swaps) == (None if found is None else {**row, "tokens": found})


def test_answers_are_where_they_stand_in_the_swapped_context(swaps):
    context = "He said that his king saw the grand father of a grandmother."
    answers = ["He", "his king", "the grand father", "grandmother.", "saw the"]
    row = {"id": "1", "question": "Who saw his cat?", "context": context,
           "answers": [{"text": text, "answer_start": context.find(text)} for text in answers]}
    found = swapped("question_answering", row, swaps)
    assert found["context"] == "She said that her queen saw the grandmother of a grand father."
    assert found["question"] == "Who saw her cat?"
    assert [one["text"] for one in found["answers"]] == ["She", "her queen", "the grandmother", "grand father.",
                                                         "saw the"]
    for one in found["answers"]:
        start = one["answer_start"]
        assert found["context"][start : start + len(one["text"])] == one["text"]


def test_an_answer_that_ends_within_a_phrase_leaves_its_row_as_it_is(swaps):
    row = {"question": "?", "context": "the grand father", "answers": [{"text": "grand", "answer_start": 4}]}
    assert swapped("question_answering", row, swaps) is None
    assert swapped("question_answering", {"question": "he?", "context": "a cat", "answers": []}, swaps) == {
        "question": "she?", "context": "a cat", "answers": []}
    assert [moved(place, [(2, 4, "she"), (6, 8, "")]) for place in (0, 2, 3, 4, 6, 8, 9)] == [
        0, 2, None, 5, 7, 7, 8]


TALK = [{"role": "system", "content": "He helps."}, {"role": "user", "content": "Is he a king?"},
        {"role": "assistant", "content": "He is.", "reasoning_content": "his crown"}]


def test_what_is_said_and_thought_in_a_conversation_is_swapped(swaps):
    assert swapped("instruction", {"messages": TALK}, swaps) == {"messages": [
        {"role": "system", "content": "She helps."}, {"role": "user", "content": "Is she a queen?"},
        {"role": "assistant", "content": "She is.", "reasoning_content": "her crown"}]}
    assert swapped("preference", {"messages": TALK[:2], "chosen": "He is.", "rejected": TALK[2]}, swaps) == {
        "messages": [{"role": "system", "content": "She helps."}, {"role": "user", "content": "Is she a queen?"}],
        "chosen": "She is.",
        "rejected": {"role": "assistant", "content": "She is.", "reasoning_content": "her crown"}}


def test_a_conversation_that_calls_tools_stays_as_it_is(swaps):
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    told = [{"role": "user", "content": "Who is he?"}, call, {"role": "tool", "content": "a king"}]
    assert swapped("instruction", {"messages": told}, swaps) is None
    plain = [{"role": "user", "content": "Who?"}, call, {"role": "tool", "content": "a cat"}]
    assert swapped("instruction", {"messages": plain}, swaps) == {"messages": plain}


def test_rows_that_cant_be_swapped_are_counted_with_the_reason(swaps, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"source": "He", "target": "Il"}\n')
    readers = swapping([open_source(Source(str(path)))], Augment(swaps.path))
    task = registry.find("tasks", "translation")()
    rows = [({"source": "He", "target": "Il"}, HERE), ({"source": "he", "target": "他"}, HERE),
            ({"source": "a", "target": "b"}, HERE), ({"source": "king", "target": "queen"}, HERE)]
    held = [({"source": "she", "target": "她"}, HERE)]
    made, notes, facts = doubled_rows([rows], [held], readers, 1, task.swapped, repr, task.unswapped)
    assert [row for row, _ in made[0]] == [*(row for row, _ in rows), {"source": "queen", "target": "king"}]
    assert notes == [f"{swaps.path}: 3 of 4 training rows have such words; seen also with these swapped: 1; not "
                     "seen swapped, for that text is held out: 1; seen as they are only: 1, for only one of their two "
                     "sides has words of the list"]
    assert facts["augment"] | {"swap": ""} == {"swap": "", "mode": "both", "rows": 4, "with_words": 3, "swapped": 1,
                                               "held_out": 1, "as_they_are": 1}


@pytest.fixture
def told(tmp_path, swaps):
    """A recipe of a classification, with he and she swapped in its training rows."""

    def make(mode="both", **data):
        path = tmp_path / "rows.csv"
        path.write_text("text,label\n" + "".join(
            f"he ran home {i},he\nthe cat sat {i},cat\n" for i in range(20)))
        tree = tiny("bert", path, tmp_path / "run", max_steps=2)
        tree.pop("objective")
        tree["task"] = {"name": "classification"}
        tree["data"] |= {"validation": 10, "augment": {"swap": swaps.path, "mode": mode}, **data}
        return tree

    return make


def test_a_run_learns_from_rows_and_their_swaps_and_is_evaluated_on_neither(told):
    summary = llmkit.fit(told())
    assert summary["augment"]["rows"] == 30
    assert summary["augment"]["swapped"] == summary["augment"]["with_words"] > 10
    assert summary["labels"] == ["cat", "he"]
    request = recipes.load(told())
    rows = learned_rows(request.task, request)
    assert len(rows) == 30 + summary["augment"]["swapped"]
    assert [row["label"] for row in rows if row["text"].startswith("she")] == ["he"] * summary["augment"]["swapped"]


def test_so_many_rows_a_label_are_counted_before_they_are_swapped(told):
    notes = inspect(recipes.load(told(shots=4)))["notes"]
    assert any("4 of 8 training rows have such words; seen also with these swapped: 4" in note for note in notes)
    assert "12 training rows" in notes


def test_inspect_shows_a_row_that_can_be_swapped(tmp_path, swaps):
    path = tmp_path / "tags.jsonl"
    path.write_text("".join(json.dumps({"tokens": words, "tags": ["A", "B"]}) + "\n"
                            for words in (["grand", "father"], ["he", "ran"], ["a", "cat"])))
    tree = tiny("bert", path, tmp_path / "run")
    tree.pop("objective")
    tree["task"] = {"name": "tagging"}
    tree["data"]["augment"] = {"swap": swaps.path}
    assert inspect(recipes.load(tree))["swapped"] == {"source": str(path), "before": "he ran", "after": "she ran"}


def test_replaced_rows_keep_their_number(told):
    found = inspect(recipes.load(told("replace")))
    assert found["rows"] == 30
    assert any("seen with these swapped instead, drawn by the seed: " in note for note in found["notes"])


def test_a_tagged_run_and_one_with_answers_have_it_in_their_summaries(tmp_path, swaps):
    tagged, asked = tmp_path / "tags.jsonl", tmp_path / "asked.jsonl"
    tagged.write_text("".join(json.dumps({"tokens": ["he", "saw", str(i)], "tags": ["B-WHO", "O", "O"]}) + "\n"
                              for i in range(12)))
    asked.write_text("".join(json.dumps({"question": "who ?", "context": f"one saw he run {i}", "answers": {
        "text": ["he"], "answer_start": [8]}}) + "\n" for i in range(12)))
    for name, path in (("tagging", tagged), ("question_answering", asked)):
        tree = tiny("bert", path, tmp_path / name, max_steps=1)
        tree.pop("objective")
        tree["task"] = {"name": name}
        tree["data"] |= {"augment": {"swap": swaps.path}}
        assert llmkit.fit(tree)["augment"]["swapped"] == 12
