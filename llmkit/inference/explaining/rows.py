"""Rows of tasks that answer by a tag of a word, a part of a text, or a choice, as their models read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from llmkit import models
from llmkit.data.memory import memory_reader
from llmkit.inference.evaluate import Ready, make_ready, said_by_option
from llmkit.inference.explaining.aim import Aim, Kind
from llmkit.inference.explaining.choices import Choices, Spot
from llmkit.inference.explaining.subject import LIKELIEST, LONGEST, Subject, inputs_of
from llmkit.models.run import recipe_of
from llmkit.objectives.shared import text_head
from llmkit.recipe import registry
from llmkit.system import devices
from llmkit.system.errors import RequestError, nearest
from llmkit.system.report import log
from llmkit.system.terminal import shell_word
from llmkit.tasks.base import Row, cut_short
from llmkit.tasks.multiple_choice import LETTERS, MultipleChoice, lettered, numbered
from llmkit.tasks.question_answering import QuestionAnswering
from llmkit.tasks.shared.tagged.tags import OUTSIDE
from llmkit.tasks.tagging import Tagging

if TYPE_CHECKING:
    from llmkit.data.batches import Features

Rowed: TypeAlias = "Tagging | QuestionAnswering | MultipleChoice"
NEAR = 8
"""Words that are told where none is meant."""
ENDS = ("start", "end")
"""What of an answer in a text may be asked for alone."""


@dataclass(frozen=True)
class FileRow:
    """A row of a file, by its number from 0."""

    path: str
    number: int = 0
    encoding: str | None = None
    fields: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedOf:
    """What a row is explained by, as somebody asked for it."""

    context: str | None = None
    choices: Sequence[str] = ()
    target: str | None = None
    at: str | None = None


def task_of(model: str | Path) -> str | None:
    """The task that a model's rows are read by: tagging, question_answering, multiple_choice; None of any other."""
    kinds: tuple[type[Any], ...] = (Tagging, QuestionAnswering, MultipleChoice)
    learned = recipe_of(model)
    if learned is not None:
        return next((registry.name_of(kind) for kind in kinds if isinstance(learned.task, kind)), None)
    head = models.kind_of(model)
    if text_head.averages(head, models.resolve(model)):  # what it says of tokens is what it says of the text
        return None
    return next((registry.name_of(kind) for kind in kinds if kind.head == head), None)


def open_row(model: str | Path, task: str, given: str | FileRow, wanted: AskedOf) -> Subject:
    """Open a model, and read a text, or a row of a file, as its task does; with the answer that is explained.

    RequestError where something is missing that the task needs, or is asked for that isn't there.
    """
    _check(model, task, given, wanted)
    ready = make_ready(model, task=None if recipe_of(model) is not None else task)
    ready = replace(ready, setup=replace(ready.setup, max_length=min(ready.setup.max_length, LONGEST)))
    ready.learner.tuned.to(devices.kind()).eval()
    learned: Any = ready.learner.objective
    row, place = _row(ready, learned, given, wanted)
    cut = list[int]()
    parts = learned.featured([(row, place)], ready.setup, cut)
    if cut:
        log.warning(cut_short(cut, ready.setup.max_length))
    make: Any = {"tagging": _tag, "question_answering": _answer, "multiple_choice": _choice}[task]
    subject = Subject(str(model), ready.learner.tuned, ready.setup.tokenizer, ready.learner.family,
                      learned.head_for(ready.learner.family), given if isinstance(given, str) else "",
                      {}, ready.learned.tuning.virtual_tokens if ready.learned is not None else 0, row=row)
    found: Subject = make(subject, ready, learned, row, parts, wanted)
    return found


