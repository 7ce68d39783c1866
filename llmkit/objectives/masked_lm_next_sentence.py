"""Masked language modelling and next sentences at once: BERT's pretraining, or with `pairs: order` ALBERT's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.sources import Reader
from llmkit.objectives.base import Response, Responses, Samples, Sets, Setup, Sums, guesses, perplexity, token
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.objectives.shared.pairs import (
    Rows,
    collate_pairs,
    count_rows,
    framed,
    next_pair,
    order_pair,
    prepare_pairs,
    relation,
    told,
)
from llmkit.objectives.shared.showing import PAIRS, guessed, pairs_told
from llmkit.recipe.registry import OPTIONS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from llmkit.backbones.kernels.chunked_loss import Guesses


@dataclass(config=OPTIONS)
class MaskedLMNextSentence(MaskedLM):
    """Both of BERT's tasks on the same rows; their mean losses are added (Devlin et al. 2019, A.2)."""

    pairs: Literal["next", "order"] = "next"
    """What is told of two segments: whether B follows A (BERT), or whether they were swapped (ALBERT)."""
    sentences: Literal["auto", "lines", "punctuation"] = "auto"
    """Where a document is cut: at its lines, at its punctuation, or at lines where it has several (auto)."""

    head = "AutoModelForPreTraining"
    heads = ("masked_lm", "next_sentence")
    packings = ("none",)

    def head_for(self, family: type[Family]) -> str:
        """The class with both heads; "" where transformers has none."""
        return self.head if family.pairs else ""

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Sentences to rows; held out are whole documents, of a single one its last sentences."""
        token(setup.tokenizer, "mask", "masked_lm_next_sentence")
        return prepare_pairs(
            self, train, validation, setup, self.sentences, others=self.pairs == "next", words=self.words,
            phrases=self.dictionary())

    def draw_pair(
        self, rows: Rows, row: int, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase,
    ) -> Features:
        """Cut a row in two, pair it, and hide some tokens of both segments.

        the cat sat . it slept .  ->  [CLS] the [MASK] sat . [SEP] it slept . [SEP], next_sentence_label 0
        """
        rng = self.chance(rows[row], rng)
        a, b, label = (next_pair if self.pairs == "next" else order_pair)(rows, row, rng)
        pair = framed(a, b, tokenizer)
        return {**pair, **self.hide(pair["input_ids"], rng, tokenizer), "next_sentence_label": np.array([label])}

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Padded inputs and labels (rows, longest), next_sentence_label (rows,)."""
        return collate_pairs(rows, tokenizer)

    def targets(self, batch: Batch) -> Sums:
        """The hidden tokens, and one prediction a row."""
        return {"masked_lm": (batch["labels"] != -100).sum(), "next_sentence": count_rows(batch["next_sentence_label"])}

    def respond(self, model: nn.Module, batch: Batch, family: type[Family]) -> Responses:
        """The hidden tokens, and of each pair whether the second follows the first."""
        words, relations = self.both(model, batch, family)
        return {"masked_lm": Response(words), "next_sentence": Response(relations)}

    def scored(self, answers: Responses, batch: Batch, training: bool) -> Sums:
        """Cross-entropy of the hidden tokens, and of the pairs."""
        return {"masked_lm": answers["masked_lm"].guesses.loss(),
                "next_sentence": of_pairs(answers["next_sentence"].logits, batch)}

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[tuple[Any, Any]]]:
        """The losses, (predicted, true) labels of pairs, and at the end of a batch (right, hidden tokens) in a pair."""
        words, relations = self.both(model, batch, family)
        loss, right = words.judged()
        pairs: list[tuple[Any, Any]] = list(
            zip(relations.argmax(-1).tolist(), batch["next_sentence_label"].tolist(), strict=True))
        return ({"masked_lm": loss, "next_sentence": of_pairs(relations, batch)},
                [*pairs, ("hidden", (right, len(words.labels)))])

    def both(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Guesses, Tensor]:
        """What is said of hidden tokens, and the logits of the pairs (rows, 2)."""
        inputs = {name: part for name, part in batch.items() if name != "next_sentence_label"}
        words, outputs = guesses(model, inputs, inputs.pop("labels"), family, self.head_for(family))
        return words, relation(outputs)

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """The hidden words, each with the model's guess, and what it says of the pair."""
        words, told = self.both(model, batch, family)
        rows = guessed(words, batch["input_ids"], batch["labels"], batch, tokenizer)
        said = zip(told.argmax(-1).tolist(), batch["next_sentence_label"].tolist(), strict=True)
        of_pairs = pairs_told(list(said), batch, tokenizer, PAIRS[self.pairs])
        return [{**row, "the model says": pair["the model says"], "it is": pair["it is"]}
                for row, pair in zip(rows, of_pairs, strict=True)]

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """Perplexity and accuracy of hidden tokens; accuracy, F1 and the more frequent label's share of pairs."""
        hidden = [counts for kind, counts in pairs if kind == "hidden"]
        following = told([pair for pair in pairs if pair[0] != "hidden"])
        right, asked = (sum(counts[side] for counts in hidden) for side in (0, 1))
        return {**means, "perplexity": perplexity(means["masked_lm"]),
                "masked_lm_accuracy": right / max(1, asked),
                **{f"next_sentence_{name}": value for name, value in following.items()}}


def of_pairs(relations: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the pairs, summed."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(relations, batch["next_sentence_label"], reduction="sum")
