"""What a model that writes can be asked untrained: to answer a question from a text."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic.dataclasses import dataclass

from llmkit.data.sources import Place
from llmkit.objectives.base import Setup
from llmkit.prompting.shared.template import filled
from llmkit.recipe.registry import OPTIONS
from llmkit.tasks.base import Row, only_texts
from llmkit.tasks.question_answering import QuestionAnswering
from llmkit.tasks.shared.writing import Writing, framed

QUESTION = "Read this text and answer the question.\n\n{context}\n\nQuestion: {question}"
"""How a question is asked about a text."""


@dataclass(config=OPTIONS)
class Reading(Writing):
    """Answer a question from a text in words of one's own, as a language model does."""

    template: str | None = None
    """How both are written, with {context} and {question}; a model without a chat template is shown where the answer
    comes."""

    wanted = {name: QuestionAnswering.wanted[name] for name in ("question", "context")}
    long = "context"

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Both are texts."""
        return only_texts(super().check(row, columns, place), columns, place)

    def turns(self, row: Row, place: Place, setup: Setup) -> list[tuple[str, str | None, str]]:
        """What is asked; the answer is to be written."""
        return [(self.ask(row, setup), None, "")]

    def ask(self, row: Row, setup: Setup) -> str:
        """Text and question in their template."""
        reads, chat = setup.family.shape == "encoder-decoder", setup.tokenizer.chat_template is not None
        template = self.template or (QUESTION if reads or chat else f"{QUESTION}\nAnswer:")
        text = filled(template, {name: row[name].strip() for name in self.wanted})
        return framed(text, setup.tokenizer) if chat and not reads else text

