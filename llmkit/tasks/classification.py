"""Classification: one label, several labels or a number for a text, or for a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Examples, Features, stack
from llmkit.data.fields import find_fields, no_text
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.data.tokens import AT_ONCE
from llmkit.objectives.base import Judged, Response, Responses, Sets, Setup, Sums
from llmkit.objectives.shared import text_head
from llmkit.recipe import Share
from llmkit.recipe.registry import OPTIONS, name_of
from llmkit.system.errors import DataError, RequestError, nearest
from llmkit.tasks.base import Floors, Prediction, Row, Task, say_guessed
from llmkit.tasks.shared.figures import FLOOR_ROWS, as_seen, by_words, of_numbers, of_several
from llmkit.tasks.shared.forms import label_studio
from llmkit.tasks.shared.forms.nested_fields import flat
from llmkit.tasks.shared.forms.two_texts import two_texts
from llmkit.tasks.shared.labels import (
    answer,
    by_number,
    by_value,
    class_names,
    doubts,
    each,
    finite,
    in_their_order,
    is_hot,
    named,
    places,
    refuse_unlabelled,
    there,
    unwritten_label,
)
from llmkit.tasks.shared.tallies import outcomes, tallied

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

Kind: TypeAlias = Literal["single_label", "multi_label", "regression"]
PROBLEMS: dict[Kind, str] = {"single_label": "single_label_classification", "multi_label": "multi_label_classification",
                            "regression": "regression"}
"""What transformers calls them in a model's config."""
ANSWERS: dict[str, Literal["one", "each", "number"]] = {
    PROBLEMS["single_label"]: "one", PROBLEMS["multi_label"]: "each", PROBLEMS["regression"]: "number"}
"""And how such an answer is meant (`llmkit.objectives.base.Response`)."""


