"""Of two answers and a verdict, the better one is chosen; ties are left out and counted."""

from typing import Any

import pytest

from llmkit.system.errors import DataError
from llmkit.tasks.preference import Preference

ASKED = {"messages": [{"role": "user", "content": "Sky?"}], "chosen": "Blue.", "rejected": "Red."}


def talk(*said: str) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(said)]


@pytest.mark.parametrize("row", [
    # Stanford's SHP: 1 where A is better, whatever the scores are
    {"post_id": "x", "history": "Sky?", "human_ref_A": "Red.", "human_ref_B": "Blue.", "labels": 0, "score_A": 9,
     "score_B": 3},
    {"history": "Sky?", "human_ref_A": "Blue.", "human_ref_B": "Red.", "labels": 1},
    # LMSYS, with the turns in lists, and with conversations
    {"id": 1, "model_a": "m", "model_b": "n", "prompt": '["Sky?"]', "response_a": '["Red."]', "response_b": '["Blue."]',
     "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
    {"model_a": "m", "model_b": "n", "winner": "model_b", "conversation_a": talk("Sky?", "Red."),
     "conversation_b": talk("Sky?", "Blue.")},
    {"prompt": "Sky?", "response_a": "Blue.", "response_b": "Red.", "preference": "A"},
    {"prompt": "Sky?", "response_a": "Blue.", "response_b": "Red.", "preference": "response_a"},
    {"prompt": "Sky?", "response_a": "Blue.", "response_b": "Red.", "verdict": "[[A]]"},
    {"prompt": "Sky?", "response_a": "Red.", "response_b": "Blue.", "verdict": "B>>A"},
    {"prompt": "Sky?", "response_a": "Red.", "response_b": "Blue.", "chosen": "b"},
    # SafeRLHF, AlpacaFarm, WebGPT, HelpSteer
    {"prompt": "Sky?", "response_0": "Red.", "response_1": "Blue.", "better_response_id": 1, "safer_response_id": 0},
    {"instruction": "Sky?", "input": "", "output_1": "Red.", "output_2": "Blue.", "preference": 2},
    {"instruction": "Sky?", "output_1": "Red.", "output_2": "Blue.", "preference": 1.8},
    {"question": {"id": 1, "full_text": "Sky?"}, "answer_0": "Red.", "answer_1": "Blue.", "score_0": -1,
     "score_1": 0.5},
    {"context": talk("Sky?"), "response1": "Blue.", "response2": "Red.", "overall_preference": -2},
    {"prompt": "Sky?", "response_1": "Red.", "response_2": "Blue.", "preference_strength": "3"},
    # lists of answers: Nectar, UltraFeedback, OpenAI's summaries
    {"prompt": "Sky?", "answers": [{"answer": "Red.", "rank": 3.0}, {"answer": "Blue.", "rank": 1.0},
                                   {"answer": "Green.", "rank": 2.0}]},
    {"instruction": "Sky?", "completions": [{"response": "Blue.", "overall_score": 9}, {"response": "Red.",
                                                                                       "overall_score": 2.5}]},
    {"prompt": "Sky?", "responses": ["Red.", "Green.", "Blue."], "scores": [0.1, 0.2, 0.9]},
    {"info": {"post": "Sky?"}, "summaries": [{"text": "Red."}, {"text": "Blue."}], "choice": 1},
    # one whose chosen conversation is there twice: UltraFeedback, binarized
    {"prompt": "Sky?", "messages": talk("Sky?", "Blue."), "chosen": talk("Sky?", "Blue."),
     "rejected": talk("Sky?", "Red."), "score_chosen": 8.0, "score_rejected": 3.0},
    # by other names of the two
    {"question": "Sky?", "response_j": "Blue.", "response_k": "Red."},
    {"prompt": "Sky?", "pos_resp": "Blue.", "neg_resp": "Red."},
])
def test_the_better_answer_is_the_chosen_one(write: Any, row: dict[str, Any]) -> None:
    assert [found for found, _ in Preference().read(write([row]))] == [ASKED]


@pytest.mark.parametrize("tie", [
    {"response_a": "Blue.", "response_b": "Red.", "winner": "tie (bothbad)"},
    {"response_a": "Blue.", "response_b": "Red.", "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1},
    {"output_1": "Blue.", "output_2": "Red.", "preference": 1.5},
    {"answer_0": "Blue.", "answer_1": "Red.", "score_0": 0.5, "score_1": 0.5},
    {"response1": "Blue.", "response2": "Red.", "overall_preference": 0},
    {"responses": ["Blue.", "Red."], "scores": [1, 1]},
])
def test_ties_are_left_out_and_counted(write: Any, tie: dict[str, Any]) -> None:
    reader = write([{"prompt": "Sky?", "chosen": "Blue.", "rejected": "Red."}, {"prompt": "Sky?", **tie}])
    assert [row for row, _ in Preference().read(reader)] == [ASKED]
    assert f"{reader.name}: 1 rows where no answer is better are left out" in reader.notes


def test_conversations_that_part_early_are_left_out_and_counted(write: Any) -> None:
    reader = write([
        {"winner": "model_a", "conversation_a": talk("Sky?", "Blue."), "conversation_b": talk("Sky?", "Red.")},
        {"winner": "model_a", "conversation_a": talk("Hi", "Hello", "Sky?", "Blue."),
         "conversation_b": talk("Hi", "Good day", "Sky?", "Red.")}])
    assert [row for row, _ in Preference().read(reader)] == [ASKED]
    assert f"{reader.name}: 1 rows whose conversations part before the last answer are left out" in reader.notes


@pytest.mark.parametrize(("row", "message"), [
    ({"response_a": "Blue.", "response_b": "Red.", "winner": "me"}, r"rows\.jsonl:1: the field 'winner' is 'me'; it "
     "must name the better answer, 'a' or 'b', or be a tie"),
    ({"response_a": "Blue.", "response_b": "Red.", "preference": 1}, "a number doesn't say which it means"),
    ({"response_a": "Blue.", "response_b": "Red."}, "'response_a' and 'response_b' are two answers, and no column says "
     "which is better"),
    ({"answer_0": "Blue.", "answer_1": "Red.", "score_0": None, "score_1": 1}, "the field 'score_0' is None, which"),
    ({"human_ref_A": "Blue.", "human_ref_B": "Red.", "labels": 2}, "the field 'labels' is 2; it must be 0 or 1"),
])
def test_a_verdict_that_says_neither_is_told(write: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preference().read(write([{"prompt": "Sky?", **row}]))
