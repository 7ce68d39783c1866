"""The answer that is explained, and where in a row the model says it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["label", "one of several labels", "number", "next word", "masked word", "written word", "tag", "answer",
               "start of the answer", "end of the answer", "choice"]


@dataclass(frozen=True)
class Aim:
    """The answer that is explained."""

    kind: Kind
    name: str
    index: int = 0
    """Its column among what the model says: of labels, of tags, of choices, of the vocabulary."""
    where: int = -1
    """The position that says it, in the row that is read, or in what the decoder has written; of an answer in a text,
    its first token. -1: the whole row says it."""
    until: int = -1
    """Of an answer in a text, its last token."""
    of: str = ""
    """Of a tag, the word that has it."""

    @property
    def is_word(self) -> bool:
        """Whether it is one of the vocabulary."""
        return self.kind.endswith("word")

    @property
    def is_span(self) -> bool:
        """Whether it is a part of the text, or an end of one."""
        return self.kind.endswith("answer")

    @property
    def held(self) -> frozenset[int]:
        """The positions that can't be taken away, for they are what is asked about."""
        return frozenset() if self.is_word else frozenset({self.where, self.until} - {-1})

    @property
    def read_at(self) -> list[int]:
        """The positions that say it."""
        return sorted({self.where, self.until} - {-1})

    def without(self, place: int) -> Aim:
        """Where it is said once the token of a place is taken away."""
        return replace(self, where=self.where - (place <= self.where), until=self.until - (place <= self.until))


def in_words(aim: Aim | None, probability: float | None) -> str:
    """What is explained: `tag 'B-PER' of 'Ada', probability 0.9312`."""
    if aim is None:
        return "no answer is explained"
    if aim.kind == "number":
        return f"the number {probability:.4g}"
    if aim.of:
        return f"{aim.kind} {aim.name!r} of {aim.of!r}, probability {probability:.4f}"
    return f"{aim.kind} {aim.name!r}, probability {probability:.4f}"
