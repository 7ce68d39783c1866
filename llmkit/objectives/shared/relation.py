"""Objectives that tell how the two texts of a row stand to each other, and learn nothing else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.sources import Reader
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, Response, Responses, Samples, Sets, Setup, Sums
from llmkit.objectives.shared.pairs import (
    Rows,
    collate_pairs,
    count_rows,
    framed,
    judge_pairs,
    of_relations,
    prepare_pairs,
    relations,
    told,
)
from llmkit.objectives.shared.showing import PAIRS, pairs_told
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(config=OPTIONS)
class Relation(Objective):
    """One of two labels for each pair of texts that chance cuts from a document's sentences."""

    sentences: Literal["auto", "lines", "punctuation"] = "auto"
    """Where a document is cut: at its lines, at its punctuation, or at lines where it has several (auto)."""

    told_of: ClassVar[str]
    """What is told of a pair: its name in `PAIRS`."""
    elsewhere: ClassVar[bool]
    """Whether rows are paired with texts of other documents."""

    shapes = frozenset({"encoder"})
    head = ""
    packings = ("none",)
    idle = True  # ALBERT's head comes with one for masked LM

    @abstractmethod
    def cut(self, rows: Rows, row: int, rng: np.random.Generator) -> tuple[Ids, Ids, int]:
        """Cut a row in two: (first ids, second ids, label)."""

    def head_for(self, family: type[Family]) -> str:
        """The class whose head tells of pairs; "" where transformers has none."""
        return family.pairs

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Sentences to rows; held out are whole documents, of a single one its last sentences."""
        return prepare_pairs(self, train, validation, setup, self.sentences, self.elsewhere)

    def draw_pair(
        self, rows: Rows, row: int, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase,
    ) -> Features:
        """A row as [CLS] a [SEP] b [SEP], and its label (1,)."""
        a, b, label = self.cut(rows, row, rng)
        return {**framed(a, b, tokenizer), "labels": np.array([label])}

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Padded inputs (rows, longest) and labels (rows,)."""
        return collate_pairs(rows, tokenizer)

    def targets(self, batch: Batch) -> Sums:
        """One prediction a row."""
        return {"loss": count_rows(batch["labels"])}

    def respond(self, model: nn.Module, batch: Batch, family: type[Family]) -> Responses:
        """How the texts of each pair stand to each other."""
        return {"loss": Response(relations(model, batch, family, self.head_for(family)))}

    def scored(self, answers: Responses, batch: Batch, training: bool) -> Sums:
        """Cross-entropy of the labels."""
        return {"loss": of_relations(answers["loss"].logits, batch)}

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[tuple[Any, Any]]]:
        """The loss, and (predicted, true) labels."""
        return judge_pairs(model, batch, family, self.head_for(family))

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """What the model says of each pair of texts."""
        return pairs_told(self.judge(model, batch, family)[1], batch, tokenizer, PAIRS[self.told_of])

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """Accuracy, F1 of the second label, and what always saying the more frequent label would reach."""
        return {**means, **told(pairs)}
