"""A conversation as text: what is asked, what is answered, and what a template writes after an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmkit.data.sources import Place
from llmkit.models.chatting import templates
from llmkit.models.chatting.tools import known, written_out
from llmkit.system.errors import DataError
from llmkit.tasks.shared.conversation import THOUGHTS, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Said = tuple[str, str | None, str]
"""What is asked, what is said to it (None where that is to be written), and what a template writes after that."""
MARK = "\ufdd0"  # no character of any text


class RewrittenError(DataError):
    """A template writes the start of a conversation in another way once more follows."""


# ---- in the recipe's template ------------------------------------------------------------------------------------


def plain(messages: Sequence[Message], template: str, end: str) -> list[Said]:
    """The turns in the recipe's template; what the system says stands before the first prompt, on lines of its own.

    An answer that isn't learned, and `end` after it, belong to what is asked next.
    """
    turns: list[Said] = []
    waiting: list[str] = []
    read = ""
    for message in messages:
        if message["role"] != "assistant":
            waiting.append(message["content"])
            continue
        asked = template.replace("{prompt}", "\n".join(waiting)) if waiting else ""
        waiting = []
        if message.get("learned", True):
            turns.append((read + asked, message["content"], ""))
            read = ""
        else:
            read += f"{asked}{message['content']}{end}"
    return [*turns, (read + template.replace("{prompt}", "\n".join(waiting)), None, "")] if waiting else turns


def thinking_aloud(messages: Sequence[Message]) -> list[Message]:
    """Thoughts as the models that think write them, before what is said."""
    aloud = []
    for message in messages:
        thought, said = message.get("reasoning_content"), message["content"]
        rest = {name: value for name, value in message.items() if name != "reasoning_content"}
        aloud.append(rest if thought is None else {**rest, "content": f"<think>\n{thought}\n</think>\n\n{said}"})
    return aloud


# ---- in a chat template ------------------------------------------------------------------------------------------


def fitted(
    messages: Sequence[Message], tools: Sequence[Message], tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[list[Message], list[Message] | None]:
    """Messages and tools as a chat template takes them; None: in the recipe's, which knows text alone.

    Calls, results and tools stand in the text where a template doesn't know them, and so do thoughts.
    """
    talk = list(messages)
    called = bool(tools) or any(message["role"] == "tool" or "tool_calls" in message for message in talk)
    knows = tokenizer is not None and known(tokenizer)
    if called and not knows:
        talk = written_out(talk, tools)
    if any("reasoning_content" in message for message in talk):
        name = None if tokenizer is None else thoughts_of(tokenizer)
        talk = thinking_aloud(talk) if name is None else [
            {name if key == "reasoning_content" else key: value for key, value in message.items()} for message in talk]
    return talk, list(tools) if tools and knows else None


def thoughts_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What a chat template calls a message's thoughts; None where it knows of none."""
    template = tokenizer.chat_template
    text = "".join(template.values()) if isinstance(template, dict) else template or ""
    return next((name for name in THOUGHTS if re.search(rf"[.'\"]{name}\b", text)), None)


def views(
    messages: Sequence[Message], tools: Sequence[Message], tokenizer: PreTrainedTokenizerBase, place: Place,
    last: bool = False,
) -> list[list[Said]]:
    """The turns as the chat template writes them: of the whole conversation, with every answer that is learned.

    Where the template drops or changes what was said before (Qwen3's thoughts), there is no such whole: then each
    answer stands alone, behind all that it is an answer to, as it is when it is asked for; `last`: the last one does.
    """
    talk, tools_known = fitted(messages, tools, tokenizer)
    if talk[-1]["role"] != "assistant":
        return [[(render(talk, tokenizer, place, tools_known, asking=True), None, "")]]
    try:
        return [rendered(talk, tools_known, tokenizer, place)]
    except RewrittenError:
        learned = [i for i, message in enumerate(talk) if is_learned(message)]
        if len(learned) < 2:
            raise
        return [rendered([{**one, "learned": j == i} for j, one in enumerate(talk[: i + 1])], tools_known, tokenizer,
                         place) for i in (learned[-1:] if last else learned)]


def is_learned(message: Message) -> bool:
    """Whether a message is an answer to learn."""
    return message["role"] == "assistant" and bool(message.get("learned", True))


def rendered(
    messages: Sequence[Message], tools: Sequence[Message] | None, tokenizer: PreTrainedTokenizerBase, place: Place,
) -> list[Said]:
    """The turns as the chat template writes them, found by rendering the conversation up to and after each answer.

    Raises RewrittenError where the template writes the start of a conversation in another way once more follows: then
    no one text has all answers as they are written when they are asked for.
    """
    turns: list[Said] = []
    before = ""
    for i, message in enumerate(messages):
        if not is_learned(message):
            continue
        asked, said, whole, end = answered(messages[: i + 1], tools, tokenizer, place)
        if not asked.startswith(before) or said is None or not whole.startswith(asked):
            raise RewrittenError(
                f"{place}: the chat template doesn't write the conversation up to message {i + 1} as the start of the "
                "whole (it drops or changes what was said before), so the assistant's words can't be told apart; give "
                "a template of your own (task.template: \"{prompt}\\n\"), or use another model's.")
        turns.append((asked[len(before):], whole[len(asked) : end], whole[end:]))
        before = whole[:end]
    return turns


def answered(
    messages: Sequence[Message], tools: Sequence[Message] | None, tokenizer: PreTrainedTokenizerBase, place: Place,
) -> tuple[str, str | None, str, int]:
    """(what is asked, the last message's words, both and what follows, where the words end); no words: not found."""
    *past, message = messages
    whole = render(messages, tokenizer, place, tools)
    marked = None
    if past:
        asked = render(past, tokenizer, place, tools, asking=True)
    else:  # the assistant speaks first
        marked = render([{**message, "content": MARK, "tool_calls": None}], tokenizer, place, tools)
        asked = marked.partition(MARK)[0]
    said, at = message["content"], len(asked)
    if message.get("tool_calls"):
        marked = render([*past, {"role": "assistant", "content": MARK}], tokenizer, place, tools)
        after = marked.partition(MARK)[2]
        if not whole.endswith(after):  # calls may end in another way
            after = whole[len(whole.rstrip()):]
            closing = [token for token in specials(tokenizer) if whole.rstrip().endswith(token)]
            after = max(closing, key=len, default="") + after
        found = len(whole) - len(after) > at
        return asked, "" if found else None, whole, len(whole) - len(after)
    if not whole.startswith(said, at):  # there may be thoughts first
        marked = marked or render([*past, {**message, "content": MARK}], tokenizer, place, tools)
        at = max(0, marked.find(MARK))
    return asked, said if whole.startswith(said, at) else None, whole, at + len(said)


def specials(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that stand for no text, as they are written."""
    return [str(one) for one in tokenizer.added_tokens_decoder.values() if one.special]


def render(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, place: Place,
    tools: Sequence[Message] | None = None, asking: bool = False,
) -> str:
    """A conversation in the chat template; where it is `asking`, up to where the answer starts."""
    from jinja2.exceptions import TemplateError

    talk = [{name: value for name, value in message.items() if name != "learned" and value is not None}
            for message in messages]
    more: Mapping[str, Any] = {} if tools is None else {"tools": list(tools)}
    try:
        return str(templates.apply(tokenizer, talk, tokenize=False, add_generation_prompt=asking, **more))
    except TemplateError as error:
        raise DataError(f"{place}: the chat template refuses this conversation: {error}.") from error