def _check(model: str | Path, task: str, given: str | FileRow, wanted: AskedOf) -> None:
    """RequestError where an option is missing, or is of another task."""
    own = {"tagging": (), "question_answering": ("--context",), "multiple_choice": ("--context", "--choice")}[task]
    said = {"--context": wanted.context is not None, "--choice": bool(wanted.choices)}
    for option, there in said.items():
        if there and option not in own:
            raise RequestError(f"{option}: {model} does {task}, which has none; leave it out.")
        if there and isinstance(given, FileRow):
            raise RequestError(f"{option}: the rows of {given.path} have their own; leave it out.")
    if isinstance(given, FileRow):
        return
    if wanted.context is not None and not wanted.context.strip():
        raise RequestError("--context: is empty; give the text in which the answer is looked for.")
    if not all(choice.strip() for choice in wanted.choices):
        raise RequestError("--choice: one is empty; give a text for each.")
    if task == "question_answering" and wanted.context is None:
        raise RequestError(f"--context: {model} finds answers in a text. Say in which, as in "
                           f"`llmkit explain {shell_word(model)} \"Who wrote notes?\" --context \"Ada wrote notes.\"`.")
    if task == "multiple_choice" and len(wanted.choices) < 2:
        raise RequestError(f"--choice: {model} chooses among answers. Name two or more, as in "
                           f"`llmkit explain {shell_word(model)} \"What says moo?\" --choice \"a cat\" "
                           "--choice \"a cow\"`.")


def _row(ready: Ready, task: Rowed, given: str | FileRow, wanted: AskedOf) -> tuple[Row, Any]:
    """A checked row, and its place."""
    if isinstance(given, FileRow):
        with said_by_option():
            reader = ready.source(given.path, encoding=given.encoding, fields=given.fields or None)
            found = list(islice(task.stream(reader, answered=False), given.number + 1))
        for note in reader.notes:
            log.info(note)
        if len(found) <= given.number:
            raise RequestError(f"--row {given.number}: there are {len(found):,} rows in {given.path}, numbered from 0.")
        return found[given.number]
    first, *_ = task.wanted
    row = {first: given, **({} if wanted.context is None else {"context": wanted.context}),
           **({"choices": list(wanted.choices)} if wanted.choices else {})}
    ((checked, place),) = task.stream(memory_reader([row], "TEXT"), answered=False)
    return checked, place


# ---- the tag of a word ----

def _tag(
    subject: Subject, ready: Ready, task: Tagging, row: Row, parts: Sequence[Features], wanted: AskedOf,
) -> Subject:
    """One word of a sentence; where none is named the surest one that has a tag beside O, else the first."""
    import torch

    spots = [(part, int(place)) for part, features in enumerate(parts) for place in np.flatnonzero(features["words"])]
    words = row["tokens"][:len(spots)]
    read = [_inputs(features) for features in parts]
    with torch.no_grad():
        said = [subject.model(**inputs).logits[0].float().log_softmax(-1) for inputs in read]
    labels, told = ready.setup.labels or (), [said[part][place] for part, place in spots]
    number = _word(words, wanted.at) if wanted.at is not None else _surest(told, labels)
    part, place = spots[number]
    index = int(told[number].argmax()) if wanted.target is None else _named(wanted.target, labels, "tag")
    return replace(subject, inputs=read[part], notes=_of_parts(part, parts, "sentence", "the word"),
                   aim=Aim("tag", labels[index], index, place, of=words[number]))


def _surest(told: Sequence[Any], labels: Sequence[str]) -> int:
    """The word whose tag is surest, of those that have one beside O; 0 where none has, or no tag is O."""
    if OUTSIDE not in labels:
        return 0
    marked = [(float(said.max()), -i) for i, said in enumerate(told) if labels[int(said.argmax())] != OUTSIDE]
    return -max(marked)[1] if marked else 0


def _word(words: Sequence[str], at: str) -> int:
    """The number of a word, by that number from 0, or by the word where it stands there once."""
    places = [i for i, word in enumerate(words) if word == at]
    if len(places) == 1:
        return places[0]
    if places:
        raise RequestError(f"--at {at}: the word stands there {len(places)} times; name it by its number, counted from "
                           f"0: {', '.join(map(str, places))}.")
    if at.isdecimal() and int(at) < len(words):
        return int(at)
    raise RequestError(f"--at {at}: is none of the {len(words)} words, and no number from 0 to {len(words) - 1}."
                       f"{nearest(at, dict.fromkeys(words), most=NEAR)}")


def _named(target: str, names: Sequence[str], what: str) -> int:
    """The number of a label."""
    if target not in names:
        raise RequestError(f"--target {target}: no {what} is called so.{nearest(target, names)}")
    return list(names).index(target)


# ---- a part of a text ----

@dataclass(frozen=True)
class Span:
    """An answer in one part of a context."""

    part: int
    first: int
    last: int
    """Tokens of the part."""
    name: str
    score: float
    probability: float


