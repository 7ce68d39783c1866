"""Instruction tuning: a conversation is given, the assistant's words in it are learned."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from llmkit.data.fields import find_fields, no_text
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.data.swapping.pairs import Swaps
from llmkit.objectives.base import Setup
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.base import Encoded, Row, say
from llmkit.tasks.shared.conversation import (
    BESIDE,
    SYSTEM,
    TALK,
    Message,
    are_messages,
    conversation,
    exchange,
    history_of,
    said_by_others,
    swapped_talk,
    told,
    tools_of,
    unread,
    unwritten,
)
from llmkit.tasks.shared.forms import dialogues, threads
from llmkit.tasks.shared.rendering import Said, fitted, is_learned, plain, views
from llmkit.tasks.shared.writing import Writing, begins

TEMPLATE = "{prompt}\n"
"""How a prompt is written where nothing else is said."""


@dataclass(config=OPTIONS)
class Instruction(Writing):
    """Answer as the assistant of a conversation; the tokenizer's chat template is used where it has one.

    Rows are {prompt, response}, Alpaca's {instruction, input, output, history}, or whole conversations: {messages:
    [{role, content}, …]}, ShareGPT's {conversations: [{from, value}, …]} or TRL's {prompt: […], completion: […]}, with
    the tools that can be called beside them. The loss is on every turn of the assistant, its thoughts, calls and end,
    but for turns with weight: 0, train: false or loss: false; an encoder-decoder learns the last. A conversation that
    is longer than max_length is cut at its end, and left out where its first prompt alone is longer. Where a chat
    template writes earlier turns in another way once more follows (Qwen3's), each answer is a row.
    """

    template: str = TEMPLATE
    """How a prompt is written; the answer follows it. Where nothing is said here, a tokenizer's chat template is used,
    if it has one. A decoder that learned this one has it as its chat template."""

    wanted = {
        "prompt": ("instruction", "question", "query", "input", "text", "document", "source"),
        "response": ("output", "answer", "completion", "summary", "target", "chosen"),
    }
    answers = ("response",)
    example = (
        {"prompt": "Name a colour.", "response": "Blue."},
        {"prompt": "Which animal says moo?", "response": "A cow does."},
    )
    prompted = "prompt"
    verb = "chat"
    unswapped = "tools are called in them"
    goes_on = True
    varies = True
    optional = {"context": ("input",), **SYSTEM, **BESIDE}

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template must contain {prompt}")

    def worded(self, wish: str) -> str:
        """The wish in the place of a prompt."""
        return self.template.replace("{prompt}", wish)

    # ---- rows ----

    def unfolded(self, reader: Reader, answered: bool) -> Rows:
        """A conversation a row; of trees of messages (OpenAssistant), one of each."""
        return threads.conversations(reader.rows(), reader.notes, reader.name)

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """A column of conversations, where there is one; Alpaca's `input` belongs to its `instruction`, if to any."""
        talk = find_fields(list(row), {}, {**TALK, **SYSTEM, **BESIDE}, reader)
        if "messages" in talk and dialogues.is_talk(unwritten(row[talk["messages"]])):
            return talk
        columns = super().columns(row, reader, answered)
        if columns.get("context") == columns["prompt"]:
            del columns["context"]
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """A conversation: {"messages": [{"role": "user", "content": …}, …]}, whatever it was in the file."""
        own = {name: row.pop(name, None) for name in BESIDE}
        said = before = history_of(own["history"], str(columns.get("history")), place)
        odd = dialogues.odd(unwritten(row.get("messages")))
        if "messages" in row:
            said = [*before, *conversation(row["messages"], str(columns["messages"]), place)]
        elif are_messages(row["prompt"]):  # TRL: both sides are messages
            said = [*before, *conversation(row["prompt"], str(columns["prompt"]), place)]
            if row.get("response") is not None:
                answer = row["response"] if are_messages(row["response"]) else [
                    {"role": "assistant", "content": row["response"]}]
                said += conversation(answer, str(columns["response"]), place)
        else:
            said = [*before, *exchange(self.texts_of(row, columns, place))]
        if not isinstance(row.get("system"), str | None):
            raise no_text("system", columns["system"], row["system"], place)
        tools = tools_of(own["tools"], str(columns.get("tools")), place)
        talk = told(said, row.get("system"))
        odd += [f"have {name!r} in a message, which isn't read" for name in sorted(unread(row))]
        if row.get("system") and talk[0]["content"] != row["system"]:
            odd.append("have a system prompt in a column and another in their messages, which counts")
        return {"messages": talk, **({"tools": tools} if tools else {}), **({"odd": odd} if odd else {})}

    def texts_of(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """A prompt and its response, which are texts; where an instruction says nothing, its input is the prompt."""
        if str(row.get("context") or "").strip() and not str(row["prompt"] or "").strip():
            row = {**row, "prompt": row["context"], "context": None}
        row = super().check(row, columns, place)
        for name, value in row.items():
            if value is not None and not isinstance(value, str):
                raise no_text(name, columns[name], value, place)
        return row

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """Conversations; those to learn from up to the last answer, those to be answered up to the last question."""
        silent, odd = 0, Counter[str]()
        for row, place in super().stream(reader, answered):
            odd.update(row.pop("odd", ()))
            messages = row["messages"]
            told_to = [i for i, one in enumerate(messages) if (is_learned(one) if answered else one["role"] in (
                "user", "tool"))]
            if told_to:
                yield {**row, "messages": messages[: told_to[-1] + 1]}, place
            elif answered and any(message["role"] == "assistant" for message in messages):
                silent += 1
            else:
                who = "assistant" if answered else "user"
                reader.spare(DataError(f"{place}: the {who} says nothing in this conversation."))
        for what, count in odd.items():
            say(reader, f"{reader.name}: {count:,} rows {what}")
        if silent:
            say(reader, f"{reader.name}: {silent:,} conversations have no answer that is to be learned, and are left "
                        "out")

    def swapped(self, row: Row, swaps: Swaps) -> Row | None:
        """What is said and thought; None where tools are called, for what these are given and answer is fixed."""
        messages = swapped_talk(row["messages"], swaps)
        return None if messages is None else {**row, "messages": messages}

    def texts(self, reader: Reader) -> Iterator[str]:
        """What is said."""
        return (message["content"] for row, _ in self.read(reader) for message in row["messages"])

    def turned(self, row: Row, place: Place) -> Row:
        """A single exchange, with the answer as its question."""
        who = [message["role"] for message in row["messages"]]
        if who != ["user", "assistant"]:
            raise DataError(f"{place}: reverse takes a question and its answer; here speak: {', '.join(who)}.")
        asked, said = row["messages"]
        return {"messages": [{**asked, "content": said["content"]}, {**said, "content": asked["content"]}]}

    def around(self, row: Row, prompt: Callable[[Mapping[str, str]], str]) -> Row:
        """The first question of a conversation in the prompt."""
        first = next((i for i, message in enumerate(row["messages"]) if message["role"] == "user"), None)
        return {**row, "messages": [
            {**message, "content": prompt({"text": message["content"]})} if i == first else message
            for i, message in enumerate(row["messages"])]}

    # ---- features ----

    def chats(self, setup: Setup) -> bool:
        """In the tokenizer's chat template, where it has one and the recipe doesn't say how a prompt is written."""
        return setup.tokenizer.chat_template is not None and self.template == TEMPLATE

    def views(self, row: Row, place: Place, setup: Setup) -> list[list[Said]]:
        """All that comes before each answer, and the answer; of a row that says so, the last one's, where they part."""
        messages, tools = said_by_others(row["messages"], setup.tokenizer), row.get("tools", ())
        if self.chats(setup):
            return views(messages, tools, setup.tokenizer, place, last=row.get("last", False))
        return [plain(fitted(messages, tools, None)[0], self.template, str(setup.tokenizer.eos_token))]

    def encoded(self, rows: list[tuple[Row, Place]], reader: Reader, setup: Setup, cut: list[int]) -> Encoded:
        """Say also where one conversation became several rows, and by which template they are written."""
        found = super().encoded(rows, reader, setup, cut)
        if setup.tokenizer.chat_template is not None and not self.chats(setup):
            say(reader, f"{reader.name}: task.template is used, not the tokenizer's chat template")
        if len(found) > len(found.rows):
            say(reader, f"{reader.name}: {len(found.rows):,} conversations are {len(found):,} rows, one an answer: the "
                        "chat template writes what was said before in another way once more follows")
        return found

    def ends(self, setup: Setup) -> list[int]:
        """The tokens that it learns to end an answer with: the chat template's own end of a turn, else the end token.

        A template may end answers that aren't the last, and calls, in other ways.
        """
        found: list[int] = []
        for messages, tools in samples():
            try:
                talks = self.talks([({"messages": messages, "tools": tools}, Place("a sample", None))], setup)
            except (DataError, RequestError):  # it may know no tools, or want the system to speak first
                continue
            found += [end for _, talk in talks for _, said, end in talk if said is not None and end not in found]
        return found or super().ends(setup)

    def describe(self, folder: Path, setup: Setup) -> None:
        """Give a decoder that learned the recipe's template one as its chat template, and the end of its turns.

        Then whoever asks the model, with llmkit or other tools, asks as it was asked.
        """
        super().describe(folder, setup)
        if setup.family.shape == "decoder" and not self.chats(setup) and not self.bare(setup):
            (folder / "chat_template.jinja").write_text(as_chat_template(self.template, begins(setup.tokenizer)))


def samples() -> list[tuple[list[Message], list[dict[str, Any]]]]:
    """Short conversations, with and without a system prompt and a call of a tool."""
    asked: Message = {"role": "user", "content": "Hello"}
    said: Message = {"role": "assistant", "content": "Yes"}
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    tool = {"type": "function", "function": {"name": "look", "description": "Look.",
                                             "parameters": {"type": "object", "properties": {}}}}
    calling: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
    looked: list[Message] = [asked, calling, {"role": "tool", "content": "4"}, said]
    return [([asked, said], []), ([asked, said, asked, said], []),
            ([{"role": "system", "content": "Help."}, asked, said], []), (looked, [tool])]


def as_chat_template(template: str, begins: bool) -> str:
    """The template of a recipe as Jinja has it; `begins`: after the begin token."""
    asked = f"{{{{- {json.dumps(template)} | replace('{{prompt}}', ns.asked) -}}}}"
    return (("{{- bos_token -}}" if begins else "")
            + "{%- set ns = namespace(asked=none) -%}{%- for message in messages -%}"
            "{%- if message['role'] == 'assistant' -%}{%- if ns.asked is not none -%}" + asked + "{%- endif -%}"
            "{{- message['content'] + eos_token -}}{%- set ns.asked = none -%}{%- elif ns.asked is none -%}"
            "{%- set ns.asked = message['content'] -%}{%- else -%}"
            "{%- set ns.asked = ns.asked + '\\n' + message['content'] -%}{%- endif -%}{%- endfor -%}"
            "{%- if ns.asked is not none -%}" + asked + "{%- endif -%}\n")
