"""Instruction tuning: a conversation is given, the assistant's words in it are learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from llmkit.data.fields import find_fields
from llmkit.data.sources import Place, Reader
from llmkit.models import templates
from llmkit.objectives.base import Setup
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError
from llmkit.tasks.base import Row
from llmkit.tasks.shared.writing import Writing, begins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""{"role": "user", "content": "Hello"}"""

ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}
"""Who speaks, by what data sets call them."""
TALK = {"messages": ("conversations", "conversation", "dialog", "turns")}
SYSTEM = {"system": ("system_prompt",)}


@dataclass(config=OPTIONS)
class Instruction(Writing):
    """Answer as the assistant of a conversation; the tokenizer's chat template is used where it has one.

    Rows are {prompt, response}, Alpaca's {instruction, input, output}, or whole conversations: {messages: [{role,
    content}, …]} or ShareGPT's {conversations: [{from, value}, …]}. The loss is on every turn of the assistant and on
    its end; an encoder-decoder learns the last. A conversation that is longer than max_length is cut at its end.
    """

    template: str = "{prompt}\n"
    """How a prompt is written for a tokenizer without a chat template; the answer follows it. A decoder that learned it
    has it as its chat template."""

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
    goes_on = True
    optional = {"context": ("input",), **SYSTEM}

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template must contain {prompt}")

    def worded(self, wish: str) -> str:
        """The wish in the place of a prompt."""
        return self.template.replace("{prompt}", wish)

    # ---- rows ----

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """A column of conversations, where there is one; Alpaca's `input` belongs to its `instruction`, if to any."""
        talk = find_fields(list(row), {}, {**TALK, **SYSTEM}, reader)
        if "messages" in talk and isinstance(row[talk["messages"]], list):
            return talk
        columns = super().columns(row, reader, answered)
        if columns.get("context") == columns["prompt"]:
            del columns["context"]
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """A conversation: {"messages": [{"role": "user", "content": …}, …]}, whatever it was in the file."""
        if "messages" not in row:
            row = super().check(row, columns, place)
        for name, value in row.items():
            if name != "messages" and value is not None and not isinstance(value, str):
                raise DataError(f"{place}: the field {columns[name]!r} is no text: {value!r}.")
        said = conversation(row["messages"], str(columns["messages"]), place) if "messages" in row else exchange(row)
        if row.get("system"):
            said = [{"role": "system", "content": row["system"]}, *said]
        return {"messages": said}

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """Conversations; those to learn from up to the last answer, those to be answered up to the last question."""
        for row, place in super().stream(reader, answered):
            messages = row["messages"]
            who = "assistant" if answered else "user"
            while messages and messages[-1]["role"] != who:
                messages = messages[:-1]
            if messages:
                yield {"messages": messages}, place
            else:
                reader.spare(DataError(f"{place}: the {who} says nothing in this conversation."))

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

    def turns(self, row: Row, place: Place, setup: Setup) -> list[tuple[str, str | None, str]]:
        """All that comes before each answer, and the answer."""
        if setup.tokenizer.chat_template is None:
            return plain(row["messages"], self.template)
        return rendered(row["messages"], setup.tokenizer, place)

    def describe(self, folder: Path, setup: Setup) -> None:
        """Give a decoder whose tokenizer has no chat template one that writes what it learned from.

        Then whoever asks the model, with llmkit or other tools, asks as it was asked.
        """
        if setup.family.shape == "decoder" and setup.tokenizer.chat_template is None and not self.bare(setup):
            (folder / "chat_template.jinja").write_text(as_chat_template(self.template, begins(setup.tokenizer)))


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


def exchange(row: Row) -> list[Message]:
    """A prompt, with what belongs to it, and the response where there is one."""
    prompt, context, response = row["prompt"], row.get("context"), row.get("response")
    asked = f"{prompt}\n{context}" if context and context.strip() else prompt
    said = [] if response is None else [{"role": "assistant", "content": response.strip()}]
    return [{"role": "user", "content": asked}, *said]


def conversation(messages: Any, column: str, place: Place) -> list[Message]:
    """[{"from": "human", "value": "Hi"}] -> [{"role": "user", "content": "Hi"}]; anything else is a DataError."""
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place}: the field {column!r} must be a list of messages, not {messages!r}.")
    out = []
    for number, message in enumerate(messages, 1):
        where = f"{place}: message {number} of {column!r}"
        if not isinstance(message, dict):
            raise DataError(f"{where} must be an object, not {message!r}.")
        speaker, said = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise DataError(f"{where}: its role is {speaker!r}; known are {', '.join(ROLES)}.")
        if not isinstance(said, str) or not said.strip():
            raise DataError(f"{where}: the {speaker} says {said!r}, which is no text.")
        role = ROLES[speaker]
        out.append({"role": role, "content": said.strip() if role == "assistant" else said})
    return out


def plain(messages: Sequence[Message], template: str) -> list[tuple[str, str | None, str]]:
    """The turns in the recipe's template; what the system says stands before the first prompt, on lines of its own."""
    turns: list[tuple[str, str | None, str]] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            turns.append((template.replace("{prompt}", "\n".join(waiting)) if waiting else "", message["content"], ""))
            waiting = []
        else:
            waiting.append(message["content"])
    return [*turns, (template.replace("{prompt}", "\n".join(waiting)), None, "")] if waiting else turns


def rendered(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, place: Place,
) -> list[tuple[str, str | None, str]]:
    """The turns as the chat template writes them, found by rendering the conversation up to and after each answer.

    Raises DataError where the template writes the start of a conversation in another way once more follows: then no
    one text has all answers as they are written when they are asked for.
    """
    if messages[-1]["role"] != "assistant":
        return [(render(messages, tokenizer, place, asking=True), None, "")]
    turns: list[tuple[str, str | None, str]] = []
    before = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        said = message["content"]
        asked = render(messages[:i], tokenizer, place, asking=True)
        whole = render(messages[: i + 1], tokenizer, place)
        at = len(asked)
        if not whole.startswith(said, at):
            at = stands(messages[:i], tokenizer, place)
        if not asked.startswith(before) or not whole.startswith(asked) or not whole.startswith(said, at):
            raise DataError(f"{place}: the chat template doesn't write the conversation up to message {i + 1} as the "
                            "start of the whole (it drops or changes what was said before), so the assistant's words "
                            "can't be told apart; keep only the last turn of each row, or use another template.")
        end = at + len(said)
        turns.append((asked[len(before):], whole[len(asked) : end], whole[end:]))
        before = whole[:end]
    return turns


def stands(before: Sequence[Message], tokenizer: PreTrainedTokenizerBase, place: Place) -> int:
    """Where an answer stands in what the template writes: there may be empty thoughts first."""
    mark = "\ufdd0"  # no character of any text
    return max(0, render([*before, {"role": "assistant", "content": mark}], tokenizer, place).find(mark))


def render(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, place: Place, asking: bool = False) -> str:
    """A conversation in the chat template; where it is `asking`, up to where the answer starts."""
    from jinja2.exceptions import TemplateError

    try:
        return str(templates.apply(tokenizer, messages, tokenize=False, add_generation_prompt=asking))
    except TemplateError as error:
        raise DataError(f"{place}: the chat template refuses this conversation: {error}.") from error
