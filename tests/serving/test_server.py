"""The server, asked by the openai client."""

import pytest
from openai import BadRequestError, NotFoundError
from served import GREETING, Server


def ask(server: Server, text: str = "hi", **options):
    return server.client.chat.completions.create(
        model="chatty", messages=[{"role": "user", "content": text}], **options)


def test_it_lists_its_models(server):
    assert [model.id for model in server.client.models.list()] == ["chatty", "endless"]
    assert server.client.models.retrieve("chatty").id == "chatty"


def test_a_question_is_answered(server):
    answer = ask(server)
    choice, = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", GREETING, "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, len(GREETING.encode()))
    assert answer.usage.total_tokens == 5 + len(GREETING.encode())


def test_an_answer_is_streamed_in_whole_characters(server):
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(piece or "" for piece in pieces) == GREETING
    assert len(pieces) > 10 and not any("\ufffd" in (piece or "") for piece in pieces)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(GREETING.encode())
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_text_ends_before_a_stop_string(server):
    answer = ask(server, stop=["how", "你好 — h"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello there, ", "stop")
    streamed = ask(server, stop="how", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "Hello there, 你好 — "


def test_what_is_wrong_is_said_in_openais_form(server):
    with pytest.raises(NotFoundError) as error:
        server.client.chat.completions.create(model="chaty", messages=[{"role": "user", "content": "hi"}])
    assert error.value.body == {
        "message": "no model is called 'chaty'. Did you mean 'chatty'?", "code": "model_not_found",
        "type": "invalid_request_error", "param": "model"}
    with pytest.raises(BadRequestError, match="Did you mean 'temperature'"):
        ask(server, extra_body={"temprature": 1})
    with pytest.raises(BadRequestError, match="the prompt's 603 tokens are 92 more than the 511"):
        ask(server, "a" * 600)
