"""Opening what is explained: a model, a text or a row as its task reads it, and the answer that is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import models
from llmkit.data.encoder import Unknown
from llmkit.data.memory import memory_reader
from llmkit.data.tokens import encode
from llmkit.inference.evaluate import make_ready
from llmkit.inference.explaining.aim import Aim, Kind
from llmkit.inference.explaining.rows import AskedOf, FileRow, open_row, task_of
from llmkit.inference.explaining.shown import shown, single
from llmkit.inference.explaining.subject import LABELS, LONGEST, Subject, inputs_of, name_of_answer
from llmkit.inference.writing.filling import MASKS
from llmkit.inference.writing.opening import INSTEAD
from llmkit.models import Base
from llmkit.models.run import recipe_of
from llmkit.objectives.shared import text_head
from llmkit.objectives.span_corruption import sentinels
from llmkit.system import devices, report
from llmkit.system.errors import RequestError, nearest
from llmkit.system.report import log
from llmkit.tasks.base import cut_short
from llmkit.tasks.classification import Classification
from llmkit.tasks.shared.writing import Writing, begins

if TYPE_CHECKING:
    from torch import Tensor


def open_subject(
    model: str | Path, text: str | FileRow, *, pair: str | None = None, written: str | None = None,
    target: str | None = None, context: str | None = None, choices: Sequence[str] = (), at: str | None = None,
) -> Subject:
    """Open a model and read a text with it as it would for its task.

    text      also a row of a file, where the model's task is of words, of answers in a text, or of choices
    pair      the second text, where a classifier reads two
    written   what an encoder-decoder has written so far
    target    the label, word or answer that is explained; the likeliest where nothing is said
    context   where the answer to a question is looked for
    choices   among which is chosen
    at        the word whose tag is explained; or one end of an answer, start or end

    RequestError where the text is empty or too long, or the target isn't one.
    """
    if isinstance(text, str) and not text.strip():
        raise RequestError("TEXT: there is nothing in it to be explained.")
    report.quiet_libraries()
    task = task_of(model)
    if task is None:
        found = _of_text(model, text, pair, written, AskedOf(context, choices, target, at))
    else:
        for option, value in (("--pair", pair), ("--written", written)):
            if value is not None:
                raise RequestError(f"{option}: {model} does {task}, which has no such text; leave it out.")
        found = open_row(model, task, text, AskedOf(context, choices, target, at))
        _fits(found)
    unknown = Unknown(found.tokenizer)
    unknown.see(found.ids, [text for text in found.row.values() if isinstance(text, str)] or found.text)
    unknown.warn(found.name)
    return found


def _of_text(
    model: str | Path, text: str | FileRow, pair: str | None, written: str | None, wanted: AskedOf,
) -> Subject:
    """A text alone: what is explained is a label, a number, or a word."""
    for option, value in (("--context", wanted.context), ("--choice", wanted.choices), ("--at", wanted.at)):
        if value:
            raise RequestError(f"{option}: is for models of question_answering, multiple_choice and tagging; {model} "
                               "isn't one; leave it out.")
    assert isinstance(text, str)  # whoever reads files for such a model reads texts
    learned = recipe_of(model)
    task = None if learned is None else learned.task
    found = _as_learned(model, task, text, pair) if isinstance(task, Classification | Writing) else _plain(
        model, text, pair)
    _fits(found)
    return _aimed(_on_device(_writing(found, written)), wanted.target)


def _as_learned(model: str | Path, task: Classification | Writing, text: str, pair: str | None) -> Subject:
    """A run of a task: the text stands in its template and its prompt, cut as its rows were."""
    ready, cut = make_ready(model), list[int]()
    (first, *_) = task.wanted
    row = {first: text, **({} if pair is None else {"text_pair": pair})}
    if pair is not None and not isinstance(task, Classification):
        raise RequestError("--pair: a second text is for classifiers that were trained on two.")
    objective: Any = ready.learner.objective
    rows = list(objective.stream(memory_reader([row], "TEXT"), answered=False))  # as its own rows are read and checked
    (features, *_) = objective.featured(rows, ready.setup, cut)
    if cut:
        log.warning(cut_short(cut, ready.setup.max_length))
    head = task.head_for(ready.learner.family)
    averages = isinstance(task, Classification) and head == text_head.TOKENS
    return Subject(str(model), ready.learner.tuned, ready.setup.tokenizer, ready.learner.family,
                   LABELS if averages else head, text,
                   inputs_of(**{name: features[name] for name in ("input_ids", "token_type_ids") if name in features}),
                   ready.learned.tuning.virtual_tokens if ready.learned is not None else 0, averages=averages)


def _plain(model: str | Path, text: str, pair: str | None) -> Subject:
    """Any other model: the text as its tokenizer has it."""
    base = Base.open(model)
    family, opened = base.family, models.open_model(base)
    tokenizer, kind = opened.tokenizer, opened.kind
    averages = text_head.averages(kind, opened.folder)
    kind = LABELS if averages else kind
    if kind in ("AutoModelForCausalLM",) and family.shape == "decoder":
        if pair is not None:
            raise RequestError("--pair: a second text is for classifiers that were trained on two.")
        begin = [int(tokenizer.bos_token_id or 0)] if begins(tokenizer) else []
        inputs = inputs_of(input_ids=[*begin, *encode(tokenizer, [text])[0]])
    else:
        for mark in MASKS:  # whatever the tokenizer calls its mask
            if tokenizer.mask_token is not None and mark not in tokenizer.get_vocab():
                text = text.replace(mark, str(tokenizer.mask_token))
        read = tokenizer(text, pair)
        types = family.shape == "encoder" and "token_type_ids" in read
        inputs = inputs_of(**{name: read[name] for name in ("input_ids", *(["token_type_ids"] if types else []))})
    return Subject(str(model), opened.model, tokenizer, family, kind, text, inputs, opened.virtual_tokens,
                   averages=averages)


def _fits(subject: Subject) -> None:
    """RequestError where a text has more tokens than the model has positions, or than can be looked at."""
    limit = subject.family.position_limit(subject.base.config)
    most = LONGEST if limit is None else min(LONGEST, limit - subject.virtual_tokens)
    if len(subject.ids) > most:
        why = "can be looked at" if most == LONGEST else "the model has positions for"
        raise RequestError(f"TEXT: its {len(subject.ids):,} tokens are more than the {most:,} that {why}; shorten it.")
    if not subject.places:
        raise RequestError(f"TEXT: {subject.text!r} has no tokens to this model.")


def _writing(subject: Subject, written: str | None) -> Subject:
    """With what the decoder of an encoder-decoder has written: where nothing is said, a hole's mark, or nothing."""
    if subject.kind != "AutoModelForSeq2SeqLM":
        if written is not None:
            raise RequestError("--written: is for encoder-decoders; of a model that writes on, let it stand in TEXT.")
        return subject
    import torch

    config, tokenizer = subject.base.config, subject.tokenizer
    start = config.decoder_start_token_id
    ids = [int(start if start is not None else subject.family.decoder_start(tokenizer))]
    if written is not None:
        ids += encode(tokenizer, [written])[0]
    else:
        known = set(sentinels(tokenizer))
        ids += next(([one] for one in subject.ids if one in known), [])
    return replace(subject, inputs={**subject.inputs, "decoder_input_ids": torch.tensor([ids])})


