"""What a model can be asked untrained: to answer a question from a text, to say which label is closest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.sources import Place
from llmkit.data.template import filled
from llmkit.errors import DataError
from llmkit.objectives._embedding import Pooling, embed
from llmkit.objectives.base import Setup
from llmkit.registry import OPTIONS
from llmkit.tasks._writing import Writing, framed
from llmkit.tasks.base import Prediction, Row, Task
from llmkit.tasks.classification import Classification
from llmkit.tasks.question_answering import QuestionAnswering

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


QUESTION = "Read this text and answer the question.\n\n{context}\n\nQuestion: {question}"
"""How a question is asked about a text."""


def only_texts(row: Row, columns: Mapping[str, str | int], place: Place) -> None:
    """Raise DataError where a field is no text."""
    for name, value in row.items():
        if not isinstance(value, str):
            raise DataError(f"{place}: the field {columns[name]!r} is no text: {value!r}.")


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
        row = super().check(row, columns, place)
        only_texts(row, columns, place)
        return row

    def turns(self, row: Row, place: Place, setup: Setup) -> list[tuple[str, str | None, str]]:
        """What is asked; the answer is to be written."""
        return [(self.ask(row, setup), None, "")]

    def ask(self, row: Row, setup: Setup) -> str:
        """Text and question in their template."""
        reads, chat = setup.family.shape == "encoder-decoder", setup.tokenizer.chat_template is not None
        template = self.template or (QUESTION if reads or chat else f"{QUESTION}\nAnswer:")
        text = filled(template, {name: row[name].strip() for name in self.wanted})
        return framed(text, setup.tokenizer) if chat and not reads else text


@dataclass(config=OPTIONS)
class Compared(Task):
    """The label whose name is closest to a text in meaning, by the cosine of their embeddings (Yin et al. 2019)."""

    labels: tuple[str, ...] = ()
    """What can be said of a text."""
    hypothesis: str = "This text is about {label}."
    """What a text is compared with for each label."""
    pooling: Pooling = "mean"
    """What of the last hidden states is the embedding."""

    shapes = frozenset({"encoder"})
    head = "AutoModel"
    wanted = {"text": Classification.wanted["text"]}

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """A text is one."""
        row = super().check(row, columns, place)
        only_texts(row, columns, place)
        return row

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """The texts with their special tokens."""
        return Classification().features([row for row, _ in rows], setup.tokenizer, setup.max_length, cut)

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """The texts, and below them what stands for each label: (rows + labels, longest)."""
        sentences = [{"text": filled(self.hypothesis, {"label": label})} for label in self.labels]
        return stack([*rows, *Classification().features(sentences, tokenizer, 512, [])],
                     {"input_ids": tokenizer.pad_token_id or 0})

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The cosine of each text with each label."""
        from torch.nn.functional import normalize

        embedded = normalize(embed(model, batch, family, self.pooling).float(), dim=-1)
        return (embedded[: -len(self.labels)] @ embedded[-len(self.labels):].T).tolist()

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The closest label, and the cosines of all."""
        cosines = dict(zip(self.labels, outcomes[0], strict=True))
        return {"label": max(cosines, key=lambda label: cosines[label]), "cosines": cosines}
