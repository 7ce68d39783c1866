"""What rows say as conversations: whoever wrote them, they become messages of system, user, assistant and tool."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmkit.data.encoder import controls, uncontrolled
from llmkit.data.sources import Place
from llmkit.data.swapping.pairs import Swaps
from llmkit.system.errors import DataError
from llmkit.tasks.shared.forms import dialogues

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
"""{"role": "user", "content": "Hello"}; an assistant's may have `tool_calls`, `reasoning_content`, and `learned`: False
where it is read and not learned."""

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_call": "call", "tool_call": "call",
    "moss": "assistant", "用户": "user", "用戶": "user", "助手": "assistant", "系统": "system", "系統": "system",
}
"""Who speaks, by what data sets call them, in letters of any case; a call is the assistant's, its content JSON."""
TALK = {"messages": ("conversations", "conversation", "dialog", "dialogue", "turns", "chat", "utterances", "对话")}
SYSTEM = {"system": ("system_prompt", "meta_instruction")}
BESIDE = {"history": (), "tools": ("functions",)}
"""What was said before a prompt, and what the assistant could call."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What data sets call what the assistant thought before it spoke."""
LEARNED = ("weight", "train", "loss")
"""What they call whether a message is learned: OpenAI, axolotl, ms-swift."""
READ = {"role", "from", "content", "value", "text", "tool_calls", "function_call", "tool_call_id", "name", "id",
        *THOUGHTS, *LEARNED}


def role_of(name: Any) -> str | None:
    """Who is meant: "Human" is the user."""
    return ROLES.get(name.strip().casefold()) if isinstance(name, str) else None


def conversation(messages: Any, column: str, place: Place) -> list[Message]:
    """[{"from": "human", "value": "Hi"}] -> [{"role": "user", "content": "Hi"}]; anything else is a DataError."""
    messages, _ = dialogues.spoken(unwritten(messages))
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place}: the field {column!r} must be a list of messages, not {messages!r}.")
    out: list[Message] = []
    for number, message in enumerate(messages, 1):
        where = f"{place}: message {number} of {column!r}"
        if not isinstance(message, dict):
            raise DataError(f"{where} must be an object, not {message!r}.")
        if not {"role", "from"} & set(message) and any(map(role_of, message)):  # MOSS: {"human": …, "assistant": …}
            out += [heard({"role": name, "content": content}, where) for name, content in message.items()
                    if role_of(name) and content not in (None, "")]
        else:
            out.append(heard(message, where))
    if not out:
        raise DataError(f"{place}: nobody says anything in {column!r}.")
    return out


def heard(message: Mapping[str, Any], where: str) -> Message:
    """One message, with what belongs to it and nothing else."""
    speaker = message.get("role", message.get("from"))
    role = role_of(speaker)
    if role is None:
        raise DataError(f"{where}: its role is {speaker!r}; known are {', '.join(ROLES)}.")
    content = next((message[name] for name in ("content", "value", "text") if message.get(name) is not None), None)
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": calls(content, where), **unlearned(message, where)}
    content = joined(content, where) if isinstance(content, list) else content
    called = message.get("tool_calls") or message.get("function_call")
    if role == "tool":
        content = json.dumps(content, ensure_ascii=False) if isinstance(content, dict) else content or ""
    elif content is None and role == "assistant" and called:
        content = ""
    if not isinstance(content, str) or (not content.strip() and role != "tool" and not called):
        raise DataError(f"{where}: the {speaker} says {content!r}, which is no text.")
    made: Message = {"role": role, "content": content.strip() if role == "assistant" else content}
    if role == "tool":
        return made | {name: message[name] for name in ("name", "tool_call_id") if message.get(name)}
    if role == "assistant":
        thought = next((message[name] for name in THOUGHTS if message.get(name)), None)
        if thought is not None:
            if not isinstance(thought, str):
                raise DataError(f"{where}: its thoughts are no text: {thought!r}.")
            made["reasoning_content"] = thought.strip()
        if called:
            made["tool_calls"] = calls(called, where)
        made |= unlearned(message, where)
    return made


def swapped_talk(messages: Sequence[Message], swaps: Swaps) -> list[Message] | None:
    """Messages with words swapped in what is said and thought; None where tools are called and some would be swapped.

    What a tool is given and what it answers is fixed, and what is said of it would no longer fit.
    """
    said = ("content", "reasoning_content")
    out = [{**message, **{name: swaps(message[name]) for name in said if name in message}} for message in messages]
    tools = any(message["role"] == "tool" or "tool_calls" in message for message in messages)
    return None if tools and out != list(messages) else out


