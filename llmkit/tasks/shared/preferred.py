"""Rows of preferences, as TRL, HH-RLHF, OpenAI, ms-swift and LLaMA-Factory write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmkit.data.fields import no_text
from llmkit.data.sources import Place
from llmkit.system.errors import DataError
from llmkit.tasks.shared.conversation import (
    Message,
    are_messages,
    conversation,
    exchange,
    history_of,
    told,
    tools_of,
    unread,
    unwritten,
)

BOTH = ("chosen", "rejected")
SPEAKER = re.compile(r"\n*(?:^|\n\n)(Human|Assistant):[ \n]?")
Answer = str | Message
"""What is said: a text, or a message where there is more to it (calls, thoughts)."""


def is_spoken(said: Any) -> bool:
    r"""Whether a text is a whole conversation, as HH-RLHF has it: "\n\nHuman: Sky?\n\nAssistant: Blue."."""
    return isinstance(said, str) and said.lstrip().startswith("Human:") and "\n\nAssistant:" in said


def spoken(said: str) -> list[dict[str, str]]:
    """The messages of such a text."""
    _, *parts = SPEAKER.split(said)
    return [{"role": who, "content": what} for who, what in zip(parts[::2], parts[1::2], strict=True) if what.strip()]


def is_two(said: Any) -> bool:
    """Whether a field holds both answers, the better one first: LLaMA-Factory's older `output`."""
    found = unwritten(said)
    return isinstance(found, list) and len(found) == 2 and all(isinstance(one, str) for one in found)


def liked(said: Any, column: str, place: Place) -> bool:
    """Whether the one answer of a row is a good one."""
    if said in (True, 1, "true", "True", "1"):
        return True
    if said in (False, 0, "false", "False", "0"):
        return False
    raise DataError(f"{place}: the field {column!r} is {said!r}; an answer is wanted (true) or not (false).")


def read(row: Mapping[str, Any], columns: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """{"messages": what was said before, "chosen", "rejected"}, of any form; `liked` rows have one of the two."""
    row = dict(row)
    if isinstance(asked := unwritten(row.get("prompt")), dict) and "messages" in asked:  # OpenAI
        row |= {"prompt": asked["messages"], "tools": row.get("tools") or asked.get("tools")}
    if row.get("both") is not None:
        row["chosen"], row["rejected"] = unwritten(row["both"])
    messages = None if "messages" not in row else conversation(row["messages"], str(columns["messages"]), place)
    if messages and "label" in row and "response" not in row:  # ms-swift: the last message is the answer
        messages, row["response"] = messages[:-1], messages[-1:]
    elif messages and "chosen" not in row and "label" not in row:
        messages, row["chosen"] = messages[:-1], messages[-1:]
    names: tuple[str, ...] = BOTH
    if "label" in row:
        names = ("chosen",) if liked(row["label"], str(columns["label"]), place) else ("rejected",)
        row[names[0]] = row["response"]
    said = {name: answer(row[name], str(columns.get(name, "messages")), place) for name in names}
    if messages and messages[-1]["role"] == "assistant" and all(asked for asked, _ in said.values()):
        messages = None  # UltraFeedback: the chosen conversation once more
    before = messages or earlier(row, columns, place)
    if not before:
        before, *others = (one for one, _ in said.values())
        if any(before != other for other in others) or not before:
            both = " and ".join(repr(columns.get(name, "messages")) for name in names)
            raise DataError(f"{place}: {both} must be the same conversation up to their last message." if before else
                            f"{place}: nothing is asked before {both}: a prompt is needed, or messages.")
    history = history_of(row.get("history"), str(columns.get("history")), place)
    before = told([*history, *before], row.get("system"))
    if before[-1]["role"] == "assistant":
        raise DataError(f"{place}: the last message before the two answers is the assistant's own.")
    tools = tools_of(row.get("tools"), str(columns.get("tools")), place)
    made = {name: short(last) for name, (_, last) in said.items()}
    odd = [f"have {name!r} in a message, which isn't read" for name in sorted(unread(row))]
    if len(made) == 2 and made["chosen"] == made["rejected"]:
        odd.append("have the same answer twice, of which nothing is learned")
    return {"messages": before, **made, **({"tools": tools} if tools else {}), **({"odd": odd} if odd else {})}


def earlier(row: Mapping[str, Any], columns: Mapping[str, Any], place: Place) -> list[Message]:
    """What the prompt of a row says; nothing where its answers are whole conversations."""
    if "prompt" not in row or whole(row):
        return []
    if are_messages(row["prompt"]):
        return conversation(row["prompt"], str(columns["prompt"]), place)
    for name in ("prompt", "context"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise no_text(name, columns[name], row[name], place)
    if is_spoken(row["prompt"]):
        return conversation(spoken(row["prompt"]), str(columns["prompt"]), place)
    return exchange({**row, "response": None})


def whole(row: Mapping[str, Any]) -> bool:
    """Whether the answers say themselves what came before them."""
    given = [unwritten(row[name]) for name in BOTH if row.get(name) is not None]
    return bool(given) and all(is_spoken(one) or (are_messages(one) and len(one) > 1) for one in given)


def answer(said: Any, column: str, place: Place) -> tuple[list[Message], Message]:
    """(what was said before, the answer) of a text, a message, or a conversation that ends with it."""
    said = unwritten(said)
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], str):
        said = said[0]
    if is_spoken(said):
        said = spoken(said)
    if isinstance(said, str):
        return [], {"role": "assistant", "content": said.strip()}
    messages = conversation([said] if isinstance(said, dict) else said, column, place)
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{place}: the last message of {column!r} isn't the assistant's.")
    return messages[:-1], messages[-1]


def short(message: Message) -> Answer:
    """A message's text, where there is no more to it."""
    return str(message["content"]) if not message.keys() - {"role", "content", "learned"} else message
