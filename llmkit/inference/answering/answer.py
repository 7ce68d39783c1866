"""Search and answer in one: the passages that are nearest to a question, and what a model says by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llmkit import models
from llmkit.data import jsonlines
from llmkit.data.sources import open_source
from llmkit.inference.answering.asking import Asked, read
from llmkit.inference.answering.spans import Pointer
from llmkit.inference.embedding import Embedder
from llmkit.inference.search import Hit, Searcher, Where
from llmkit.inference.verbs import WRITER
from llmkit.inference.writing.opening import WRITERS, unwritten
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.writer import Writer
from llmkit.models.run import recipe_of
from llmkit.recipe import Source
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.question_answering import QuestionAnswering

NEAR = 0.3
"""The cosine below which a passage is likely about something else: of MiniLM, measured (docs/answering.md)."""
CITED = re.compile(r"[\[【［](\d+(?:\s*[,，、]\s*\d+)*)[\]】］]")
"""How an answer names passages: [1], [1, 2], 【1】."""
QUESTIONS = ("question", "query", "prompt", "text")
"""Fields that a question may stand in."""


@dataclass(frozen=True)
class Reply:
    """What was found and said of a question."""

    question: str
    answer: str | None
    """None: nothing near enough was found, or a model that points at answers says that there is none."""
    passages: tuple[Hit, ...] = ()
    """What the answer rests on: the passages that the model read, numbered from 1."""
    cited: tuple[int, ...] = ()
    """The numbers that the answer names; of a span, the number of its passage."""
    notes: tuple[str, ...] = ()
    """What to know of it, in words."""
    finish_reason: str | None = None
    """Of a written answer, `stop`, or `length` where it was cut."""
    score: float | None = None
    """Of a span, its probability among all that were compared."""
    start: int | None = None
    """Of a span, its first character in its passage's text."""
    end: int | None = None

    def as_json(self) -> dict[str, Any]:
        """`{"question": …, "answer": …, "passages": [{"number": 1, "cited": true, "score": …, "file": …}], …}`."""
        passages = [{"number": number, "cited": number in self.cited, **hit.as_json()}
                    for number, hit in enumerate(self.passages, 1)]
        span = {"score": self.score, "start": self.start, "end": self.end} if self.score is not None else {}
        ended = {"finish_reason": self.finish_reason} if self.finish_reason is not None else {}
        return {"question": self.question, "answer": self.answer, **span, **ended, "passages": passages,
                "notes": list(self.notes)}


def answer(
    question: str, where: Where, model: str | Path = WRITER, *, embedder: str | Embedder = "minilm-l6", top: int = 4,
    least: float = NEAR, mix: bool = False, options: Options | None = None,
) -> Reply:
    """Answer a question from files, folders or built-in texts, with the passages that the answer rests on.

    >>> answer("How long do refunds take?", "faq").answer                # doctest: +SKIP
    'Refunds take 14 days [1].'

    model      writes the answer; or points at it, where it is a run of question answering or has such a head
    embedder   finds the passages, as the model of `search`
    top        passages that are read, at most; fewer where they don't fit into the model's context
    least      the cosine that a passage needs to be near enough; where none has it, nothing is said
    mix        rank passages by their words, too (BM25)

    For more than one question keep an `Answerer`. DataError where there is nothing to search, RequestError where a
    model can't do its part.
    """
    return Answerer.open(where, model, embedder=embedder, top=top, least=least, mix=mix, options=options).reply(
        [question])[0]


