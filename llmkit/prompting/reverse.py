"""The output is given and the input asked for: back-translation, a question from its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.prompting.base import Kit, Prompt, Question, Row, Shot
from llmkit.prompting.shared.examples import FewShot, Instructed, shown
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError


@dataclass(config=OPTIONS)
class Reverse(Instructed, FewShot):
    """Instruction and examples the other way round: what stands in the file as the output is what is given.

    Back-translation makes training pairs of text in the target language this way (Sennrich et al. 2016). Of labels,
    each is given in turn, and the one that makes the text likeliest is said: the noisy channel of Min et al. (2022),
    which needs no verbalizer to be calibrated, for every label is asked about the same text.
    """

    k: Annotated[int, Field(ge=0)] = 0
    """Examples in a prompt."""
    instruction: str = "What is the following an answer to?"
    """What is to be done; empty: nothing is said. It is followed by an empty line, unless it ends with a space."""

    turns = True

    def write(self, examples: Sequence[Shot], row: Row, kit: Kit) -> Prompt:
        """The prompt of an output, with these examples turned round."""
        turned = [Shot({"text": one.answer}, one.row["text"]) for one in shown(examples, kit)]
        return Instructed.write(self, turned, row, replace(kit, words={}, clean=str))

    def questions(self, row: Row, words: Sequence[str], kit: Kit) -> list[Question]:
        """After each label's word: how likely is the text?"""
        if "text_pair" in row:
            raise RequestError("reverse gives a label and asks for a text; of two texts it can't ask.")
        drawn, text = self.chosen(row, kit), kit.clean(row["text"])
        return [Question(self.fitted(drawn, {"text": word}, kit), (text,)) for word in words]
