"""Tools: how a model is told what it can call, in training as when it is used.

Templates that know tools are given them. For the others, the tools stand in the system message and calls and results in
the messages in the form of Hermes and Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>` and
`<tool_response>…</tool_response>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TOLD = """You can call functions. Here they are as JSON schemas, one a line:
<tools>
{tools}
</tools>
To call one, answer with its name and its arguments as JSON between <tool_call> and </tool_call>, and nothing else:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""

Message = dict[str, Any]
DEEPEST = 64
"""Levels of a call's arguments; people's have three or four."""
KEPT = ("reasoning_content", "learned")
"""What a message of the assistant has beside what it says."""


def parsed(text: str, whole: bool = True) -> Any:
    """The JSON of a call, or of its arguments; ValueError for everything that can't be written out again as JSON.

    That is what isn't JSON, and what Python reads all the same: NaN, numbers beyond a float or of thousands of digits,
    halves of characters, more than DEEPEST levels. Unless `whole`, something else may stand behind it.
    """
    decoder = json.JSONDecoder()
    try:
        value = decoder.decode(text) if whole else decoder.raw_decode(text)[0]
    except RecursionError as error:
        raise ValueError(f"more than {DEEPEST} levels") from error
    level, depth = [value], 0
    while level := [below for one in level if isinstance(one, dict | list)
                    for below in (one.values() if isinstance(one, dict) else one)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def known(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a chat template says anything about tools."""
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template or ""]
    return any(re.search(r"\btools\b", text) for text in texts)


def written_out(messages: Sequence[Message], tools: Sequence[Message]) -> list[Message]:
    """Messages for a template that knows no tools: all of it as text of system, user and assistant."""
    stated = TOLD.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    plain: list[Message] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "assistant" and message.get("tool_calls"):
            calls = [call["function"] for call in message["tool_calls"]]
            parts = [content] if content else []
            parts += [f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in calls]
            own = {name: message[name] for name in KEPT if name in message}
            plain.append({"role": role, "content": "\n".join(parts), **own})
        elif role == "tool":
            said = f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1]["role"] == "user" and plain[-1]["content"].startswith("<tool_response>"):
                plain[-1] = {"role": "user", "content": plain[-1]["content"] + "\n" + said}
            else:
                plain.append({"role": "user", "content": said})
        else:
            own = {name: message[name] for name in KEPT if name in message}
            plain.append({"role": role, "content": content, **own})
    if tools and plain and plain[0]["role"] == "system":
        plain[0] = {"role": "system", "content": f"{plain[0]['content']}\n\n{stated}"}
    elif tools:
        plain.insert(0, {"role": "system", "content": stated})
    return plain
