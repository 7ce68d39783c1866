"""A right answer in a column of its own is put among the wrong ones, at a place that says nothing of it."""

from typing import Any

import pytest

from llmkit.system.errors import DataError
from llmkit.tasks.multiple_choice import MultipleChoice
from llmkit.tasks.shared.forms.distractors import Apart, apart


@pytest.mark.parametrize(("columns", "expected"), [
    (["question", "distractor3", "distractor1", "distractor2", "correct_answer", "support"],
     Apart("correct_answer", ("distractor1", "distractor2", "distractor3"))),
    (["gold-ending", "distractor-0", "distractor-1", "gold-type", "distractor-0-type", "sent1"],
     Apart("gold-ending", ("distractor-0", "distractor-1"))),
    (["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2"],
     Apart("Correct Answer", ("Incorrect Answer 1", "Incorrect Answer 2"))),
    (["question", "best_answer", "correct_answers", "incorrect_answers"], Apart("best_answer", ("incorrect_answers",))),
    (["question", "answer", "distractors"], Apart("answer", ("distractors",))),
    (["问题", "正确答案", "干扰项"], Apart("正确答案", ("干扰项",))),
    (["question", "choices", "answer"], None),
    (["sent1", "ending0", "ending1", "label"], None),
])
def test_the_columns_of_both_are_found(columns: list[str], expected: Apart | None) -> None:
    assert apart(columns) == expected


@pytest.mark.parametrize("row", [
    {"question": "2 + 2?", "correct_answer": "4", "distractor1": "3", "distractor2": "5", "distractor3": ""},
    {"question": "2 + 2?", "answer": "4", "distractors": ["3", "5"]},
    {"question": "2 + 2?", "best_answer": "4", "incorrect_answers": '["3", "5"]'},
])
def test_the_right_answer_is_one_of_the_choices(write: Any, row: dict[str, Any]) -> None:
    reader = write([row])
    ((found, _),) = MultipleChoice().read(reader)
    assert sorted(found["choices"]) == ["3", "4", "5"]
    assert found["choices"][found["answer"]] == "4"
    assert "the right answer is the column" in reader.notes[0]
    ((asked, _),) = MultipleChoice().stream(reader, answered=False)
    assert asked["choices"] == found["choices"] and "answer" not in asked


@pytest.mark.parametrize("task", [
    MultipleChoice(answer="text"), MultipleChoice(first=1), MultipleChoice(answer="number")])
def test_it_is_the_same_one_however_answers_are_said(write: Any, task: MultipleChoice) -> None:
    ((found, _),) = task.read(write([{"question": "Which?", "correct_answer": "B", "distractor1": "A"}]))
    assert found["choices"][found["answer"]] == "B"


def test_its_place_says_nothing_of_it(write: Any) -> None:
    rows = [{"question": f"{i} + 1?", "correct_answer": str(i + 1), "distractor1": str(i), "distractor2": str(i + 2)}
            for i in range(300)]
    places = [row["answer"] for row, _ in MultipleChoice().read(write(rows))]
    assert all(70 < places.count(place) < 130 for place in range(3))


def test_swag_goes_on_from_its_second_sentence(write: Any) -> None:
    header = "video-id,startphrase,gold-ending,distractor-0,distractor-1,gold-type,distractor-0-type,sent1,sent2"
    reader = write(f"{header}\nv1,They run. She,stops.,flies.,sings.,pos,n,They run.,She\n", name="swag.csv")
    ((row, _),) = MultipleChoice().read(reader)
    assert (row["context"], row["question"]) == ("They run.", "She")
    assert row["choices"][row["answer"]] == "stops."


@pytest.mark.parametrize(("row", "message"), [
    ({"question": "2 + 2?", "correct_answer": None, "distractor1": "3"}, "'correct_answer', the right answer, is no"),
    ({"question": "2 + 2?", "correct_answer": "4", "distractor1": "4"}, "'4' is the right answer and a wrong one"),
    ({"question": "2 + 2?", "correct_answer": "4", "distractor1": 3}, "'distractor1', a wrong answer, is no text: 3"),
    ({"question": "2 + 2?", "correct_answer": "4", "distractor1": ""}, "1 choices"),
])
def test_a_bad_row_is_told_with_its_line(write: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: .*{message}"):
        MultipleChoice().read(write([row]))