def _on_device(subject: Subject) -> Subject:
    """On a GPU, where there is one."""
    device = devices.kind()
    subject.model.to(device).eval()
    return replace(subject, inputs={name: tensor.to(device) for name, tensor in subject.inputs.items()})


# ---- what is explained ----

def _aimed(subject: Subject, target: str | None) -> Subject:
    """With the answer that is explained; where there is none, with the reason."""
    import torch

    kind, config = subject.kind, subject.base.config
    lacks = _lacks(subject)
    if lacks:
        if target is not None:
            raise RequestError(f"--target {target}: {lacks}")
        return replace(subject, lacks=lacks)
    if kind == LABELS:
        names: dict[str, Kind] = {"multi_label_classification": "one of several labels", "regression": "number"}
        what = names.get(str(config.problem_type), "label" if config.num_labels > 1 else "number")
        asked = replace(subject, aim=Aim(what, ""))
    elif kind == "AutoModelForCausalLM":
        asked = replace(subject, aim=Aim("next word", "", where=len(subject.ids) - 1))
    elif kind == "AutoModelForSeq2SeqLM":
        asked = replace(subject, aim=Aim("written word", "", where=len(subject.written) - 1))
    else:
        asked = replace(subject, aim=Aim(
            "masked word", "", where=subject.ids.index(int(subject.tokenizer.mask_token_id or 0))))
    with torch.no_grad():
        said = asked.answers(asked.inputs)[0]
    index = int(said.argmax()) if target is None else _index(asked, target, said)
    assert asked.aim is not None
    return replace(asked, aim=replace(asked.aim, index=index, name=name_of_answer(asked, index)))


def _lacks(subject: Subject) -> str:
    """Why a model has no answer to a text whose tokens could be weighed; "" where it has one."""
    kind, family = subject.kind, subject.family
    if kind == LABELS:
        return ""
    if not subject.says_words:
        return (f"{subject.name} {INSTEAD.get(kind, 'says neither labels nor words')}: there is no label and no word "
                "whose tokens could be weighed; what it attends to can be shown: --what attention.")
    if family.shape == "permuted":
        return (f"{subject.name} predicts words in any order, and a text alone doesn't say which; what it attends to "
                "can be shown: --what attention.")
    if family.shape == "encoder" and subject.tokenizer.mask_token_id not in subject.ids:
        mask = subject.tokenizer.mask_token
        if mask is None:
            return f"{subject.name}: its tokenizer has no mask token, so that no word can be asked for."
        return (f"TEXT has no mask, and {subject.name} says the word behind one: put {mask} where a word is to be "
                f"predicted, as in {' '.join([*subject.text.split()[:5], str(mask)])!r}.")
    return ""


def _index(subject: Subject, target: str, said: Tensor) -> int:
    """The column of what is asked for; RequestError where there is none."""
    aim = subject.aim
    assert aim is not None
    if aim.kind == "number":
        raise RequestError(f"--target {target}: {subject.name} says one number of a text; leave --target out.")
    if aim.is_word:
        found = [one for one in single(target, subject.tokenizer) if one < len(said)]
        if not found:
            ids = subject.tokenizer(target, add_special_tokens=False)["input_ids"]
            parts = ", ".join(repr(piece.text) for piece in shown(ids, subject.tokenizer))
            raise RequestError(f"--target {target}: is no single token of this model, but {len(ids)}: {parts}. Name "
                               "one of these.")
        return max(found, key=lambda one: float(said[one]))
    names = {str(name): int(number) for number, name in subject.base.config.id2label.items()}
    if target not in names:
        raise RequestError(f"--target {target}: no label is called so.{nearest(target, names)}")
    return names[target]
