"""Labels by a prompt: the label is said whose words a language model expects most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmkit.inference.scoring import Answered, Scorer
from llmkit.prompting.base import Embed, Kit, Prompting, Question, Row, Shot
from llmkit.recipe.seams import Answering
from llmkit.system.errors import RequestError
from llmkit.tasks.base import Prediction
from llmkit.tasks.base import Row as Fields

Chances = NDArray[np.float64]


@dataclass
class Labeller:
    """A language model and a prompt mode as a classifier that nobody trained."""

    scorer: Scorer
    mode: Prompting
    labels: Sequence[str]
    kit: Kit = field(init=False)
    pool: Sequence[Shot] | None = None
    """Examples to choose from where the mode names none."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each prompt that was asked."""

    def __post_init__(self) -> None:
        """RequestError where mode, labels and model don't fit together."""
        scorer, tokenizer = self.scorer, self.scorer.tokenizer
        if len(self.labels) < 2:
            raise RequestError(f"labels: {', '.join(self.labels) or 'none'}: two or more are needed to choose from.")
        self.words = self.mode.words(self.labels)
        if scorer.shape == "encoder" and self.mode.turns:
            raise RequestError("reverse asks for a text, which a masked model doesn't write; use cloze, or a causal "
                               "model.")
        longest = max(len(tokenizer(word)["input_ids"]) for word in self.each)
        room = None if scorer.limit is None else scorer.limit - scorer.opened.virtual_tokens - longest - 2
        self.kit = Kit(tokenizer, scorer.shape, chat=tokenizer.chat_template is not None and scorer.shape == "decoder",
                       room=room, cuts=True, embed=embedder, pool=self.pool,
                       words={label: some[0] for label, some in self.words.items()})

    @property
    def each(self) -> list[str]:
        """The words of all labels, one after the other."""
        return [word for some in self.words.values() for word in some]

    def chances(self, rows: Sequence[Row]) -> Chances:
        """The probability of each label among the labels, (rows, labels)."""
        if self.mode.turns and self.scorer.limit is not None and rows:
            texts = self.scorer.tokenizer([row["text"] for row in rows])["input_ids"]
            self.kit.room = self.scorer.limit - self.scorer.opened.virtual_tokens - max(map(len, texts)) - 2
        told = self.told(self.mode, rows, self.tokens)
        scores = self.mode.scores
        if scores.calibration:
            nothing = np.exp(self.told(self.mode, [self.saying(text) for text in scores.calibration])).mean(0)
            told = told - np.log(nothing)
            told -= np.logaddexp.reduce(told, axis=1, keepdims=True)
        chances: Chances = np.exp(told)
        return chances

    def told(self, mode: Prompting, rows: Sequence[Row], tokens: list[int] | None = None) -> Chances:
        """The logarithm of each label's probability, (rows, labels), before a calibration is divided out."""
        scores = mode.scores
        told = self.answered(mode, rows, tokens)
        values = np.array([[one.logprob / (one.tokens if scores.length else 1) for one in some] for some in told])
        if scores.pmi:
            (alone,) = self.answered(mode.bare(), [self.saying("")])
            values = values - np.array([one.logprob for one in alone])
        columns, first = [], 0
        for some in self.words.values():  # of several words for a label, their mean probability
            part = values[:, first : first + len(some)]
            columns.append(np.logaddexp.reduce(part, axis=1) - np.log(len(some)))
            first += len(some)
        by_label = np.stack(columns, axis=1)
        out: Chances = by_label - np.logaddexp.reduce(by_label, axis=1, keepdims=True)
        return out

    def answered(self, mode: Prompting, rows: Sequence[Row], tokens: list[int] | None = None) -> list[list[Answered]]:
        """What the model thinks of each word, for each row."""
        asked = [mode.questions(row, self.each, self.kit) for row in rows]
        flat: list[Question] = [question for some in asked for question in some]
        found = iter(self.scorer.score(flat))
        out = [[one for _ in some for one in next(found)] for some in asked]
        if tokens is not None:
            tokens += [some[0].prompt for some in out]
        return out

    def saying(self, text: str) -> Row:
        """An input that is this text."""
        return {"text": text}

    def predictions(self, rows: Sequence[Row]) -> tuple[list[Prediction], Chances]:
        """The likeliest label of each row, as a trained classifier says it, and all probabilities."""
        chances = self.chances(rows)
        best = chances.argmax(1).tolist()
        return [{"label": self.labels[i], "score": float(some[i])} for i, some in zip(best, chances)], chances


def embedder(name: str) -> Embed:
    """What makes vectors of texts, by the name of a sentence encoder."""
    from llmkit.inference.embedding import Embedder

    return Embedder.open(name).embed


def inputs(rows: Sequence[Fields]) -> list[Row]:
    """The texts of a task's rows, without their labels."""
    return [{name: row[name] for name in ("text", "text_pair") if row.get(name)} for row in rows]


def shots(rows: Sequence[Fields]) -> list[Shot]:
    """A task's rows as examples."""
    return [Shot(row, str(whole["label"])) for row, whole in zip(inputs(rows), rows, strict=True)]


def known_labels(mode: Prompting, rows: Sequence[Fields]) -> tuple[str, ...]:
    """The labels to choose from: those that the mode has words for, else all that rows have.

    RequestError where rows have others.
    """
    found = sorted({str(row["label"]) for row in rows})
    for label in found:
        if mode.named is not None and label not in mode.named:
            raise RequestError(f"labels: the label {label!r} has no word; say one for each of {', '.join(found)}.")
    return mode.named or tuple(found)


def measured(labeller: Labeller, task: Answering, rows: Sequence[Fields]) -> dict[str, float]:
    """The task's metrics of rows, and the mean negative log-probability of the right label."""
    said, chances = labeller.predictions(inputs(rows))
    true = [list(labeller.labels).index(str(row["label"])) for row in rows]
    losses = -np.log(np.maximum(chances[np.arange(len(rows)), true], 1e-300))
    return task.metrics({"loss": float(losses.mean())}, list(zip(said, rows, strict=True)))
