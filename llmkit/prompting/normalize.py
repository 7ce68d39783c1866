"""Texts written one way, and probabilities that can be compared: around any other mode."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from llmkit import recipe
from llmkit.prompting.base import Kit, Prompt, Prompting, Question, Row, Scores
from llmkit.prompting.shared.template import HAN, filled
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError

CHINESE = dict(zip(",.?!:;()", "，。？！：；（）"))
ENGLISH = {**{wide: narrow for narrow, wide in CHINESE.items()}, "、": ",", "“": '"', "”": '"', "‘": "'", "’": "'"}


@dataclass(config=OPTIONS)
class Normalize(Prompting):
    """Another mode, whose texts are normalised before it sees them and whose scores are after.

    Without `of`, the input is all of the prompt. Scores matter where labels are told apart: `length` (as GPT-3 does for
    answers of unequal length, Brown et al. 2020, §2.4), `pmi` (domain-conditional PMI, Holtzman et al. 2021: what the
    word has after the prompt of an empty input and no examples is taken off) and `calibration` (Zhao et al. 2021: what
    each label has after inputs that say nothing is divided out).
    """

    of: str | dict[str, Any] | None = None
    """The mode that is normalised: cloze(k=4) on a command line, {name: cloze, k: 4} in a recipe."""
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """NFC: one code for each character; NFKC: also one width and form, ﬁ -> fi, Ａ -> A."""
    spaces: bool = True
    """Runs of spaces become one, none at the ends; lines stay."""
    punctuation: Literal["keep", "english", "chinese"] = "keep"
    """english: 你好，-> 你好, ; chinese: the other way, beside a Chinese character."""
    template: str | None = None
    """What is put around every input, examples' too: "Review: {text}"."""
    length: bool = False
    """Compare mean log-probabilities a token."""
    pmi: bool = False
    """Take off what the answer has without the input."""
    calibration: bool | list[str] = False
    """Divide out what a label has after inputs that say nothing: "N/A", "[MASK]" and an empty one, or these."""

    def __post_init__(self) -> None:
        if self.template is not None and "{text}" not in self.template:
            raise ValueError("template must contain {text}")
        if self.pmi and self.length:
            raise ValueError("pmi compares whole answers; length is not for it")
        try:
            inner = self.inner
        except RequestError as error:
            raise ValueError(str(error).rstrip(".")) from error
        if isinstance(inner, Normalize):
            raise ValueError("of: a normalize in a normalize; say all in one")
        if self.calibration and inner.varies:
            raise ValueError("calibration needs the same examples for every input; selection: nearest has others")
        if self.calibration == []:
            raise ValueError("calibration needs inputs that say nothing")
        if (self.pmi or self.calibration) and inner.turns:
            raise ValueError("pmi and calibration compare labels after a text; reverse compares texts after a label")

    @cached_property
    def inner(self) -> Prompting:
        """The mode that is normalised."""
        made: Prompting = recipe.plugin("prompting", self.of, "of") if self.of is not None else _Bare()
        return made

    @property
    def scores(self) -> Scores:
        """By the three options."""
        usual = ["N/A", "[MASK]", ""]
        nothing = usual if self.calibration is True else self.calibration or []
        return Scores(self.length, self.pmi, tuple(nothing))

    @property
    def untrained(self) -> str:
        """As the mode inside; and what is done to scores is done to those of a prompt."""
        if self.length or self.pmi or self.calibration:
            return ("length, pmi and calibration change how the words of labels are compared, and a trained model "
                    "compares none; leave them out")
        return self.inner.untrained

    @property
    def turns(self) -> bool:  # type: ignore[override]
        """As the mode inside."""
        return self.inner.turns

    @property
    def named(self) -> tuple[str, ...] | None:
        """As the mode inside."""
        return self.inner.named

    @property
    def wants(self) -> int:
        """As many as the mode inside."""
        return self.inner.wants

    @property
    def drawn(self) -> bool:
        """As the mode inside."""
        return self.inner.drawn

    @property
    def varies(self) -> bool:
        """As the mode inside."""
        return self.inner.varies

    def reseeded(self, seed: int) -> Prompting:
        """The mode inside, with another seed."""
        return self if self.of is None else replace(self, of=recipe.block("prompting", self.inner.reseeded(seed)))

    def bare(self) -> Prompting:
        """The mode inside, without examples."""
        return self if self.of is None else replace(self, of=recipe.block("prompting", self.inner.bare()))

    def check(self, kit: Kit) -> None:
        """As the mode inside."""
        self.inner.check(kit)

    def chats(self, kit: Kit) -> bool:
        """As the mode inside."""
        return self.inner.chats(kit)

    def words(self, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """As the mode inside says them."""
        return self.inner.words(labels)

    def prompt(self, row: Row, kit: Kit) -> Prompt:
        """The prompt of the mode inside, of normalised texts."""
        return self.inner.prompt(row, replace(kit, clean=self.clean))

    def questions(self, row: Row, words: Sequence[str], kit: Kit) -> list[Question]:
        """The questions of the mode inside, of normalised texts."""
        return self.inner.questions(row, words, replace(kit, clean=self.clean))

    def settled(self, kit: Kit) -> Prompting:
        """The mode inside, with nothing left open."""
        return self if self.of is None else replace(self, of=recipe.block("prompting", self.inner.settled(kit)))

    def clean(self, text: str) -> str:
        """A text written one way."""
        if self.unicode != "none":
            text = unicodedata.normalize(self.unicode, text)
        if self.punctuation == "english":  # a wide sign brings its space along, a narrow one has it after
            text = re.sub(r"[，。？！：；、](?=\w)", lambda sign: ENGLISH[sign[0]] + " ", text)
            text = "".join(ENGLISH.get(sign, sign) for sign in text)
        if self.punctuation == "chinese":
            beside = rf"(?<=[{HAN}])(?:[,?!:;()]|\.(?!\w)) ?|[(](?=[{HAN}])"
            text = re.sub(beside, lambda sign: CHINESE[sign[0][0]], text)
        if self.spaces:
            text = re.sub(r"[^\S\n]+", " ", text)
            text = re.sub(r" ?\n ?", "\n", text).strip()
        return text if self.template is None else filled(self.template, {"text": text})


class _Bare(Prompting):
    """The input as it is."""

    def prompt(self, row: Row, kit: Kit) -> Prompt:
        text = "\n".join(kit.clean(text) for text in row.values())
        if kit.chat:
            messages = ({"role": "user", "content": text},)
            return Prompt(kit.render(messages), messages=messages)
        return Prompt(text)

    def chats(self, kit: Kit) -> bool:
        return kit.chat
