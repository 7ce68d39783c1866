"""Verbs: summarize, translate, answer from, classify or tag texts, with a model that was trained for it or can do it.

A run does what it was trained for. A model that writes can be told to summarize, translate or answer, and a sentence
encoder compares a text with the names of labels; that a model wasn't trained for what it does is always said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from llmkit import models
from llmkit.data.sources import Reader, open_source
from llmkit.inference import predict as prediction
from llmkit.inference.embedding import Embedder
from llmkit.inference.evaluate import averages, said_by_option
from llmkit.inference.indexing import unit
from llmkit.inference.writing.opening import numbers
from llmkit.models.run import recipe_of
from llmkit.recipe import Source, registry
from llmkit.recipe.seams import Answering
from llmkit.system.errors import RequestError, nearest
from llmkit.tasks.base import Prediction, Row, Task
from llmkit.tasks.classification import Classification
from llmkit.tasks.question_answering import QuestionAnswering
from llmkit.tasks.shared.reading import QUESTION, Reading
from llmkit.tasks.summarization import Summarization
from llmkit.tasks.tagging import Tagging
from llmkit.tasks.translation import Translation

Rows = str | Path | Iterable[Mapping[str, Any]]
"""A file, `-` for stdin, or rows by the names of the task's fields."""
Wish = TypeVar("Wish", Summarization, Translation, Reading)

WRITER, TRANSLATOR, ENCODER = "smollm2-135m-instruct", "t5-small", "minilm-l6"
"""What is asked where no model is named: to summarize or answer, to translate, and to compare with labels."""
DOES = {
    "AutoModel": "embeds texts", "AutoModelForMaskedLM": "fills in hidden words", "AutoModelForCausalLM": "writes text",
    "AutoModelForSeq2SeqLM": "writes text", "AutoModelForSequenceClassification": "is a classifier",
    "AutoModelForTokenClassification": "tags words", "AutoModelForQuestionAnswering": "points at answers in a text"}
"""What a model does, by its auto class."""
LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish",
    "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese"}
"""What a language is called in a prompt."""
HYPOTHESIS = "This text is about {label}."
"""What a text is compared with for each label."""
FORCED = ("m2m_100", "mbart", "nllb-moe")
"""Types of models that start a translation with a token for its language."""
USUAL_LENGTH = 2048
"""Positions that are used at most of a model that isn't a run."""


@dataclass(frozen=True)
class Said:
    """What a model says of some texts."""

    model: str
    predictions: Iterator[tuple[Row, Prediction]]
    """Of each text its row, and what is said of it once that is asked for."""
    notes: tuple[str, ...] = ()
    """What to know of the model, in words."""


def summarize(texts: Rows, model: str | Path | None = None, **how: Any) -> Said:
    """A summary of each text, rows of {"text"}: {"text": …}.

    By a run of summarization; by a model that writes, which is told to; by SmolLM2 where none is named. `how` is what
    every verb takes: `max_length`, `batch_size`, `document` (what a row is in a text file: here the whole file),
    `encoding`, `fields` (which column of a file each field is: {"text": "review"}), and where text is written
    `max_new_tokens`.
    """
    name = str(model or WRITER)
    prefix = _prefixes(name).get("summarization")
    task, notes = _writing(name, Summarization(template=None if prefix is None else prefix + "{text}"), Summarization,
                           "Summarize:\n{text}", told=prefix is not None)
    return _said(texts, name, task, notes, **{"document": "file", **how})


def translate(
    texts: Rows, model: str | Path | None = None, to: str | None = None, source: str | None = None, **how: Any,
) -> Said:
    """Each text, rows of {"source"}, in another language: {"text": …}.

    By a run of translation, into the language that it learned; by a model that is told the languages `source` and `to`
    (codes or English names), T5 by the prefixes that its config has, others in words; by t5-small where none is named.
    """
    name = str(model or TRANSLATOR)
    target, origin = _language(to, "--to"), _language(source, "--from")
    learned = recipe_of(name)
    if learned is not None and learned.task is not None and learned.task.verb == Translation.verb:
        read, written = learned.task.languages
        for option, asked, learns in (("--to", target, written), ("--from", origin, read)):
            if asked is not None and asked != learns:
                knows = f"it learned {learns!r}" if learns else "its recipe has no task.target_lang and source_lang"
                raise RequestError(f"{option} {asked}: {name} translates as it was trained to, and {knows}; leave "
                                   f"{option} out, or name another run.")
        return _said(texts, name, learned.task, (), **how)
    if target is None:
        raise RequestError("--to: which language? As in `--to de`. Only a run that was trained for translation needs "
                           "no telling.")
    if model is None:
        try:
            models.resolve(name)
        except RequestError as error:
            raise RequestError(f"where no --model is named, {name} translates, and it can't be had: {error} Train one: "
                               "`llmkit finetune --task translation --data FILE`.") from error
    prefix, into = _prefix(name, origin or "en", target), LANGUAGES[target]
    wish, bare = f"Translate to {into}:\n{{source}}", f"{{source}}\n\nTranslation to {into}:\n"
    template = None if prefix is None else prefix + "{source}"
    if template is None and _kind(name) == "AutoModelForCausalLM":
        template = wish if models.chats(models.resolve(name)) else bare
    task, notes = _writing(name, Translation(template=template), Translation, wish, told=prefix is not None)
    return _said(texts, name, task, notes, **how)


