"""Next sentence prediction: does the second segment follow the first, or is it from elsewhere? (BERT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.sources import Reader
from llmkit.objectives.base import Objective, Response, Responses, Samples, Sets, Setup, Sums
from llmkit.objectives.shared.pairs import (
    Rows,
    collate_pairs,
    count_rows,
    framed,
    judge_pairs,
    next_pair,
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
class NextSentence(Objective):
    """Tell whether B follows A (Devlin et al. 2019, §3.1, task 2)."""

    sentences: Literal["auto", "lines", "punctuation"] = "auto"
    """Where a document is cut: at its lines, at its punctuation, or at lines where it has several (auto)."""

    shapes = frozenset({"encoder"})
    head = ""
    packings = ("none",)
    idle = True  # ALBERT's head comes with one for masked LM

    def head_for(self, family: type[Family]) -> str:
        """The class whose head tells of pairs; "" where transformers has none."""
        return family.pairs

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Sentences to rows; held out are whole documents, of a single one its last sentences."""
        return prepare_pairs(self, train, validation, setup, self.sentences, others=True)

    def draw_pair(
        self, rows: Rows, row: int, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase,
    ) -> Features:
        """Cut a row in two; half the time, what follows is of another document.

        the cat sat . it slept .  ->  [CLS] the cat sat . [SEP] it slept . [SEP], label 0
                                  or  [CLS] the cat sat . [SEP] prices fell . [SEP], label 1
        """
        a, b, label = next_pair(rows, row, rng)
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
        return pairs_told(self.judge(model, batch, family)[1], batch, tokenizer, PAIRS["next"])

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """Accuracy, F1 of "from elsewhere", and what always saying the more frequent label would reach."""
        return {**means, **told(pairs)}
