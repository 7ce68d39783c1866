"""A gap in a text: "{text} It was {mask}." and the label whose word fills it best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.prompting.base import Kit, Prompt, Row, Shot
from llmkit.prompting.shared.examples import FewShot, for_pairs, shown
from llmkit.prompting.shared.template import filled
from llmkit.recipe.registry import OPTIONS


@dataclass(config=OPTIONS)
class Cloze(FewShot):
    """A template with a gap, and a verbalizer that gives each label a word: classification without training.

    Schick & Schütze (2021) ask masked models this way ("pattern" and "verbalizer"); Petroni et al. (2019) asked them
    for facts. A causal model is given what stands before the gap; what stands behind counts with the word where a text
    of the input is in it. An encoder-decoder finds a sentinel in the gap (or its mask token) and writes the word. A
    word of several tokens is as many gaps to a masked model, filled from left to right (Kauf & Ivanova 2023).
    """

    k: Annotated[int, Field(ge=0)] = 0
    """Examples before the input, each the template with its gap filled (Gao et al. 2021)."""
    template: str = "{text} It was {mask}."
    """The text and the gap. Of a pair also {text_pair}: "{text}? {mask}, {text_pair}"."""

    def __post_init__(self) -> None:
        if self.template.count("{mask}") != 1 or "{text}" not in self.template:
            raise ValueError("template must contain {text}, and {mask} once")

    @property
    def untrained(self) -> str:
        """A gap has no answer to learn: that would be pattern-exploiting training."""
        return ("a cloze asks a model for a word and trains nothing (llmkit does no pattern-exploiting training, as "
                "training on clozes is called): use `llmkit prompts`, or `llmkit evaluate --prompt`")

    def write(self, examples: Sequence[Shot], row: Row, kit: Kit) -> Prompt:
        """Examples with their words, then the input with its gap."""
        before, rest = for_pairs(self.template, row).split("{mask}")
        after = filled(rest, row)
        if kit.shape == "decoder" and after == rest:
            after = ""  # a causal model would only be asked whether a full stop follows
        parts = [filled(before, one.row) + one.answer + filled(rest, one.row) for one in shown(examples, kit)]
        return Prompt("\n\n".join([*parts, filled(before, row)]), after, gap=True, examples=len(examples))