def _answer(
    subject: Subject, ready: Ready, task: QuestionAnswering, row: Row, parts: Sequence[Features], wanted: AskedOf,
) -> Subject:
    """The answer that the model gives, as its task finds it among all parts of a context, or the one that is named."""
    if wanted.at not in (None, *ENDS):
        raise RequestError(f"--at {wanted.at}: of an answer it is start or end.{nearest(str(wanted.at), ENDS)}")
    chances = [_ends(subject, ready, task, features) for features in parts]
    spans = _spans(ready, task, row, parts, chances)
    chosen = spans[0] if wanted.target is None else _span(wanted.target, task, row, parts, chances)
    kinds: dict[str | None, Kind] = {None: "answer", "start": "start of the answer", "end": "end of the answer"}
    aim = Aim(kinds[wanted.at], chosen.name, where=-1 if wanted.at == "end" else chosen.first,
              until=-1 if wanted.at == "start" else chosen.last)
    return replace(subject, inputs=_inputs(parts[chosen.part]), aim=aim,
                   likeliest=tuple((span.name, span.probability) for span in spans[:LIKELIEST]),
                   notes=_of_parts(chosen.part, parts, "context", "the answer"))


@dataclass(frozen=True)
class Chances:
    """What is said of one part of a context."""

    start: Any
    end: Any
    """Logits, (tokens) each."""
    found: tuple[float, list[tuple[float, int, int]]]
    """As the task has it: the score of no answer, and the best spans, in characters of the context."""

    def probability(self, first: int, last: int) -> float:
        """Of a start and an end."""
        return math.exp(float(self.start.log_softmax(-1)[first] + self.end.log_softmax(-1)[last]))

    def score(self, first: int, last: int) -> float:
        """What spans are compared by, also those of several parts: the sum of both logits."""
        return float(self.start[first] + self.end[last])


def _ends(subject: Subject, ready: Ready, task: QuestionAnswering, features: Features) -> Chances:
    import torch

    batch = {name: tensor.to(devices.kind()) for name, tensor in task.collate([features],
                                                                            ready.setup.tokenizer).items()}
    with torch.no_grad():
        start, end = subject.ends(_inputs(features))
        (found,) = task.best_spans(start, end, batch)
    return Chances(start[0], end[0], found)


def _spans(
    ready: Ready, task: QuestionAnswering, row: Row, parts: Sequence[Features], chances: Sequence[Chances],
) -> list[Span]:
    """What may be answered, the best first; no answer where the task knows that one, in the place that it has there."""
    found: dict[tuple[int, int], Span] = {}
    for number, (features, said) in enumerate(zip(parts, chances, strict=True)):
        for _, start, end in said.found[1]:
            span = _tokens(number, features, said, start, end, row["context"])
            if span is not None and ((start, end) not in found or found[start, end].score < span.score):
                found[start, end] = span
    spans = [span for _, span in sorted(found.items(), key=lambda one: (-one[1].score, one[0]))]
    if not task.version_2_with_negative:
        return spans
    part = min(range(len(parts)), key=lambda i: chances[i].found[0])
    nothing = _nothing(part, parts[part], chances[part])
    silent = task.combine([said.found for said in chances], row, ready.setup)["start"] is None
    return [nothing, *spans] if silent else [spans[0], nothing, *spans[1:]]


def _tokens(
    part: int, features: Features, said: Chances, start: int, end: int, context: str,
) -> Span | None:
    """A span of characters as tokens: of several that begin, or end, there the likeliest."""
    firsts = np.flatnonzero(features["starts"] == start).tolist()
    lasts = np.flatnonzero(features["ends"] == end).tolist()
    pairs = [(said.score(a, b), a, b) for a in firsts for b in lasts if a <= b]
    if not pairs:
        return None
    score, first, last = max(pairs)
    return Span(part, first, last, context[start:end].strip(), score, said.probability(first, last))


def _nothing(part: int, features: Features, said: Chances) -> Span:
    place = int(features["null"][0])
    return Span(part, place, place, "no answer", said.found[0], said.probability(place, place))


