"""Summarization: a long text is read, a short one that says the same is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.data.sources import Place
from llmkit.objectives.base import Setup
from llmkit.prompting.shared.template import filled
from llmkit.recipe.registry import OPTIONS
from llmkit.tasks.base import Floors, Row, only_texts
from llmkit.tasks.shared.writing import Writing, framed, spread

WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u4e00-\u9fff]+")
"""What a word is to ROUGE: of English what it is to the library, which drops other scripts; of Chinese a character."""
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")


@dataclass(config=OPTIONS)
class Summarization(Writing):
    """Write a summary; reports ROUGE-1, -2, -L and -Lsum, F-measures from 0 to 1, without stemming."""

    template: str | None = None
    """How a text is written, with {text}: "summarize: {text}" for T5. Where nothing is said: an encoder-decoder reads
    the text alone, a decoder with "TL;DR:" after it (Radford et al. 2019), and a chat model is told to summarize."""
    generation_rows: Annotated[int, Field(ge=0)] = 100
    """Validation rows that are summarized at each evaluation while training; the last one summarizes all, unless the
    best model is kept."""

    wanted = {
        "text": ("document", "article", "dialogue", "source", "content", "body", "input", "maintext", "abst"),
        "summary": ("highlights", "abstract", "target", "output", "title", "headline", "tldr"),
    }
    answers = ("summary",)
    example = (
        {"text": "The cat saw a bird. It sat still for an hour, and then it slept.", "summary": "A cat saw a bird."},
        {"text": "It rained all day. In the evening the river came over the road.", "summary": "The river rose."},
    )
    verb = "summarize"
    long = "text"
    prompted = "text"

    def __post_init__(self) -> None:
        if self.template is not None and "{text}" not in self.template:
            raise ValueError("template must contain {text}")

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Both are texts."""
        return only_texts(super().check(row, columns, place), columns, place)

    def ask(self, row: Row, setup: Setup) -> str:
        """The text in its template."""
        reads, chat = setup.family.shape == "encoder-decoder", setup.tokenizer.chat_template is not None
        template = self.template or ("{text}" if reads or self.bare(setup) else "Summarize:\n{text}" if chat
                                     else "{text}\n\nTL;DR:\n")
        text = filled(template, {"text": row["text"].strip()})
        return framed(text, setup.tokenizer) if chat and not reads else text

    def answer(self, row: Row) -> str:
        """The summary, without space around it."""
        return str(row["summary"]).strip()

    def to_write(self, rows: int, last: bool) -> Sequence[int] | None:
        """Some, while training."""
        return spread(rows, None if last else self.generation_rows)

    def scores(self, written: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
        """The mean ROUGE of the texts."""
        return rouge(written, [str(row["summary"]).strip() for row in rows])

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """The first three sentences."""
        return {"the first three sentences": self.scores([lead(row["text"], 3) for row in held], held)}


class _Words:
    """The tokenizer that rouge_score is given."""

    def tokenize(self, text: str) -> list[str]:
        return WORD.findall(text.lower())


def rouge(written: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of shared words, pairs of words and longest common subsequences (Lin 2004).

    rougeL takes a text as a whole, rougeLsum sentence by sentence.
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, tokenizer=_Words())
    sums = dict.fromkeys(names, 0.0)
    for one, other in zip(written, true, strict=True):
        found = scorer.score("\n".join(sentences(other)), "\n".join(sentences(one)))
        sums = {name: sums[name] + float(found[name].fmeasure) for name in names}
    return {name: total / len(true) for name, total in sums.items()}


def sentences(text: str) -> list[str]:
    """A text cut after full stops: "One. Two!" -> "One." "Two!"."""
    return [part for part in SENTENCE.split(text) if part.strip()]


def lead(text: str, most: int) -> str:
    """The first sentences of a text."""
    return " ".join(sentences(text)[:most])