def answer(questions: Rows, model: str | Path | None = None, **how: Any) -> Said:
    """The answer to each question, rows of {"question", "context"}.

    By a run of question answering, or a model with its head: a span of the context, {"answer", "start", "end",
    "score"}. By a model that writes: words of its own, {"text"}.
    """
    name = str(model or WRITER)
    if _is_for(name, QuestionAnswering):
        return _said(questions, name, _trained(name, QuestionAnswering), (), **how)
    task, notes = _writing(name, Reading(), QuestionAnswering, QUESTION)
    return _said(questions, name, task, notes, **how)


def classify(
    texts: Rows, model: str | Path | None = None, labels: Sequence[str] = (), hypothesis: str | None = None,
    **how: Any,
) -> Said:
    """The label of each text, rows of {"text"}: {"label", "score"}, or what a run learned instead of one label.

    With `labels`, these are compared with the text by a sentence encoder, which needs no training for them: {"label":
    the closest, "cosines": {label: from -1 to 1}}. `hypothesis` is the sentence that stands for a {label} (Yin et al.
    2019, section 4.2).
    """
    if labels:
        return compare(texts, str(model or ENCODER), labels, hypothesis or HYPOTHESIS, **how)
    if hypothesis is not None:
        raise RequestError("--hypothesis is for --labels: a trained classifier reads the text alone.")
    if model is None:
        raise RequestError("classify needs labels or a classifier: --labels good,bad compares their names with the "
                           "text, --model RUN asks a run of `llmkit finetune --task classification --data FILE`.")
    return _said(texts, str(model), _trained(str(model), Classification), (), **how)


def compare(
    texts: Rows, model: str, labels: Sequence[str], hypothesis: str = HYPOTHESIS, *, max_length: int | None = None,
    document: str = "auto", batch_size: int = 16, encoding: str | None = None,
    fields: Mapping[str, str | int] | None = None,
) -> Said:
    """Which label is closest to each text in meaning; the encoder makes its own batches."""
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise RequestError(f"--labels {','.join(labels)}: at least two labels, each once, as --labels good,bad.")
    if "{label}" not in hypothesis:
        raise RequestError(f"--hypothesis {hypothesis!r}: {{label}} has to stand in it, where a label is put.")
    if _is_for(model, Classification):
        raise RequestError(f"--labels: {model} has labels of its own; leave --labels out.")
    # here a model that writes would say how likely each label is
    embedder = Embedder.open(model)
    if max_length is not None:
        embedder = replace(embedder, max_length=min(max_length, embedder.max_length))

    def source(path: str) -> Reader:
        own = Source(path, encoding=encoding or "utf-8", fields=dict(fields or {}))
        return open_source(own, document, tables=True)

    note = f"{model} compares the text with each label by meaning; {_train(Classification)} trains a classifier."
    return Said(model, _compared(texts, embedder, labels, hypothesis, source), (note,))


def tag(texts: Rows, model: str | Path | None = None, **how: Any) -> Said:
    """A tag for each word of each text, rows of {"tokens"}: {"tokens", "tags"}, and "entities" where tags mark some."""
    if model is None:
        raise RequestError("tag has no model of its own: give --model RUN. `llmkit finetune --task tagging --data FILE`"
                           " trains one on words with tags.")
    return _said(texts, str(model), _trained(str(model), Tagging), (), **how)


# ---- which task a model is asked, before its weights are read ----

def _said(
    texts: Rows, model: str, task: Answering, notes: tuple[str, ...], *, max_length: int | None = None,
    batch_size: int = 16, document: str = "auto", max_new_tokens: int | None = None, encoding: str | None = None,
    fields: Mapping[str, str | int] | None = None,
) -> Said:
    dtype = "float32"
    if task.writes:
        dtype, _ = numbers(models.resolve(model))
        task = task if max_new_tokens is None else task.limited(max_new_tokens)
    return Said(model, prediction.beside(
        model, texts, task=task, max_length=max_length, batch_size=batch_size, document=document,
        usual_length=USUAL_LENGTH, dtype=dtype, encoding=encoding, fields=fields), notes)


def _is_for(model: str, usual: type[Task]) -> bool:
    """Whether a model was trained for a task, or for one that does the same: as a run, or elsewhere, by its head."""
    learned = recipe_of(model)
    if learned is None:
        base = models.Base.open(models.resolve(model))
        return (Classification.head if averages(base) else models.kind_of(base)) == usual.head
    return learned.task is not None and learned.task.verb == usual.verb