def _span(
    target: str, task: QuestionAnswering, row: Row, parts: Sequence[Features], chances: Sequence[Chances],
) -> Span:
    """A part of the context that is named, where it is likeliest; no answer where it is empty."""
    context = str(row["context"])
    if not target.strip():
        if not task.version_2_with_negative:
            raise RequestError("--target: is empty, and this model always answers; name a part of the context.")
        part = min(range(len(parts)), key=lambda i: chances[i].found[0])
        return _nothing(part, parts[part], chances[part])
    places = [i for i in range(len(context)) if context.startswith(target, i)]
    found = []
    for number, (features, said) in enumerate(zip(parts, chances, strict=True)):
        starts, ends, null = features["starts"].tolist(), features["ends"].tolist(), int(features["null"][0])
        for place in places:
            first, last = task.target({"answers": [{"text": target, "answer_start": place}]}, starts, ends, null)
            if first != null:
                found.append(Span(number, first, last, context[starts[first]:ends[last]].strip(),
                                  said.score(first, last), said.probability(first, last)))
    if not found:
        why = "is cut in two by the parts that the context is read in" if places else (
            "isn't in the context, letter for letter")
        raise RequestError(f"--target {target}: {why}; an answer is a part of it.")
    return max(found, key=lambda span: span.score)


# ---- a choice ----

def _choice(
    subject: Subject, ready: Ready, task: MultipleChoice, row: Row, parts: Sequence[Features], wanted: AskedOf,
) -> Subject:
    """The likeliest choice, or the one that is named, beside its rivals."""
    import torch

    if wanted.at is not None:
        raise RequestError(f"--at {wanted.at}: is for words that have tags, and for answers in a text; a choice is "
                           "named by --target.")
    (features,) = parts
    edges = features["sizes"].cumsum()[:-1]
    names = [name for name in ("input_ids", "token_type_ids") if name in features]
    rows = [_inputs(dict(zip(names, columns, strict=True)))
            for columns in zip(*(np.split(features[name], edges) for name in names), strict=True)]
    pad = int(ready.setup.tokenizer.pad_token_id or 0)
    choices = Choices(tuple(row["choices"]), tuple(rows), tuple(_spots(task, row, ready)), pad)
    asked = replace(subject, choices=choices, aim=Aim("choice", ""))
    with torch.no_grad():
        said = asked.answers(asked.whole)[0]
    index = int(said.argmax()) if wanted.target is None else _chosen(wanted.target, choices.names, task.first)
    return replace(asked, inputs=rows[index], aim=Aim("choice", choices.names[index], index))


def _spots(task: MultipleChoice, row: Row, ready: Ready) -> list[tuple[Spot | None, ...]]:
    """Where each token of each row stands in the question, its context, or the choice."""
    tokenizer = ready.setup.tokenizer
    if not tokenizer.is_fast:
        raise RequestError(f"multiple_choice: {type(tokenizer).__name__} doesn't tell where in a text its tokens are; "
                           "it needs a fast tokenizer.")
    out = []
    for number, ((first, second), choice) in enumerate(zip(task.pairs(row), row["choices"], strict=True)):
        read = task.shortened(first, second, ready.setup)
        edge = len(second) - len(choice)  # behind the question, where that stands before the choice
        out.append(tuple(
            None if text is None else Spot(-1 if text == 0 or stop <= edge else number, text, start, stop)
            for text, (start, stop) in zip(read.sequence_ids(0), read.encodings[0].offsets, strict=True)))
    return out


def _chosen(target: str, names: Sequence[str], first: int) -> int:
    """The choice of a text, a number or a letter."""
    found = [i for i, name in enumerate(names) if name == target] or numbered(target, first, len(names)) or (
        lettered(target, (), len(names)))
    if not found:
        raise RequestError(f"--target {target}: is none of the {len(names)} choices: a number from {first} to "
                           f"{len(names) - 1 + first}, a letter from A to {LETTERS[:len(names)][-1]}, or the text of "
                           f"one.{nearest(target, names)}")
    return found[0]


# ---- what they share ----

def _inputs(features: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a model reads it."""
    return {name: tensor.to(devices.kind()) for name, tensor in inputs_of(**{
        name: features[name] for name in ("input_ids", "token_type_ids") if name in features}).items()}


def _of_parts(part: int, parts: Sequence[Features], whole: str, what: str) -> tuple[str, ...]:
    if len(parts) == 1:
        return ()
    return (f"the {whole} is longer than the model reads at once; what is shown is part {part + 1} of {len(parts)}, "
            f"which has {what}",)
