"""Tools: how a model's calls are read out of what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.inference.writing.pieces import begun
from llmkit.models.chatting.tools import CLOSE, OPEN, known, parsed, written_out

FENCE = "```"
__all__ = ["CLOSE", "OPEN", "Call", "Holding", "beginning", "calls", "known", "parsed", "written_out"]


def beginning(choice: str | Mapping[str, Any]) -> str:
    """What an answer begins with where a call is required: it is put in the model's mouth."""
    if choice == "required":
        return f'{OPEN}\n{{"name": "'
    if isinstance(choice, Mapping):
        return f'{OPEN}\n{{"name": {json.dumps(choice["function"]["name"])}, "arguments": '
    return ""


@dataclass(frozen=True)
class Call:
    """A call that a model made."""

    name: str
    arguments: str
    """JSON, as the API has it."""


def calls(text: str, names: Sequence[str]) -> tuple[str, list[Call]]:
    """The text beside the calls, and the calls: between tags, or a text that is nothing but their JSON.

    What doesn't parse, or names no tool, stays text. A missing end tag is forgiven: small models forget it.
    """
    found: list[Call] = []
    beside, at = [], 0
    for match in re.finditer(f"{OPEN}(.*?)(?:{CLOSE}|(?={OPEN})|$)", text, re.DOTALL):
        here = _parsed(match[1], names)
        if here:
            beside.append(text[at : match.start()])
            found, at = found + here, match.end()
    beside.append(text[at:])
    if not found:
        found = _parsed(_unfenced(text.strip()), names)
        return ("", found) if found else (text, [])
    return "".join(beside).strip(), found


def _unfenced(text: str) -> str:
    """A text without the fence of Markdown around it: ```json {…} ```  ->  {…}"""
    fenced = len(text) >= 2 * len(FENCE) and text.startswith(FENCE) and text.endswith(FENCE)
    return text[len(FENCE) : -len(FENCE)].removeprefix("json").strip() if fenced else text


def _parsed(text: str, names: Sequence[str]) -> list[Call]:
    """Calls in JSON, one or a list of them; nothing where any of it is something else."""
    try:
        value = parsed(text.strip(), whole=False)
    except ValueError:
        return []
    found = []
    for call in value if isinstance(value, list) else [value]:
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            call = call["function"]
        if not isinstance(call, dict) or call.get("name") not in names:
            return []
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = parsed(arguments)
            except ValueError:
                return []
        if not isinstance(arguments, dict):
            return []
        found.append(Call(call["name"], json.dumps(arguments, ensure_ascii=False)))
    return found


class Holding:
    """A streamed answer that may turn out to be a call: what may belong to one is held back until the end."""

    def __init__(self) -> None:
        self.held = ""
        self._text = False

    def add(self, piece: str) -> str:
        """What is certainly text."""
        self.held += piece
        start = self.held.lstrip()
        if not self._text and (not start or start[0] in "{[`"):
            return ""
        self._text = True
        at = self.held.find(OPEN)
        if at < 0:
            at = len(self.held) - begun(self.held, OPEN)
        said, self.held = self.held[:at], self.held[at:]
        return said
