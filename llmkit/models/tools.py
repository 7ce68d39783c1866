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
KEPT = ("reasoning_content", "learned")
"""What a message of the assistant has beside what it says."""


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