def _trained(model: str, usual: type[Task]) -> Answering:
    """The task of a model that was trained for it; RequestError for any other."""
    if not _is_for(model, usual):
        raise _other(model, usual)
    learned = recipe_of(model)
    return usual() if learned is None or learned.task is None else learned.task


def _writing(
    model: str, task: Wish, usual: type[Task], wish: str, told: bool = False,
) -> tuple[Answering, tuple[str, ...]]:
    """How a model is asked to write: as its run was trained to, or in words; and a note where it is new to it.

    wish   the request, as it stands in the place of an instruction run's prompt
    told   whether `task` asks it in the way that it was trained for
    """
    learned = recipe_of(model)
    kind, what = _kind(model), _what(usual)
    note = f"{model} is no run of {what}: it is told to in words, and may get it wrong. {_train(usual)} trains one."
    if learned is None:
        if kind == "AutoModelForSeq2SeqLM":
            reads = f"{model} is given the text alone: it does what it was trained for, which need not be {what}."
            return task, () if told else (reads,)
        if kind != "AutoModelForCausalLM":
            raise _other(model, usual)
        return task, (note,)
    if learned.task is not None and learned.task.verb == usual.verb:
        return learned.task, ()
    if not learned.learning.goes_on:
        raise _other(model, usual)
    own_words = learned.learning.worded(wish)
    if own_words is not None:
        task = replace(task, template=wish if models.chats(models.resolve(model)) else own_words)
    return task, (note,)


def _compared(
    texts: Rows, embedder: Embedder, labels: Sequence[str], hypothesis: str, source: Callable[[str], Reader],
) -> Iterator[tuple[Row, Prediction]]:
    """Each text beside the label whose sentence has the highest cosine with it."""
    sentences = unit(embedder.embed([hypothesis.replace("{label}", label) for label in labels]))
    with said_by_option(), prediction.opened(texts, source) as reader:
        stream = Classification().stream(reader, answered=False)
        while chunk := [row for row, _ in islice(stream, prediction.CHUNK)]:
            found = unit(embedder.embed([row["text"] for row in chunk])) @ sentences.T  # (texts, labels)
            for row, cosines in zip(chunk, found, strict=True):
                scores = dict(zip(labels, map(float, cosines), strict=True))
                yield row, {"label": max(scores, key=lambda label: scores[label]), "cosines": scores}


def _kind(model: str) -> str:
    return models.kind_of(models.resolve(model))


def _what(task: type[Task]) -> str:
    """What a task is called in plain words: question answering."""
    return registry.name_of(task).replace("_", " ")


def _train(task: type[Task]) -> str:
    return f"`llmkit finetune --task {registry.name_of(task)} --data FILE`"


def _other(model: str, usual: type[Task]) -> RequestError:
    """Why a model can't do a task, and what can."""
    learned = recipe_of(model)
    if learned is None:
        does = DOES.get(_kind(model), "does something else")
    else:
        does = f"is a run of {registry.name_of(learned.learning)}"
        if learned.task is not None and learned.task.verb:
            does += f" (`llmkit {learned.task.verb}` uses it)"
    instead = " Or give --labels A,B,…" if usual is Classification else ""
    return RequestError(f"{model} {does}; `llmkit {usual.verb}` needs a model for {_what(usual)}: {_train(usual)} "
                        f"trains one.{instead}")


# ---- languages ----

def _language(given: str | None, option: str) -> str | None:
    """The code of a language that is called by its code or its English name."""
    if given is None:
        return None
    names = {name.casefold(): code for code, name in LANGUAGES.items()}
    known = given.casefold()
    if known in LANGUAGES or known in names:
        return known if known in LANGUAGES else names[known]
    raise RequestError(f"{option} {given}: no language is called that.{nearest(known, [*LANGUAGES, *names])}")


def _config(model: str) -> dict[str, Any]:
    """The config of a model that isn't a run, nothing of an adapter."""
    path = models.resolve(model) / "config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if recipe_of(model) is None and path.is_file() else {}


def _prefixes(model: str) -> dict[str, str]:
    """What T5's config says stands before a text: {"translation_en_to_de": "translate English to German: "}."""
    tasks = _config(model).get("task_specific_params") or {}
    return {name: about["prefix"] for name, about in tasks.items() if "prefix" in about}


def _prefix(model: str, source: str, target: str) -> str | None:
    """What tells a model to translate this pair of languages; None where its config knows no such prefixes."""
    known = {name: prefix for name, prefix in _prefixes(model).items() if name.startswith("translation_")}
    if _config(model).get("model_type") in FORCED:
        raise RequestError(f"{model} starts a translation with a token for its language, which llmkit doesn't set. "
                           f"Name another model, or train one: {_train(Translation)}.")
    if not known:
        return None
    pair = f"translation_{source}_to_{target}"
    if pair not in known:
        pairs = ", ".join(name.removeprefix("translation_").replace("_to_", " to ") for name in known)
        raise RequestError(f"--to {target}: {model} doesn't translate from {source} to {target}. It does: {pairs}. "
                           f"{_train(Translation)} trains another.")
    return known[pair]
