"""Corpora's own forms of rows: turns without roles, MOSS, OpenAssistant's trees, DuReader's documents, CAIL's meta."""

import json
from typing import Any

import pytest

from llmkit.tasks.classification import Classification
from llmkit.tasks.instruction import Instruction
from llmkit.tasks.question_answering import QuestionAnswering
from llmkit.tasks.summarization import Summarization

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
GUESSED = "2 rows say not who is the user: who speaks first is taken for the user, and the other for the assistant"
MOSS = {"meta_instruction": "You are MOSS.", "num_turns": 2, "chat": {
    "turn_10": {"Human": "<|Human|>: Bye<eoh>\n", "MOSS": "<|MOSS|>: See you.<eom>\n"},
    "turn_2": {"Human": "<|Human|>: Hi <eoh>\n", "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
               "Commands": "<|Commands|>: None<eoc>\n", "Tool Responses": "<|Results|>: None<eor>\n",
               "MOSS": "<|MOSS|>: Hello.<eom>\n"}}}
MESSAGES = [
    {"message_id": "a", "parent_id": None, "text": "Hi", "role": "prompter", "lang": "en"},
    {"message_id": "c", "parent_id": "a", "text": "Yo.", "role": "assistant", "lang": "en", "rank": 1},
    {"message_id": "b", "parent_id": "a", "text": "Hello.", "role": "assistant", "lang": "en", "rank": 0},
    {"message_id": "e", "parent_id": "d", "text": "Because.", "role": "assistant", "lang": "en"},
    {"message_id": "d", "parent_id": "b", "text": "Why?", "role": "prompter", "lang": "en"},
    {"message_id": "g", "parent_id": "gone", "text": "What?", "role": "prompter", "lang": "en"},
    {"message_id": "x", "parent_id": None, "text": "Sky?", "role": "prompter", "lang": "en"},
    {"message_id": "y", "parent_id": "x", "text": "Blue.", "role": "assistant", "lang": "en", "deleted": True},
    {"message_id": "z", "parent_id": "x", "text": "Red.", "role": "assistant", "lang": "en"},
]
BEST = [[*HELLO, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
        [{"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Red."}]]


def talks(reader: Any) -> list[list[dict[str, str]]]:
    return [row["messages"] for row, _ in Instruction().read(reader)]


@pytest.mark.parametrize(("name", "turns", "guessed"), [
    ("dialogue", ["Hi", "Hello."], True), ("dialog", ["Hi", "Hello."], True), ("turns", ["Hi", "Hello."], True),
    ("dialogue", [{"speaker": "A", "utterance": "Hi"}, {"speaker": "B", "utterance": "Hello."}], True),
    ("turns", [{"speaker": "USER", "text": "Hi", "turn_id": "0"}, {"speaker": "SYSTEM", "text": "Hello."}], False),
    ("dialogue", [{"role": "用户", "text": "Hi"}, {"role": "助手", "text": "Hello."}], False),
    ("对话", [{"speaker": "患者", "sentence": "Hi"}, {"speaker": "医生", "sentence": "Hello."}], False),
    ("utterances", [{"speaker": "patient", "utterance": "Hi"}, {"speaker": "doctor", "utterance": "Hello."}], False),
])
def test_turns_become_messages_and_a_guess_is_said(write: Any, name: str, turns: Any, guessed: bool) -> None:
    reader = write([{name: turns}, {name: turns}])
    assert talks(reader) == [HELLO, HELLO]
    assert reader.notes == ([f"{reader.name}: {GUESSED}"] if guessed else [])


def test_three_speakers_without_roles_are_refused(write: Any) -> None:
    turns = [{"speaker": who, "text": "Hi"} for who in "ABC"]
    with pytest.raises(Exception, match="message 1 of 'dialogue': its role is None; known are system"):
        talks(write([{"dialogue": turns}]))


@pytest.mark.parametrize("beside", [{}, {"act": [1, 2]}])
def test_one_dialogue_in_a_file_is_a_row_and_not_a_column(write: Any, beside: dict[str, Any]) -> None:
    assert talks(write(json.dumps({"dialogue": ["Hi", "Hello."], **beside}), name="one.json")) == [HELLO]


def test_dialogues_with_summaries_are_columns_still(write: Any) -> None:
    reader = write(json.dumps({"dialogue": ["A: Hi. B: Hello.", "A: Bye."], "summary": ["They meet.", "They part."]}),
                   name="sums.json")
    assert [row["summary"] for row, _ in Summarization().read(reader)] == ["They meet.", "They part."]


def test_moss_speaks_in_the_order_of_its_turns(write: Any) -> None:
    reader = write([MOSS])
    assert talks(reader) == [[{"role": "system", "content": "You are MOSS."}, *HELLO,
                              {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."}]]
    assert not any("commands" in note for note in reader.notes)
    called = {"chat": {"turn_1": {"Human": "Hi", "Commands": '<|Commands|>: Search("cats")<eoc>', "MOSS": "Hello."}}}
    reader = write([called])
    assert talks(reader) == [HELLO]
    assert f"{reader.name}: 1 rows have commands and what tools said, which aren't read" in reader.notes


def test_a_tree_of_messages_is_one_conversation_of_its_best_replies(write: Any) -> None:
    reader = write(MESSAGES)
    assert talks(reader) == BEST
    assert (f"{reader.name}: 9 messages stand in 2 trees; of each the best reply at every step makes one conversation, "
            "and 3 other messages are left out, 1 of them because the message that they reply to isn't there"
            ) in reader.notes
    tree = {"message_tree_id": "a", "prompt": {"text": "Hi", "role": "prompter", "replies": [
        {"text": "Yo.", "role": "assistant", "rank": 1, "replies": []},
        {"text": "Hello.", "role": "assistant", "rank": 0, "replies": [
            {"text": "Why?", "role": "prompter", "replies": [
                {"text": "Because.", "role": "assistant", "replies": []}]}]}]}}
    reader = write([tree])
    assert talks(reader) == BEST[:1]
    assert any("5 messages stand in 1 trees" in note and "1 other messages are left out" in note
               for note in reader.notes)


def test_an_answer_is_found_in_the_paragraphs_of_chosen_documents(write: Any) -> None:
    rows = [
        {"question_id": 1, "question": "天是什么颜色？", "answers": ["蓝色"], "documents": [
            {"is_selected": False, "paragraphs": ["蓝色的狗"]},
            {"is_selected": True, "most_related_para": 1, "paragraphs": ["蓝色很好", "天是蓝色的"]}]},
        {"question_id": 2, "question": "谁？", "answers": ["没有人说"], "fake_answers": ["张三"], "documents": [
            {"is_selected": True, "paragraphs": ["张三在"]}]},
        {"question_id": 3, "question": "谁？", "answers": ["没有人说"], "documents": [
            {"is_selected": True, "paragraphs": ["张三在"]}]}]
    reader = write(rows)
    found = [(row["context"], row["answers"]) for row, _ in QuestionAnswering().read(reader)]
    assert found == [("天是蓝色的", [{"text": "蓝色", "answer_start": 2}]),
                     ("张三在", [{"text": "张三", "answer_start": 0}])]
    assert (f"{reader.name}: 3 questions have several documents; the context is the paragraph of a chosen one that has "
            "the answer; 1 are left out, for no answer of theirs stands in a paragraph letter for letter"
            ) in reader.notes
    asked = [row["context"] for row, _ in QuestionAnswering().stream(write(rows), answered=False)]
    assert asked == ["天是蓝色的\n蓝色很好", "张三在", "张三在"]


def test_what_stands_in_an_object_is_a_column_by_its_way(write: Any) -> None:
    rows = [{"fact": f"fact {i}", "meta": {"accusation": charges, "term_of_imprisonment": {"imprisonment": i}}}
            for i, charges in enumerate((["theft"], ["theft", "fraud"]))]
    read = [row for row, _ in Classification().read(write(rows))]
    assert read == [{"text": "fact 0", "label": ["theft"]}, {"text": "fact 1", "label": ["theft", "fraud"]}]
    reader = write(rows, label="meta.term_of_imprisonment.imprisonment")
    assert [row["label"] for row, _ in Classification().read(reader)] == [0, 1]


def test_csl_is_an_abstract_and_its_title(write: Any) -> None:
    rows = [{"id": 1, "abst": "为解决声呐成像的问题", "title": "声呐", "keyword": ["水"]}]
    ((row, _),) = Summarization().read(write(rows))
    assert row == {"text": "为解决声呐成像的问题", "summary": "声呐"}