def joined(parts: Sequence[Any], where: str) -> str:
    """The text of content parts; DataError where one is a picture or a sound."""
    texts = []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind != "text" or not isinstance(text, str):
            raise DataError(f"{where}: it has a part of type {kind!r}; only text is learned from.")
        texts.append(text)
    return "".join(texts)


def unlearned(message: Mapping[str, Any], where: str) -> Message:
    """{"learned": False} where a message says that it is only to be read; {} for all others."""
    for name in LEARNED:
        mark = message.get(name)
        if mark in (False, 0, "false", "False", "0"):
            return {"learned": False}
        if mark not in (None, True, 1, "true", "True", "1"):
            raise DataError(f"{where}: its {name} is {mark!r}; a message is learned (true, 1) or not (false, 0).")
    return {}


def calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls as chat templates take them, of OpenAI's `tool_calls`, its older `function_call`, or ShareGPT's JSON."""
    written = unwritten(value)
    out = []
    for call in written if isinstance(written, list) else [written]:
        inner = call.get("function", call) if isinstance(call, dict) else None
        arguments = unwritten(inner.get("arguments", {})) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not isinstance(arguments, dict):
            raise DataError(f"{where}: a call must be {{\"name\": …, \"arguments\": {{…}}}}, not {call!r:.200}.")
        own = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        out.append({**own, "type": "function", "function": {"name": inner["name"], "arguments": arguments}})
    return out


def tools_of(value: Any, column: str, place: Place) -> list[dict[str, Any]]:
    """The tools of a row in OpenAI's form, of a list or of its JSON; [] where there are none."""
    listed = unwritten(value)
    if listed in (None, "", [], {}):
        return []
    listed = listed if isinstance(listed, list) else [listed]
    tools = [{"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
             for tool in listed]
    for tool in tools:
        if not isinstance(tool, dict) or not isinstance(tool["function"], dict) or not tool["function"].get("name"):
            raise DataError(f"{place}: a tool of {column!r} has no name: {tool!r:.200}.")
    return tools


def history_of(value: Any, column: str, place: Place) -> list[Message]:
    """What was said before: [["Sky?", "Blue."]] of LLaMA-Factory and ms-swift, or messages."""
    turns = unwritten(value)
    if turns in (None, "", []):
        return []
    out: list[Message] = []
    for number, turn in enumerate(turns if isinstance(turns, list) else [turns], 1):
        if isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn):
            out += [{"role": "user", "content": turn[0]}] if turn[0].strip() else []
            out += [{"role": "assistant", "content": turn[1].strip()}] if turn[1].strip() else []
        elif isinstance(turn, dict):
            out += conversation([turn], column, place)
        else:
            raise DataError(f"{place}: turn {number} of {column!r} must be a question and its answer, [\"…\", \"…\"], "
                            f"not {turn!r:.200}.")
    return out


def unwritten(value: Any) -> Any:
    """What a text holds as JSON, as cells of tables do; the value itself where it holds none."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def are_messages(value: Any) -> bool:
    """Whether a field holds messages, and not a text."""
    messages = unwritten(value)
    return isinstance(messages, list) and bool(messages) and all(isinstance(message, dict) for message in messages)


def unread(row: Mapping[str, Any]) -> set[str]:
    """Names in messages that nothing is made of; one without a value isn't meant."""
    fields = [dialogues.spoken(unwritten(row.get(field)))[0]
              for field in ("messages", "prompt", "response", "chosen", "rejected")]
    return {str(name) for messages in fields if isinstance(messages, list)
            for message in messages if isinstance(message, dict)
            for name, value in message.items()
            if name not in READ and not str(name).endswith("_id") and role_of(name) is None
            and value not in (None, "", [], {})}


def exchange(row: Mapping[str, Any]) -> list[Message]:
    """A prompt, with what belongs to it, and the response where there is one."""
    prompt = "\n".join(part for part in (row.get("prompt"), row.get("context")) if part and part.strip())
    response = row.get("response")
    answer = [] if response is None else [{"role": "assistant", "content": response.strip()}]
    return [{"role": "user", "content": prompt}, *answer]


def said_by_others(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Message]:
    """A conversation in which no control token is what users and tools say: `<|im_start|>system` opens no turn there.

    What system and assistant say is the trainer's own.
    """
    known = controls(tokenizer, template=True)
    return [{**one, "content": uncontrolled(one["content"], known)} if one["role"] in ("user", "tool") else one
            for one in messages]


def told(messages: list[Message], system: str | None) -> list[Message]:
    """The conversation after a column's system prompt; a system message of its own counts more."""
    if not system or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]