@dataclass
class Answerer:
    """An index and the model that answers by it, kept open."""

    searcher: Searcher
    tool: Writer | Pointer
    model: str
    top: int = 4
    least: float = NEAR
    options: Options = field(default_factory=Options)

    @classmethod
    def open(
        cls, where: Where, model: str | Path = WRITER, *, embedder: str | Embedder = "minilm-l6", top: int = 4,
        least: float = NEAR, mix: bool = False, options: Options | None = None, passage_tokens: int | None = None,
        approximate: bool = False, max_length: int | None = None,
    ) -> Answerer:
        """Open both; `passage_tokens` and `approximate` are `search`'s, `max_length` is of a model that points."""
        if top < 1:
            raise RequestError(f"--top {top}: ask for 1 or more.")
        if not -1 <= least <= 1:
            raise RequestError(f"--least {least}: is a cosine, between -1 and 1.")
        name = str(model)
        points = _points(name)  # a model that can't answer is told before anything is indexed
        searcher = Searcher.open(where, embedder, passage_tokens=passage_tokens, approximate=approximate, mix=mix)
        tool = Writer.open(name) if points is None else Pointer.open(name, points, max_length)
        # an answer is made of the passages' words: what was read may be said again without a penalty
        return cls(searcher, tool, name, top, least, options or Options())

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the model, in words."""
        if isinstance(self.tool, Pointer):
            return ()
        return (f"{self.model} answers in words of its own and may get it wrong: look at the passages.",)

    def reply(self, questions: Sequence[str]) -> list[Reply]:
        """The answer to each question, all written together."""
        found = [self._near(question, hits)
                 for question, hits in zip(questions, self.searcher.search(questions, self.top), strict=True)]
        some = [(at, reply) for at, reply in enumerate(found) if reply.passages]
        if isinstance(self.tool, Pointer):
            made = [self._pointed(self.tool, reply) for _, reply in some]
        else:
            made = self._written(self.tool, [reply for _, reply in some])
        for (at, _), reply in zip(some, made, strict=True):
            found[at] = reply
        return found

    def _near(self, question: str, hits: Sequence[Hit]) -> Reply:
        """A question with the passages that are near enough; where there are none, that is all that is said."""
        near = tuple(hit for hit in hits if hit.score >= self.least)
        if near:
            return Reply(question, None, near)
        best = max(hits, key=lambda hit: hit.score)
        return Reply(question, None, notes=(
            f"nothing near enough was found: the nearest passage, {best.file}:{best.line}, has the cosine "
            f"{best.score:.2f}, and --least is {self.least:g}.",))

    def _written(self, writer: Writer, replies: Sequence[Reply]) -> list[Reply]:
        """What a model writes to each question."""
        asked: list[Asked] = [
            read(writer, reply.question, reply.passages, self.options.max_new_tokens) for reply in replies]
        texts = writer.write([one.ids for one in asked], self.options, quotes=True)
        return [self._told(reply, one, completions[0].text.strip(), completions[0].finish_reason)
                for reply, one, completions in zip(replies, asked, texts, strict=True)]

    def _told(self, reply: Reply, asked: Asked, text: str, reason: str) -> Reply:
        numbers = {int(one) for found in CITED.findall(text) for one in re.findall(r"\d+", found) if len(one) < 4}
        known = tuple(sorted(one for one in numbers if 1 <= one <= len(asked.read)))
        unknown = sorted(numbers - set(known))
        notes = [*asked.notes]
        if unknown:
            notes.append(f"the answer names passage {', '.join(map(str, unknown))}, which there isn't.")
        if reason == "length":
            notes.append(f"the answer is cut after {self.options.max_new_tokens} tokens (--max-new-tokens).")
        return replace(reply, answer=text, passages=tuple(asked.read), cited=known, notes=tuple(notes),
                       finish_reason=reason)

    def _pointed(self, pointer: Pointer, reply: Reply) -> Reply:
        """The span that a model points at."""
        best = pointer.best(reply.question, reply.passages)
        return replace(reply, answer=best["answer"], score=best["score"], start=best["start"], end=best["end"],
                       cited=() if best["passage"] is None else (best["passage"],),
                       notes=("the passages don't hold the answer, says the model.",) * (best["answer"] is None))

    def replies(self, questions: Iterable[str], size: int = 16) -> Iterator[Reply]:
        """The answer to each of many questions, in their order; memory doesn't grow with them."""
        stream = iter(questions)
        while some := list(islice(stream, size)):
            yield from self.reply(some)


def _points(model: str) -> Any:
    """The task of a model that points at answers; None of one that writes; RequestError of any other."""
    learned = recipe_of(model)
    if learned is not None and isinstance(learned.task, QuestionAnswering):
        return learned.task
    kind = models.kind_of(models.resolve(model))
    if learned is None and kind == QuestionAnswering.head:
        return QuestionAnswering()
    if kind not in WRITERS:
        raise RequestError(unwritten(model, kind))
    return None


def questions_in(path: str) -> Iterator[str]:
    """The questions of a file (`-`: stdin): of text a line each, of rows their field question, query, prompt or text.

    DataError, with file and line, where a row has none; all are looked at before the first is given.
    """
    with jsonlines.kept(path) as file:
        if not sum(1 for _ in _questions(file)):
            raise DataError(f"{path}: there is no question in it.")
        yield from _questions(file)


def _questions(file: str) -> Iterator[str]:
    for row, place in open_source(Source(file), "line", at="").rows():
        name = next((name for name in QUESTIONS if name in row), None)
        if name is None:
            raise DataError(f"{place}: a row needs a field {', '.join(QUESTIONS[:-1])} or {QUESTIONS[-1]}; this one "
                            f"has {', '.join(map(str, row)) or 'none'}.")
        if not isinstance(row[name], str) or not row[name].strip():
            raise DataError(f"{place}: {name} must be a text that isn't empty, not {row[name]!r:.60}.")
        yield row[name]
