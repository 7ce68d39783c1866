"""Classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.sources import Place, Reader
from llmkit.errors import DataError, nearest
from llmkit.objectives.base import Sets, Setup, Sums
from llmkit.registry import OPTIONS
from llmkit.tasks.base import Floors, Prediction, Row, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

FLOOR_ROWS = 20_000
"""Training rows that a floor is fitted on at most: more take minutes and change little."""
WORD = r"(?u)[一-鿿]|[^\W一-鿿]+"
"""What a word is to TF-IDF; of Chinese, a character."""


@dataclass(config=OPTIONS)
class Classification(Task):
    """One label a text; reports accuracy and macro F1."""

    labels: list[str] | None = None
    """The labels, in the order of their numbers; those of the training rows where nothing is said."""

    shapes = frozenset({"encoder", "decoder", "encoder-decoder"})
    head = "AutoModelForSequenceClassification"
    wanted = {
        "text": ("sentence", "content", "review", "question", "sentence1", "premise", "document", "title", "text_a"),
        "label": ("labels", "class", "category", "sentiment", "target", "topic"),
    }
    answers = ("label",)
    metric = "accuracy"
    optional = {"text_pair": ("sentence2", "hypothesis", "text_b")}

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Texts are texts; a label is a word or a whole number."""
        row = super().check(row, columns, place)
        for name in ("text", "text_pair"):
            if name in row and not isinstance(row[name], str):
                raise DataError(f"{place}: the field {columns[name]!r} is no text: {row[name]!r}.")
        if "label" not in row:
            return row
        label = row["label"]
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if not isinstance(label, str | int):
            raise DataError(f"{place}: the label {label!r} is neither a word nor a whole number.")
        return {**row, "label": str(label).strip()}

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Also say which labels there are."""
        known = setup.labels or (self.labels and tuple(self.labels))
        if known is None:
            found = {row["label"] for reader in train for row, _ in self.read(reader)}
            known = tuple(sorted(found, key=_rank))
            if len(known) < 2:
                raise DataError(f"{train[0].label}: all rows have the label {known[0]!r}; "
                                "there is nothing to tell apart.")
            if len(known) > 1000:
                raise DataError(f"{train[0].label}: {len(known):,} different labels; is {known[0]!r} a label?")
        setup = Setup(**{**vars(setup), "labels": known})
        sets = super().prepare(train, validation, setup)
        return Sets(sets.train, sets.validation, [*sets.notes, f"{len(known)} labels: {', '.join(known)[:200]}"],
                    {"labels": list(known)})

    def config(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Label names go into the model's config, so that it predicts names."""
        labels = facts["labels"]
        return {"num_labels": len(labels), "id2label": dict(enumerate(labels)),
                "label2id": {label: i for i, label in enumerate(labels)}, "problem_type": "single_label_classification"}

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Token ids with the tokenizer's own special tokens, and the label's number."""
        numbers = {label: i for i, label in enumerate(setup.labels or ())}
        for row, place in rows:
            if row.get("label", "") not in {*numbers, ""}:
                raise DataError(f"{place}: the label {row['label']!r} is not among those of the training rows."
                                f"{nearest(row['label'], numbers)}")
        encoded = self.features([row for row, _ in rows], setup.tokenizer, setup.max_length, cut)
        for features, (row, _) in zip(encoded, rows, strict=True):
            if "label" in row:
                features["labels"] = np.array([numbers[row["label"]]])
            if setup.family.shape != "encoder":
                features.pop("token_type_ids", None)  # GPT-2 would add the embeddings of words 0 and 1
        return encoded

    def features(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, cut: list[int],
    ) -> list[Features]:
        """Texts, or pairs of them, as features without labels."""
        if not rows:
            return []
        fields = [[row[name] for row in rows] for name in ("text", "text_pair") if name in rows[0]]
        whole = tokenizer(*fields)
        for i, ids in enumerate(whole["input_ids"]):
            if len(ids) > max_length:
                cut.append(len(ids) - max_length)
                short = tokenizer(*(field[i] for field in fields), truncation=True, max_length=max_length)
                for name in whole:
                    whole[name][i] = short[name]
        names = ["input_ids", *(["token_type_ids"] if "text_pair" in rows[0] and "token_type_ids" in whole else [])]
        out: list[Features] = []
        for i in range(len(rows)):
            features = {name: np.array(whole[name][i], dtype=np.int64) for name in names}
            features["documents"] = np.zeros_like(features["input_ids"])
            out.append(features)
        return out

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Padded inputs (rows, longest) and labels (rows,)."""
        if any("token_type_ids" in row for row in rows):  # single texts from one source, pairs from another
            rows = [{"token_type_ids": np.zeros_like(row["input_ids"]), **row} for row in rows]
        batch = stack(rows, {"input_ids": tokenizer.pad_token_id or 0})
        if "labels" in batch:
            batch["labels"] = batch["labels"][:, 0]
        return batch

    def targets(self, batch: Batch) -> Sums:
        """One prediction a row."""
        import torch

        return {"loss": torch.tensor(len(batch["labels"]), device=batch["labels"].device)}

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """Cross-entropy of the labels."""
        from torch.nn.functional import cross_entropy

        return {"loss": cross_entropy(self.logits(model, batch, family), batch["labels"], reduction="sum")}

    def logits(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """(rows, labels)"""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits: Tensor = family.outputs(model, inputs).logits.float()
        return logits

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The probability of each label."""
        return self.logits(model, batch, family).softmax(-1).tolist()

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss, and the probability of each label."""
        from torch.nn.functional import cross_entropy

        logits = self.logits(model, batch, family)
        return {"loss": cross_entropy(logits, batch["labels"], reduction="sum")}, logits.softmax(-1).tolist()

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The likeliest label and its probability."""
        (chances,) = outcomes
        best = int(np.argmax(chances))
        return {"label": (setup.labels or ())[best], "score": chances[best]}

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """Accuracy, and F1 averaged over labels."""
        return {**means, **scores([said["label"] for said, _ in pairs], [row["label"] for _, row in pairs])}

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """The most frequent label; where there are training rows, logistic regression on TF-IDF of their words."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        true = [row["label"] for row in held]
        learned = learned[:FLOOR_ROWS]
        labels = [row["label"] for row in learned]
        ((usual, _),) = Counter(labels or true).most_common(1)
        floors = {"majority class": scores([usual] * len(true), true)}
        texts, asked = ([" \t ".join(row[name] for name in ("text", "text_pair") if row.get(name)) for row in rows]
                        for rows in (learned, held))
        if len(set(labels)) > 1:
            words = make_pipeline(TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True),
                                  LogisticRegression(C=10, max_iter=1000))
            floors["TF-IDF, logistic regression"] = scores(words.fit(texts, labels).predict(asked).tolist(), true)
        return floors


def scores(predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1."""
    from sklearn.metrics import accuracy_score, f1_score

    return {"accuracy": float(accuracy_score(true, predicted)),
            "f1": float(f1_score(true, predicted, average="macro", zero_division=0))}


def _rank(label: str) -> tuple[bool, int, str]:
    """Whole numbers by their value, then words."""
    whole = re.fullmatch("-?[0-9]+", label) is not None
    return not whole, int(label) if whole else 0, label
