"""Conversations as corpora write them: texts in turn, speakers with names of their own, MOSS's numbered turns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

TURN = re.compile(r"turn_?(\d+)", re.I)
"""What MOSS calls the parts of a conversation: turn_1."""
SIDES = {"Human": "user", "MOSS": "assistant"}
MARKS = re.compile(r"^\s*<\|(?:Human|MOSS)\|>:?\s*|\s*<eo[a-z]>\s*$")
"""What stands around what is said there: <|Human|>: Hello <eoh>"""
NOTHING = re.compile(r"(^|:)\s*(none)?\s*(<eo[a-z]>)?\s*$", re.I)
"""How it says that no tool was called: <|Commands|>: None<eoc>"""
SPEAKERS = ("speaker", "speaker_id", "sender", "author", "who", "user")
"""What says who speaks."""
WORDS = ("utterance", "text", "content", "value", "message", "sentence", "utt")
"""What says what is said."""
KNOWN = {
    "user": "user", "usr": "user", "human": "user", "customer": "user", "client": "user", "seeker": "user",
    "patient": "user", "student": "user", "用户": "user", "用戶": "user",
    "患者": "user", "病人": "user", "顾客": "user",
    "assistant": "assistant", "system": "assistant", "sys": "assistant", "bot": "assistant", "agent": "assistant",
    "wizard": "assistant", "moss": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "supporter": "assistant", "doctor": "assistant", "teacher": "assistant", "助手": "assistant", "客服": "assistant",
    "机器人": "assistant", "机器": "assistant", "医生": "assistant", "系统": "assistant"}
"""Who a speaker is; system speaks to the user in corpora of dialogues (MultiWOZ, Schema-Guided Dialogue)."""
BY_TURNS = "say not who is the user: who speaks first is taken for the user, and the other for the assistant"


def is_talk(value: Any) -> bool:
    """Whether a value may be a conversation: a list of what is said, or MOSS's turns."""
    return isinstance(value, list) or _numbered(value)


def spoken(value: Any) -> tuple[Any, str]:
    """(messages with role and content, what is guessed of them); any other value as it is.

    ["Hi", "Hello"]                                           by turns, the user first
    [{"speaker": "A", "utterance": "Hi"}, {"speaker": "B", …}]  the same, where no name says more
    [{"speaker": "USER", "utterance": "Hi"}, {"speaker": "SYSTEM", …}]
    {"turn_1": {"Human": "<|Human|>: Hi<eoh>", "MOSS": "<|MOSS|>: Hello<eom>", …}, "turn_2": …}
    """
    if _numbered(value):
        return _of_moss(value), ""
    if not isinstance(value, list) or not value:
        return value, ""
    if all(isinstance(one, str) for one in value) and len(value) > 1:
        texts = [one for one in value if one.strip()]
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)], BY_TURNS
    if not all(isinstance(one, Mapping) and not {"from", "role"} & one.keys() for one in value):
        return value, ""
    return _of_speakers(value)


def _of_speakers(value: Sequence[Mapping[str, Any]]) -> tuple[Any, str]:
    """Messages of those who have names; the list as it is where it isn't of that kind."""
    by = next((name for name in SPEAKERS if all(isinstance(one.get(name), str | int) for one in value)), None)
    text = next((name for name in WORDS if all(isinstance(one.get(name), str) for one in value)), None)
    if by is None or text is None:
        return value, ""
    names = [str(one[by]).strip() for one in value]
    roles = [KNOWN.get(name.casefold()) for name in names]
    guessed = ""
    if None in roles or len(set(roles)) != len(set(names)):
        first = list(dict.fromkeys(names))
        if len(first) > 2:
            return value, ""
        roles, guessed = [("user", "assistant")[first.index(name)] for name in names], BY_TURNS
    more = ({name: one[name] for name in one if name not in (by, text)} for one in value)
    return [{**rest, "role": role, "content": one[text]} for one, role, rest in zip(value, roles, more, strict=True)
            if one[text].strip()], guessed


def _numbered(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(
        TURN.fullmatch(str(name)) and isinstance(turn, Mapping) for name, turn in value.items())


def _of_moss(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What both sides say, in the order of the numbers; thoughts, commands and results of tools aren't read."""
    turns = sorted(value.items(), key=lambda one: int(TURN.fullmatch(one[0])[1]))  # type: ignore[index]
    said = ((role, turn.get(side)) for _, turn in turns for side, role in SIDES.items())
    return [{"role": role, "content": MARKS.sub("", MARKS.sub("", text))} for role, text in said
            if isinstance(text, str) and text.strip()]


def odd(value: Any) -> list[str]:
    """What is to be said of a conversation: who speaks was guessed, or tools were called."""
    _, guessed = spoken(value)
    return [*([guessed] if guessed else []),
            *(["have commands and what tools said, which aren't read"] if _calls(value) else [])]


def _calls(value: Any) -> bool:
    """Whether a turn has a command, and not only None: <|Commands|>: Search("cats")<eoc>"""
    return _numbered(value) and any(
        isinstance(text, str) and name not in SIDES and not NOTHING.search(text)
        for turn in value.values() for name, text in turn.items())
