"""Where a JSON array goes on behind an element that can't be read."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from io import TextIOWrapper

from llmkit.data.files import CHUNK

SPACE = re.compile(r"[ \t\r\n]*")
FARTHEST = 16 * CHUNK
"""Characters in which the next element must stand."""
_STRING_OR_EDGE = re.compile(r'"(?:[^"\\\n]|\\.)*"|[\[\]{}]')
_MAYBE = re.compile(r"[\s,}\]]\s*(?=\{)")


class JsonWindow:
    """A part of a file, from which what was read is dropped."""

    def __init__(self, file: TextIOWrapper) -> None:
        self.file = file
        self.text, self.at, self.line = "", 0, 1
        self.whole = True
        """Whether the text begins where a line does."""

    def pass_spaces(self) -> None:
        """Go on to what is no space."""
        self.move(_after(self.text, self.at))

    def move(self, to: int) -> None:
        """Go on to a place in the text."""
        self.line, self.at = self.line + self.text.count("\n", self.at, to), to

    def refill(self) -> bool:
        """Go on with more of the file, and what is there of its line; False at its end."""
        first = not self.text
        start = self.text.rfind("\n") + 1
        self.whole = (start > 0 or self.whole) and len(self.text) - start < CHUNK
        kept = self.text[start:] if self.whole else ""
        more = self.file.read(CHUNK)
        self.text, self.at = kept + (more.removeprefix("\ufeff") if first else more), len(kept)
        return bool(more)

    def more(self, count: int) -> bool:
        """Have more of the file behind what is there, and nothing before the place; False at its end."""
        more = self.file.read(count)
        if more:
            self.whole = self.whole and self.at == 0
            self.text, self.at = self.text[self.at:] + more, 0
        return bool(more)

    def column(self) -> int | None:
        """How far from the beginning of its line an element stands that is the first there; None where it isn't."""
        start = self.text.rfind("\n", 0, self.at) + 1
        before = self.text[start : self.at]
        return len(before) if (start or self.whole) and not before.strip(" \t[") else None


def behind(window: JsonWindow, column: int | None, keys: Collection[str]) -> int | None:
    """Where the next element begins behind the broken one at the window's place, or the end of the array.

    column   where elements stand in their lines: the next one is the first that stands there, too
    keys     what rows before had; one of them tells a row from an object that is in the broken one

    None where nothing follows up to the end of the file. ValueError where that is farther than can be looked.
    """
    ended = False
    while True:
        found = _next(window.text[window.at:], column, keys, ended)
        if found is not None or ended:
            return None if found is None else window.at + found
        if len(window.text) - window.at > FARTHEST:
            raise ValueError(f"the next row isn't found within {FARTHEST:,} characters")
        ended = not window.more(max(CHUNK, len(window.text) - window.at))


def _next(text: str, column: int | None, keys: Collection[str], ended: bool) -> int | None:
    if column is not None:  # a line end is never within a string
        line = re.search(rf"\n[ \t]{{{column}}}(?=\{{)", text)
        if line is None and ended and not keys:
            return _behind_its_end(text)  # the first of all may only seem to be one of a line each
        return None if line is None else line.end()
    found = [pos for pos in (_behind_its_end(text), _first_row(text, keys)) if pos is not None]
    return min(found, default=None)


def _behind_its_end(text: str) -> int | None:
    """Where what follows the brace that closes an element begins: the next element, or the array's end."""
    depth = 0
    for edge in _STRING_OR_EDGE.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(edge[0], 0)
        if depth == 0:
            after = _after(text, edge.end())
            if text[after : after + 1] == "]":
                return after
            behind = _after(text, after + 1)
            return behind if text[after : after + 1] == "," and text[behind : behind + 1] == "{" else None
    return None


def _first_row(text: str, keys: Collection[str]) -> int | None:
    """Where the first object begins that has a key of the rows before, and is followed by another or the end."""
    decoder = json.JSONDecoder()
    for match in _MAYBE.finditer(text, 1) if keys else ():
        try:
            row, end = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and row.keys() & set(keys) and text[(after := _after(text, end)) : after + 1] in ",]":
            return match.end()
    return None


def _after(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    return at if space is None else space.end()
