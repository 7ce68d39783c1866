"""Conversations as other tools write them: what a row says is kept, and what isn't learned from is named."""

import json
from typing import Any

import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.base import Setup
from llmkit.recipe import registry
from llmkit.system.errors import DataError
from llmkit.tasks.instruction import Instruction

CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
# as Qwen3's: thoughts are written of the last answer alone, and tools and their calls are known
THINKS = ("{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
          "{% for m in messages %}<|im_start|>{{ m.role }}\n"
          "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n"
          "{% endif %}"
          "{{ m.content }}{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
          "{{ call.function.arguments | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
ALTERNATES = ("{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
              "{{ raise_exception('roles must alternate') }}{% endif %}"
              "<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
              "{% if add_generation_prompt %}<|im_start|>{% endif %}")
TOOL = {"type": "function", "function": {"name": "warmth", "parameters": {"type": "object", "properties": {}}}}


def tokenizer_of(template: str | None) -> Any:
    made = tokenizers.train([*stories(40), "system user assistant <think> </think>"], "bpe", 300)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


def user(said: str) -> dict[str, Any]:
    return {"role": "user", "content": said}


def assistant(said: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": said, **more}


def learned(reader: Any, chat: str | None = CHATML, **options: Any) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Of each row what is read and what is learned of it, and what is said of the file."""
    made = tokenizer_of(chat)
    setup = Setup(made, registry.find("backbones", "llama"), 2000, "none", 0)
    (part,) = Instruction(**options).prepare([reader], None, setup).train
    out = []
    for features in part.features:  # type: ignore[attr-defined]
        runs: list[list[int]] = [[]]
        for label in features["labels"].tolist():
            if label == -100:
                runs.append([])
            else:
                runs[-1].append(label)
        out.append((made.decode(features["input_ids"]), [made.decode(run) for run in runs if run]))
    return out, reader.notes


# ---- what was said before, and by whom ----------------------------------------------------------------------------


@pytest.mark.parametrize("history", [
    [["Sky?", "Blue."], ["Sure?", "Yes."]], json.dumps([["Sky?", "Blue."], ["Sure?", "Yes."]]),
    [user("Sky?"), assistant("Blue."), user("Sure?"), assistant("Yes.")],
    [{"human": "Sky?", "assistant": "Blue."}, {"human": "Sure?", "assistant": "Yes."}],
])
def test_history_stands_before_the_prompt_and_is_learned(history: Any, write: Any) -> None:
    row = {"instruction": "And grass?", "input": "", "output": "Green.", "system": "Be brief.", "history": history}
    ((text, answers),), _ = learned(write(row))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSky?<|im_end|>\n")
    assert answers == ["Blue.<|im_end|>", "Yes.<|im_end|>", "Green.<|im_end|>"]


def test_a_later_row_may_have_what_the_first_lacks(write: Any) -> None:
    rows = [{"instruction": "Sky?", "output": "Blue."},
            {"instruction": "Say it.", "output": "Green.", "input": "grass", "history": [["Sky?", "Blue."]]}]
    (_, (text, answers)), _ = learned(write(*rows))
    assert "Say it.\ngrass" in text
    assert answers == ["Blue.<|im_end|>", "Green.<|im_end|>"]


@pytest.mark.parametrize("row", [
    {"conversations": [{"from": "Human", "value": "Sky?"}, {"from": "GPT", "value": "Blue."}]},
    {"messages": [{"role": "USER", "content": "Sky?"}, {"role": "Assistant", "content": "Blue."}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Sky?"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "Bl"}, {"type": "text", "text": "ue."}]}]},
    {"conversation": [{"human": "Sky?", "assistant": "Blue."}]},
    {"prompt": [user("Sky?")], "completion": [assistant("Blue.")]},
    {"prompt": [user("Sky?")], "completion": "Blue."},
    {"instruction": "", "input": "Sky?", "output": "Blue."},
    {"messages": json.dumps([user("Sky?"), assistant("Blue.")])},
])
def test_every_form_of_an_exchange_is_one_conversation(row: dict[str, Any], write: Any) -> None:
    ((text, answers),), _ = learned(write(row))
    assert text == "<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\nBlue."
    assert answers == ["Blue.<|im_end|>"]


def test_a_developer_is_the_system(write: Any) -> None:
    ((text, _),), _ = learned(write({"messages": [{"role": "developer", "content": "Be brief."}, user("Hi"),
                                                  assistant("Yes")]}))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_a_system_message_counts_more_than_a_column_and_that_is_said(write: Any) -> None:
    row = {"system": "Be brief.", "messages": [{"role": "system", "content": "Be long."}, user("Hi"), assistant("Yes")]}
    (*_, (text, _)), notes = learned(write(row, row))
    assert "Be long." in text
    assert "Be brief." not in text
    assert any("2 rows have a system prompt in a column and another in their messages" in note for note in notes)


def test_an_assistant_may_speak_first(write: Any) -> None:
    reader = write({"messages": [assistant("Welcome!"), user("Hi"), assistant("Hello.")]})
    ((text, answers),), _ = learned(reader)
    assert text.startswith("<|im_start|>assistant\nWelcome!<|im_end|>\n<|im_start|>user")
    assert answers == ["Welcome!<|im_end|>", "Hello.<|im_end|>"]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the chat template refuses .*: roles must alternate"):
        learned(reader, ALTERNATES)


# ---- what isn't learned -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [
    {"weight": 0}, {"train": False}, {"loss": False}, {"weight": 0.0}, {"train": "false"}])
@pytest.mark.parametrize("template", [CHATML, None])
def test_an_answer_that_is_not_learned_is_read(mark: dict[str, Any], template: str | None, write: Any) -> None:
    said = [user("2+2?"), assistant("Five.", **mark), user("Check."), assistant("Four.", weight=1)]
    ((text, answers),), _ = learned(write({"messages": said}), template)
    assert "Five." in text
    assert answers == ["Four.<|im_end|>" if template else "Four.<|endoftext|>"]
    ((whole, _),), _ = learned(write({"messages": [user("2+2?"), assistant("Five."), *said[2:]]}), template)
    assert text == whole


def test_a_weight_that_is_neither_is_told_with_its_line(write: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: message 2 of 'messages': its weight is 0\.5; a message is"):
        learned(write({"messages": [user("Hi"), assistant("Yes", weight=0.5)]}))


def test_a_conversation_without_an_answer_to_learn_is_left_out_and_counted(write: Any) -> None:
    rows = [{"messages": [user("Hi"), assistant(said, weight=weight)]} for said, weight in (("No", 0), ("Yes", 1))]
    found, notes = learned(write(*rows))
    assert [answers for _, answers in found] == [["Yes<|im_end|>"]]
    assert any("1 conversations have no answer that is to be learned" in note for note in notes)


# ---- tools and thoughts -------------------------------------------------------------------------------------------

CALL = {"id": "c1", "type": "function", "function": {"name": "warmth", "arguments": '{"town": "Oslo"}'}}
TALKS = [
    {"messages": [user("Warm?"), assistant(None, tool_calls=[CALL]),
                  {"role": "tool", "tool_call_id": "c1", "content": "4"}, assistant("It is 4.")], "tools": [TOOL]},
    {"messages": [user("Warm?"), assistant(None, function_call=CALL["function"]),
                  {"role": "function", "name": "warmth", "content": "4"}, assistant("It is 4.")],
     "functions": [TOOL["function"]]},
    {"conversations": [{"from": "human", "value": "Warm?"},
                       {"from": "function_call", "value": '{"name": "warmth", "arguments": {"town": "Oslo"}}'},
                       {"from": "observation", "value": "4"}, {"from": "gpt", "value": "It is 4."}],
     "tools": json.dumps([TOOL["function"]])},
]


@pytest.mark.parametrize("row", TALKS, ids=["openai", "older openai", "sharegpt"])
def test_calls_are_learned_and_results_read(row: dict[str, Any], write: Any) -> None:
    ((text, answers),), _ = learned(write(row))  # a template that knows no tools: as when it is served
    assert "<tools>" in text.partition("<|im_end|>")[0]
    assert '"name": "warmth"' in text.partition("<|im_end|>")[0]
    assert "<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>" in text
    assert answers == ['<tool_call>\n{"name": "warmth", "arguments": {"town": "Oslo"}}\n</tool_call><|im_end|>',
                       "It is 4.<|im_end|>"]
    rows, notes = learned(write(row), THINKS)
    assert [answers for _, answers in rows] == [
        ['<think>\n\n</think>\n\n<call>warmth {"town": "Oslo"}</call><|im_end|>'],
        ["<think>\n\n</think>\n\nIt is 4.<|im_end|>"]]
    assert all(text.startswith("<|im_start|>system\n[{") for text, _ in rows)
    assert any("1 conversations are 2 rows, one an answer" in note for note in notes)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_are_learned_with_the_answer(name: str, write: Any) -> None:
    for template in (CHATML, THINKS, None):
        reader = write({"messages": [user("2+2?"), assistant("4", **{name: "two, two"})]})
        ((_, answers),), _ = learned(reader, template)
        end = "<|im_end|>" if template else "<|endoftext|>"
        assert answers == [f"<think>\ntwo, two\n</think>\n\n4{end}"]


@pytest.mark.parametrize(("message", "what"), [
    ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "it has a part of type 'image_url'"),
    (assistant(None, tool_calls=[{"function": {"name": "f", "arguments": "{"}}]), "a call must be"),
    ({"from": "function_call", "value": "warmth(Oslo)"}, "a call must be"),
    (assistant("a", reasoning_content=["b"]), r"its thoughts are no text: \['b'\]"),
    ({"role": "narrator", "content": "a"}, "its role is 'narrator'; known are system, developer, user"),
])
def test_what_can_not_be_read_is_told_with_its_line(message: dict[str, Any], what: str, write: Any) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: message 2 of 'messages': {what}"):
        learned(write({"messages": [user("Hi"), message, assistant("Yes")]}))


# ---- templates ----------------------------------------------------------------------------------------------------


def test_where_a_template_rewrites_what_was_said_each_answer_is_a_row(write: Any) -> None:
    row = {"messages": [user("2+2?"), assistant("Four."), user("Sure?"), assistant("Yes.")]}
    rows, notes = learned(write(row), THINKS)
    assert [answers for _, answers in rows] == [["<think>\n\n</think>\n\nFour.<|im_end|>"],
                                                ["<think>\n\n</think>\n\nYes.<|im_end|>"]]
    assert "assistant\nFour.<|im_end|>" in rows[1][0]  # as it is when the second is asked for
    assert any("1 conversations are 2 rows, one an answer" in note for note in notes)


def test_a_template_of_the_recipe_is_used_though_the_tokenizer_has_one(write: Any) -> None:
    row = {"messages": [user("2+2?"), assistant("Four."), user("Sure?"), assistant("Yes.")]}
    ((text, answers),), notes = learned(write(row), THINKS, template="Q: {prompt}\nA: ")
    assert any("task.template is used, not the tokenizer's chat template" in note for note in notes)
    assert text == "Q: 2+2?\nA: Four.<|endoftext|>Q: Sure?\nA: Yes."
    assert answers == ["Four.<|endoftext|>", "Yes.<|endoftext|>"]


# ---- what is said of a file ----------------------------------------------------------------------------------------


def test_what_nothing_is_learned_from_is_named_once(write: Any) -> None:
    rows = [{"id": i, "prompt": "Hi", "response": "Yes", "rationale": "polite", "source_id": 3} for i in range(3)]
    reader = write(*rows)
    learned(reader)
    assert reader.notes == [f"{reader.name}: nothing is learned from the column rationale"]
    said = [user("Hi"), assistant("Yes", mood="glad", refusal=None)]
    _, notes = learned(write({"messages": said, "category": "a", "images": []}, {"messages": said}))
    assert any("nothing is learned from the columns category, images" in note for note in notes)
    assert any("2 rows have 'mood' in a message, which isn't read" in note for note in notes)
    assert not any("refusal" in note for note in notes)
