"""Tools: how a model is told of them, and how its calls are found."""

import json
import time

import pytest
from served import letters

from llmkit.serving.protocol import Message
from llmkit.serving.tools import Call, Holding, beginning, calls, known, parsed, written_out

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(("text", "beside", "found"), [
    ('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', "", [Call("add", '{"a": 1}')]),
    ('Let me see. <tool_call>{"name": "add", "arguments": {}}</tool_call>', "Let me see.", [Call("add", "{}")]),
    ('<tool_call>{"name": "add", "arguments": {"a": {"b": [1]}}}</tool_call>\n<tool_call>{"name": "search", '
     '"arguments": "{\\"q\\": \\"x\\"}"}', "", [Call("add", '{"a": {"b": [1]}}'), Call("search", '{"q": "x"}')]),
    ('<tool_call>[{"name": "add", "parameters": {"a": 1}}, {"name": "add"}]</tool_call>', "",
     [Call("add", '{"a": 1}'), Call("add", "{}")]),
    ('{"name": "add", "arguments": {"a": 1}}', "", [Call("add", '{"a": 1}')]),
    ('```json\n{"function": {"name": "add", "arguments": {"a": 1}}}\n```', "", [Call("add", '{"a": 1}')]),
])
def test_calls_are_found(text, beside, found):
    assert calls(text, ["add", "search"]) == (beside, found)


@pytest.mark.parametrize("text", [
    "2 + 2 is 4.", '<tool_call>{"name": "add", "arguments": {"a": </tool_call>', '{"answer": 4}', "[1, 2]", "",
    '{"name": "subtract", "arguments": {}}', '<tool_call>{"name": "add", "arguments": 3}</tool_call>', "<tool_call>"])
def test_what_is_no_call_stays_text(text):
    assert calls(text, ["add"]) == (text, [])


@pytest.mark.parametrize(("pieces", "said", "held"), [
    (["Hi", " there"], ["Hi", " there"], ""),
    (["I <", "b", "> you"], ["I ", "<b", "> you"], ""),
    (["So: <tool", "_call>{", "}"], ["So: ", "", ""], "<tool_call>{}"),
    ([" ", '{"name"', ': "add"}'], ["", "", ""], ' {"name": "add"}'),
    (["a", ' {"x"'], ["a", ' {"x"'], ""),
])
def test_a_stream_holds_back_what_may_be_a_call(pieces, said, held):
    holding = Holding()
    assert [holding.add(piece) for piece in pieces] == said
    assert holding.held == held


def test_tools_are_written_out_for_a_template_that_knows_none():
    assert not known(letters())
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2"},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"function": {"name": "add", "arguments": {"a": 1}}}]},
                {"role": "tool", "content": "3"}, {"role": "tool", "content": "4"}]
    system, user, called, results = written_out(messages, [ADD])
    assert system["content"].startswith("Be brief.\n\nYou can call functions.")
    assert json.dumps(ADD) in system["content"] and user == messages[1]
    assert called == {"role": "assistant",
                      "content": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'}
    assert results == {"role": "user", "content": "<tool_response>\n3\n</tool_response>\n"
                                                  "<tool_response>\n4\n</tool_response>"}
    assert [one["role"] for one in written_out(messages[1:2], [ADD])] == ["system", "user"]
    assert written_out(messages[:2], []) == messages[:2]


def test_a_call_that_is_required_is_begun():
    assert beginning("auto") == ""
    name = {"type": "function", "function": {"name": "add"}}
    assert calls(beginning(name) + '{"a": 1}}', ["add"]) == ("", [Call("add", '{"a": 1}')])
    assert calls(beginning("required") + 'add", "arguments": {}}', ["add"]) == ("", [Call("add", "{}")])


@pytest.mark.parametrize("fenced", ["``````", "```json```", "```\n```", "```", "`````", "```json\n[]\n```"])
def test_an_empty_fence_is_text(fenced):
    assert calls(fenced, ["add"]) == (fenced, [])


def test_a_fence_of_a_long_blank_is_read_at_once():
    text = "```" + " " * 200_000 + "x"
    since = time.monotonic()
    assert calls(text, ["add"]) == (text, [])
    assert time.monotonic() - since < 5


@pytest.mark.parametrize(("text", "value"), [
    ('{"a": [1, 2.5, null, true, "Ω"]}', {"a": [1, 2.5, None, True, "Ω"]}), ("3", 3), ('"\\ud83d\\ude00"', "😀"),
    ("[" * 64 + "]" * 64, None), ("9" * 4000, int("9" * 4000))])
def test_what_is_json_is_read(text, value):
    assert value is None or parsed(text) == value
    assert json.loads(text) == parsed(text)


@pytest.mark.parametrize("text", [
    "", "{", "[1", "NaN", "-Infinity", "[1e400]", '{"a": -1e400}', "9" * 5000, '"\\ud800"', '{"\\udc00": 1}',
    "[" * 66 + "]" * 66, '{"a":' * 66 + "1" + "}" * 66, "[" * 100_000, "[" * 100_000 + "]" * 100_000, "{} {}"])
def test_what_cant_be_written_out_again_is_no_json(text):
    with pytest.raises(ValueError, match=r"."):
        parsed(text)


def test_behind_a_call_may_stand_something_else():
    assert parsed('{"a": 1} and so on', whole=False) == {"a": 1}
    with pytest.raises(ValueError, match=r"."):
        parsed("[" * 5000, whole=False)


@pytest.mark.parametrize("arguments", [
    "[" * 100_000, '{"a": "\\ud800"}', '{"a": NaN}', '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}",
    '{"a":' * 70 + "1" + "}" * 70])
def test_a_call_that_no_client_could_read_stays_text(arguments):
    for text in (f'<tool_call>{{"name": "add", "arguments": {arguments}}}</tool_call>',
                 f'{{"name": "add", "arguments": {arguments}}}',
                 json.dumps({"name": "add", "arguments": arguments})):
        assert calls(text, ["add"]) == (text, [])


def test_arguments_of_a_message_are_an_object_where_they_are_json():
    def sent(arguments):
        call = {"function": {"name": "add", "arguments": arguments}}
        message = Message.model_validate({"role": "assistant", "tool_calls": [call]}).plain()
        return message["tool_calls"][0]["function"]["arguments"]

    assert sent('{"a": 1}') == {"a": 1}
    assert sent({"a": 1}) == {"a": 1}
    for text in ("[" * 100_000, "9" * 5000, "{", '{"a": "\\ud800"}', "NaN"):
        assert sent(text) == text