@dataclass(config=OPTIONS)
class Classification(Task):
    """One label a text; or several, each there or not; or a number."""

    problem: Literal["auto", Kind] = "auto"
    """What an answer is; auto: several labels where they are lists or have a separator, a number where all are numbers
    and some have a fraction, else one label."""
    labels: list[str] | None = None
    """The labels, in the order of their numbers; those of the training rows where nothing is said."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """What stands between several labels in one string, as in a table; a list needs none."""
    threshold: Share = 0.5
    """The probability from which one of several labels is said to be there."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | list[
        Annotated[float, Field(gt=0)]] | None = None
    """What each occurrence of a label counts for in training, by name or in the labels' order; the loss is a weighted
    mean. balanced: rare labels as much as frequent ones."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How much of the right label's probability is shared by all in training (Szegedy et al. 2016, section 7)."""
    pooling: text_head.Reads = "auto"
    """What of the last hidden states the answer is read from: cls, the first token; last, the last one; mean, all of
    them, special tokens too. auto: what transformers' classifier of the family reads, cls of encoders, else last."""

    shapes = frozenset({"encoder", "decoder", "encoder-decoder"})
    head = text_head.WHOLE
    wanted = {
        "text": ("sentence", "content", "review", "question", "sentence1", "premise", "document", "body", "title",
                 "text_a", "fact"),
        "label": ("labels", "class", "category", "sentiment", "target", "topic", "score", "is_duplicate", "gold_label",
                  "rating", "stars", "answer", "quality", "accusation", "meta.accusation"),
    }
    answers = ("label",)
    example = (
        {"text": "A lovely film, from the first scene to the last.", "label": "positive"},
        {"text": "Dull, and far too long.", "label": "negative"},
    )
    verb = "classify"
    metric = "accuracy"
    prompted = "text"
    optional = {"text_pair": ("sentence2", "hypothesis", "text_b", "question2")}

    def __post_init__(self) -> None:
        if self.problem == "regression":
            for name in ("labels", "separator", "class_weights", "label_smoothing"):
                if getattr(self, name):
                    raise ValueError(f"{name} is for labels; problem: regression has none")
        if self.problem == "single_label" and self.separator is not None:
            raise ValueError("separator is for problem: multi_label")

    def head_for(self, family: type[Family]) -> str:
        """For a mean over tokens, the auto class that has an answer for each."""
        return text_head.head_for(family, self.pooling)

    def by_words(self) -> Classification:
        """One label a text: the likeliest."""
        return replace(self, problem="single_label")

    def unfolded(self, reader: Reader, answered: bool) -> Rows:
        """Numbers of classes go by the names that a program's data set has; an export of Label Studio is made flat."""
        names = class_names(reader) if answered and self.labels is None and self.problem != "regression" else {}
        rows = label_studio.rows(reader, answered)
        return ((named(flat(row, self._inside(row, reader)), names), place) for row, place in rows)

    def _inside(self, row: Mapping[Any, Any], reader: Reader) -> set[Any]:
        """The names that may stand in an object of a row: those that are given, and those of what it lacks itself."""
        return {*reader.source.fields.values(), *(
            name for field, others in self.wanted.items() if not {field, *others} & set(row)
            for name in (field, *others))}

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """Two columns that are known as a pair, as QNLI's question and sentence, are both read."""
        own = label_studio.label_column(row)
        names = (*([] if own is None else [own]), *self.wanted["label"])
        label = {"label": names} if answered else {}
        pair = two_texts(row, reader.source.fields, names)
        columns = pair | find_fields([name for name in row if name not in pair.values()], label if pair else {
            "text": self.wanted["text"], **label}, {} if pair else self.optional, reader)
        columns = {name: columns[name] for name in ("text", "label", "text_pair") if name in columns}
        say_guessed(columns, reader)
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Texts are texts; an answer is what the problem says, once that is known."""
        if row.get("label") == "" and (self.separator is not None or self.problem == "multi_label"):
            row = {**row, "label": []}  # of several labels, none
        row = super().check(row, columns, place)
        for name in ("text", "text_pair"):
            if name in row and not isinstance(row[name], str):
                raise no_text(name, columns[name], row[name], place)
        if "label" not in row:
            return row
        if isinstance(row["label"], Mapping):
            raise no_text("label", columns["label"], row["label"], place)
        row = {**row, "label": unwritten_label(row["label"], self.separator, place)}
        if self.problem == "auto" or (self.problem == "multi_label" and is_hot(row["label"])):
            return row  # what it is, all rows together tell
        return {**row, "label": self.named(row["label"], place)}

    def named(self, label: Any, place: Place) -> Any:
        """An answer as the problem has it, of labels that there are."""
        found = answer(label, self.problem, self.separator, place)
        wrong = [one for one in each(found) if one not in self.labels] if self.labels else []
        if wrong:
            raise DataError(f"{place}: the label {wrong[0]!r} is not among task.labels."
                            f"{nearest(wrong[0], self.labels or ())}")
        return found

    def read(self, reader: Reader) -> list[tuple[Row, Place]]:
        """The rows of a source, the answers as the problem has them, once that is known."""
        rows = super().read(reader)
        if self.problem != "multi_label":
            return rows
        names, out = self.placed([row["label"] for row, _ in rows]), list[tuple[Row, Place]]()
        for row, place in rows:
            try:
                label = there(row["label"], names, place) if names else self.named(row["label"], place)
            except DataError as error:
                reader.spare(error)
            else:
                out.append(({**row, "label": label}, place))
        return out

    def placed(self, labels: Sequence[Any]) -> tuple[str, ...]:
        """The labels in the order of their places, where rows have a 0 or 1 for each; none where they name them."""
        count = places(labels)
        if count is None:
            return ()
        return tuple(self.labels) if self.labels else tuple(map(str, range(count)))

    def settled(self, rows: Sequence[Row], setup: Setup) -> Classification:
        """The task with its problem no longer open: what the trained model says, else what its rows look like."""
        if self.problem != "auto":
            return self
        if setup.problem is not None or (setup.labels is not None and len(setup.labels) == 1):
            known: Kind = next((name for name, theirs in PROBLEMS.items() if theirs == setup.problem), "regression")
        else:
            known = guessed([row["label"] for row in rows], self)
        return replace(self, problem=known)

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Also say what the problem is, and which labels there are."""
        train = by_number(train, setup.labels)
        validation = by_number(validation, setup.labels) if isinstance(validation, Sequence) else validation
        rows = [pair for reader in train for pair in replace(self, problem="auto").read(reader)]
        task = self.settled([row for row, _ in rows], setup)
        placed = task.placed([row["label"] for row, _ in rows]) if task.problem == "multi_label" else ()
        if any(reader.spares for reader in train):  # what an answer must be is known now
            rows = [pair for reader in train for pair in task.read(reader)]
        facts = text_head.facts(setup.family, self.pooling) | {"problem": PROBLEMS[task.problem]}  # type: ignore[index]
        notes = []
        if task.problem != self.problem and task.problem != "single_label" and setup.problem is None:
            seen = "rows have several labels" if task.problem == "multi_label" else "labels are numbers with fractions"
            notes.append(f"{seen}: task.problem is {task.problem}")
        if task.problem == "regression":
            facts["labels"] = ["score"]
            sets = Task.prepare(task, train, validation, replace(setup, labels=("score",)))
        else:
            known = setup.labels or (self.labels and tuple(self.labels)) or placed or in_their_order(
                task.known(rows, train[0].label), train[0])
            facts["labels"] = list(known)
            sets = Task.prepare(task, train, validation, replace(setup, labels=known))
            notes.append(f"{len(known)} labels: {', '.join(known)[:200]}")
            notes += doubts([row["label"] for row, _ in rows], known, task.problem == "single_label")
            if placed:
                notes.append(f"labels are lists of {len(placed)} zeros and ones, one for each label"
                             + ("" if self.labels else "; task.labels says what these are called"))
            if self.class_weights is not None and setup.labels is None:
                notes.append(task.weigh(sets.train, known))
        return Sets(sets.train, sets.validation, [*sets.notes, *notes], {**sets.facts, **facts})

    def labels_of(self, row: Row) -> Sequence[str]:
        """Its label, or each of its labels; of a number none."""
        if self.problem == "regression":
            return ()
        here = Place(name_of(self), None)
        return each(answer(row["label"], self.problem, self.separator, here)) or ("none",)

    def known(self, rows: Sequence[tuple[Row, Place]], source: str) -> tuple[str, ...]:
        """The labels of the training rows."""
        found = {label for row, place in rows
                 for label in each(answer(row["label"], self.problem, self.separator, place))}
        known = tuple(sorted(found, key=by_value))
        if not known:
            raise DataError(f"{source}: no row has a label.")
        refuse_unlabelled(source, [row["label"] for row, _ in rows])
        if len(known) == 1 and self.problem != "multi_label":
            raise DataError(f"{source}: all rows have the label {known[0]!r}; there is nothing to tell apart.")
        if len(known) > 1000:
            raise DataError(f"{source}: {len(known):,} different labels; is {known[0]!r} a label?")
        return known

    def weigh(self, parts: Sequence[Any], known: Sequence[str]) -> str:
        """Put into each training row what it counts for; return what was done in words."""
        asked, several = self.class_weights, self.problem == "multi_label"
        counts = Counter(label for part in parts for row in part.rows for label in each(row["label"]))
        rows = sum(len(part.rows) for part in parts)
        if asked == "balanced":  # several labels: as often there as not; one: all labels as often as each other
            table = [(rows - counts[label] if several else rows / len(known)) / counts[label] if counts[label] else 1.0
                     for label in known]
            table = [weight or 1.0 for weight in table]  # a label that every row has
        elif isinstance(asked, dict):
            for label in asked:
                if label not in known:
                    raise RequestError(f"task.class_weights: no label is called {label!r}.{nearest(label, known)}")
            table = [asked.get(label, 1.0) for label in known]
        else:
            table = list(map(float, asked or ()))
            if len(table) != len(known):
                raise RequestError(f"task.class_weights: {len(table)} weights for {len(known)} labels: "
                                   f"{', '.join(known)[:200]}.")
        weights = np.array(table)
        least = min(*table, 1.0) if several else min(table)  # a step's weights sum to 1 or more: the loop divides by it
        for part in parts:
            for features in part.features:
                there = features["labels"]
                features["weights"] = (np.where(there > 0, weights, 1.0) if several else weights[there]) / least
        return "weights: " + ", ".join(f"{label} {weight:.3g}" for label, weight in zip(known, table))[:200]

    def config(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Label names go into the model's config, so that it predicts names."""
        labels = facts["labels"]
        return {"num_labels": len(labels), "id2label": dict(enumerate(labels)),
                "label2id": {label: i for i, label in enumerate(labels)},
                "problem_type": facts.get("problem", PROBLEMS["single_label"]), **facts.get("pooling", {})}

    def describe(self, folder: Path, setup: Setup) -> None:
        """Leave files that say where the answer is a mean over tokens."""
        text_head.leave(folder, setup.family, self.pooling)

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Token ids with the tokenizer's own special tokens, and what is learned of the row."""
        numbers = {label: i for i, label in enumerate(setup.labels or ())}
        for row, place in rows if self.problem != "regression" else ():
            for label in each(row.get("label", [])):
                if label not in numbers:
                    raise DataError(f"{place}: the label {label!r} is not among those of the training rows."
                                    f"{nearest(label, numbers)}")
        encoded = [features for start in range(0, len(rows), AT_ONCE) for features in self.features(
            [row for row, _ in rows[start : start + AT_ONCE]], setup.tokenizer, setup.max_length, cut)]
        for features, (row, _) in zip(encoded, rows, strict=True):
            if "label" in row:
                features["labels"] = self.target(row["label"], numbers)
            if setup.family.shape != "encoder":
                features.pop("token_type_ids", None)  # GPT-2 would add the embeddings of words 0 and 1
        return encoded

    def target(self, label: Any, numbers: Mapping[str, int]) -> np.ndarray[Any, Any]:
        """What is learned of a row: (1,) a label's number, (labels,) zeros and ones, or (1,) the number itself."""
        if self.problem == "regression":
            return np.array([label], dtype=np.float32)
        if self.problem != "multi_label":
            return np.array([numbers[label]])
        there = np.zeros(len(numbers), dtype=np.float32)
        there[[numbers[one] for one in label]] = 1
        return there

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
            features: Features = {name: np.array(whole[name][i], dtype=np.int32) for name in names}
            features["documents"] = np.zeros(len(features["input_ids"]), dtype=np.int8)
            out.append(features)
        return out

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Padded inputs (rows, longest), labels (rows,) or (rows, labels), and what each counts for."""
        import torch

        if any("token_type_ids" in row for row in rows):  # single texts from one source, pairs from another
            rows = [{"token_type_ids": np.zeros_like(row["input_ids"]), **row} for row in rows]
        beside = [name for name in ("labels", "weights") if name in rows[0]]
        batch = stack([{name: value for name, value in row.items() if name not in beside} for row in rows],
                      {"input_ids": tokenizer.pad_token_id or 0})
        for name in beside:
            values = torch.from_numpy(np.stack([row[name] for row in rows]))
            if values.is_floating_point():
                values = values.float()
            batch[name] = values[:, 0] if values.shape[1] == 1 and rows[0]["labels"].dtype != np.float32 else values
        return batch

    def targets(self, batch: Batch) -> Sums:
        """One prediction a row, or one a row and label; each counts for its weight."""
        import torch

        if "weights" in batch:
            return {"loss": batch["weights"].sum()}
        return {"loss": torch.tensor(batch["labels"].numel(), device=batch["labels"].device)}

    def respond(self, model: nn.Module, batch: Batch, family: type[Family]) -> Responses:
        """A label, several of them, or a number for each row."""
        return {"loss": Response(self.logits(model, batch, family), ANSWERS[kind_of(model)], batch.get("weights", 1.0))}

    def scored(self, answers: Responses, batch: Batch, training: bool) -> Sums:
        """Cross-entropy of the labels, smoothed and weighted where the recipe says so; squared error of numbers."""
        (kind,) = (problem for problem, kind in ANSWERS.items() if kind == answers["loss"].kind)
        return self.judged(answers["loss"].logits, batch, kind, self.label_smoothing)

    def judged(self, logits: Tensor, batch: Batch, kind: str, smoothing: float = 0.0) -> Sums:
        """The loss of logits (rows, labels), summed."""
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

        labels = batch["labels"]
        if kind == "regression":
            losses = mse_loss(logits, labels, reduction="none")
        elif kind == "multi_label_classification":
            smooth = labels * (1 - smoothing) + smoothing / 2
            losses = binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        else:
            losses = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return {"loss": (losses * batch.get("weights", logits.new_ones(()))).sum()}

    def logits(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """(rows, labels)"""
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "weights")}
        text_head.numbers_in_fp32(model)
        return text_head.of_text(family.outputs(model, inputs).logits.float(), batch.get("attention_mask"))

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The probability of each label, or the number."""
        return said(self.logits(model, batch, family), kind_of(model))

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss without weights and smoothing, which only steer training, and the probability of each label."""
        logits = self.logits(model, batch, family)
        return self.judged(logits, batch, kind_of(model)), said(logits, kind_of(model))

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The likeliest label and its probability; all labels above the threshold; or the number."""
        (chances,) = outcomes
        known = setup.labels or ()
        if setup.problem == PROBLEMS["regression"]:
            return {"score": chances[0]}
        if setup.problem == PROBLEMS["multi_label"]:
            scores = dict(zip(known, chances, strict=True))
            return {"labels": [label for label, chance in scores.items() if chance >= self.threshold],
                    "scores": scores}
        best = int(np.argmax(chances))
        return {"label": known[best], "score": chances[best]}

    def plain(self, prediction: Prediction, row: Row, setup: Setup) -> tuple[Any, Any]:
        """Numbers of labels, a 0 or 1 for each label, or the numbers themselves."""
        known = setup.labels or ()
        if setup.problem == PROBLEMS["regression"]:
            return prediction["score"], row["label"]
        if setup.problem == PROBLEMS["multi_label"]:
            predicted, true = prediction["labels"], row["label"]
            return [int(label in predicted) for label in known], [int(label in true) for label in known]
        return known.index(prediction["label"]), known.index(row["label"])

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """Accuracy and F1 of labels; of numbers, error and correlation."""
        return {**means, **scores([next(iter(one.values())) for one, _ in pairs], [row["label"] for _, row in pairs])}

    def tally(self, judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup) -> dict[str, Any]:
        """Which labels were taken for which, by label, by length, and the errors with the largest loss."""
        return tallied([(*one, self.combine([one[0]], one[1], setup)) for one in outcomes(judged, sets)],
                       setup.labels or ())

    def seen(self, rows: Sequence[Row], setup: Setup) -> Sequence[Row]:
        """Texts end where the model's rows do."""
        return as_seen(rows, setup.tokenizer, setup.max_length)

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """What is most frequent; where there are training rows, regression on TF-IDF of their words."""
        true = [row["label"] for row in held]
        problem = "multi_label" if isinstance(true[0], list) else "regression" if isinstance(
            true[0], float) else "single_label"
        learned = learned[:FLOOR_ROWS]
        here = Place(name_of(self), None)
        names = self.placed([row["label"] for row in learned]) if problem == "multi_label" else ()
        labels: list[Any] = [there(row["label"], names, here) if names
                  else answer(row["label"], problem, self.separator, here) for row in learned]
        counted = labels or true
        if problem == "regression":
            usual: Any = float(np.mean(counted))
            what = "mean"
        elif problem == "multi_label":  # what most rows have; the most frequent label where none is so frequent
            counts = Counter(label for row in counted for label in row)
            usual = [label for label, count in counts.items() if count * 2 >= len(counted)]
            usual = usual or [label for label, _ in counts.most_common(1)]
            what = "most frequent labels"
        else:
            ((usual, _),) = Counter(counted).most_common(1)
            what = "majority class"
        floors = {what: scores([usual] * len(true), true)}
        if len({str(label) for label in labels}) > 1:
            name = "TF-IDF, ridge regression" if problem == "regression" else "TF-IDF, logistic regression"
            said = by_words(learned, labels, held, problem)
            floors |= {} if said is None else {name: scores(said, true)}
        return floors


def guessed(labels: Sequence[Any], task: Classification) -> Kind:
    """What the problem is where it is obvious: lists of labels, or numbers of which some have a fraction."""
    if task.separator is not None or (labels and all(isinstance(label, list) for label in labels)):
        return "multi_label"
    numbers = [finite(label) for label in labels]
    steers = task.labels or task.class_weights is not None or task.label_smoothing
    if not steers and None not in numbers and any(number != round(number or 0) for number in numbers if number):
        return "regression"
    return "single_label"


def kind_of(model: nn.Module) -> str:
    """What a model's config says its answers are."""
    return str(model.config.problem_type or PROBLEMS["single_label"])  # type: ignore[union-attr]


def said(logits: Tensor, kind: str) -> list[Any]:
    """Logits (rows, labels) as probabilities, or as the numbers that they are."""
    if kind == PROBLEMS["regression"]:
        return logits.tolist()
    return (logits.sigmoid() if kind == PROBLEMS["multi_label"] else logits.softmax(-1)).tolist()


def scores(predicted: Sequence[Any], true: Sequence[Any]) -> dict[str, float]:
    """Accuracy and macro F1 of labels, F1 and whole matches of several, correlation and error of numbers."""
    if isinstance(true[0], list):
        return of_several(predicted, true)
    if isinstance(true[0], float):
        return of_numbers(np.array(predicted), np.array(true))
    from sklearn.metrics import accuracy_score, f1_score

    return {"accuracy": float(accuracy_score(true, predicted)),
            "f1": float(f1_score(true, predicted, average="macro", zero_division=0))}
