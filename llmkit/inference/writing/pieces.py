"""Pieces of a text as its tokens come: whole characters only, and nothing of a string that ends the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmkit.inference.writing.completion import decoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a character of several tokens decodes to until the last of them is there."""


class Pieces:
    """Tokens in, text out: `add` gives what can be said by now, `end` the rest.

    Only the last few tokens are decoded again with each new one, so that a long text costs no more than a short one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.stopped = False
        """Whether a stop string came: the text ended before it."""
        self._ids: list[int] = []
        self._start = 0  # tokens from here are decoded together: a word's space may hang on the token before it
        self._said = 0  # tokens whose text was handed on
        self._held = ""  # text that may be the beginning of a stop string

    def add(self, token: int) -> str:
        """The text that this token adds; empty while a character isn't whole or a stop string may have begun."""
        self._ids.append(token)
        return self._release(self._new(whole=True), last=False)

    def end(self) -> str:
        """What was held back."""
        return "" if self.stopped else self._release(self._new(whole=False), last=True)

    def _new(self, whole: bool) -> str:
        before = decoded(self.tokenizer, self._ids[self._start : self._said])
        text = decoded(self.tokenizer, self._ids[self._start :])
        if len(text) <= len(before) or (whole and text.endswith(UNFINISHED)):
            return ""
        self._start, self._said = self._said, len(self._ids)
        return text[len(before) :]

    def _release(self, new: str, last: bool) -> str:
        text = self._held + new
        at = min((text.find(one) for one in self.stop if one in text), default=-1)
        if at >= 0:
            self.stopped, self._held = True, ""
            return text[:at]
        keep = 0 if last else max((begun(text, one) for one in self.stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def begun(text: str, stop: str) -> int:
    """How many characters of a stop string a text ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
