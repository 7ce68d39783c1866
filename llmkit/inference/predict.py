"""Say what a trained model says of every row of a file, or of rows in memory: labels, tags, answers, texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from llmkit.data import jsonlines, tabled
from llmkit.data.encoder import Unknown, Written
from llmkit.data.memory import Given, hold, memory_reader
from llmkit.data.sources import Place, Reader
from llmkit.inference.evaluate import (
    ROWS,
    WAY_OUT,
    Model,
    Ready,
    leaves_out,
    left_as_it_is,
    make_ready,
    name_of,
    only_of_files,
    said_by_option,
)
from llmkit.models.changing.rounding import INT8
from llmkit.objectives.base import Setup
from llmkit.planning import choices
from llmkit.recipe.seams import Answering
from llmkit.system.errors import DataError, RequestError
from llmkit.system.finite import check_all
from llmkit.system.plural import many
from llmkit.system.report import log
from llmkit.tasks.base import Encoded, Prediction, Row, Task, cut_short

CHUNK = 2048
"""Rows that are held at once: sorted by length among themselves, written in the order of the file."""


def predict(
    model: Model, data: str | Path | Given, *, task: str | Answering | None = None,
    max_length: int | None = None, batch_size: int = 16, columns: bool = False, on_bad_row: str = "error",
    encoding: str | None = None, fields: Mapping[str, str | int] | None = None, precision: str = "auto",
) -> Iterator[Prediction | None]:
    """One prediction for each row of a file, in its order; memory doesn't grow with the file.

    `model` is a run, a folder, a hub id or a catalogue name, or a model that is open (`llmkit.models.Opened`).
    `data` is a file as for `evaluate`, whose rows needn't have answers; `-` reads stdin, text by the line or JSONL.
    Or it is rows themselves, by the names of the task's fields: a list of dicts or texts, a `datasets.Dataset`, a
    function that yields them, or an iterator, gone through once.
    With `columns`, a prediction stands after all that the row had in the file: {"id": 7, "text": …, "label": …}.
    `on_bad_row` is error, or skip: then None stands in the place of what would be said of a bad row.
    `encoding` is the file's; where nothing is said, that of the rows that a run learned from, else utf-8. `fields` says
    which column is meant by each field, {"text": "review"}; where nothing is said, as in the rows of the run.
    `batch_size` and `precision` are as for `evaluate`.
    Raises RequestError where the model learned no task.
    """
    leaves_out(on_bad_row)
    only_of_files(encoding, data)
    for row, said in _each(model, data, task, max_length, batch_size, on_bad_row=on_bad_row, given=columns,
                           encoding=encoding, fields=fields, precision=precision):
        yield tabled.beside(row, said) if columns else said


def beside(
    model: Model, data: str | Path | Given, *, task: str | Answering | None = None,
    max_length: int | None = None, batch_size: int = 16, document: str = "auto", usual_length: int = 512,
    dtype: str = "float32", encoding: str | None = None, fields: Mapping[str, str | int] | None = None,
) -> Iterator[tuple[Row, Prediction]]:
    """One prediction for each row, beside it: the fields that the task reads of a file's row.

    `document` is what a row is in a text file; `usual_length` how many positions are used of a model that isn't a run.
    """
    only_of_files(encoding, data)
    for row, said in _each(model, data, task, max_length, batch_size, document, usual_length, dtype,
                           encoding=encoding, fields=fields):
        if said is not None:
            yield row, said


def _each(
    model: Model, data: str | Path | Given, task: str | Answering | None, max_length: int | None, size: int,
    document: str = "auto", usual_length: int = 512, dtype: str = "float32", on_bad_row: str | None = None,
    given: bool = False, encoding: str | None = None, fields: Mapping[str, str | int] | None = None,
    precision: str = "auto",
) -> Iterator[tuple[Row, Prediction | None]]:
    """Each row, with all that it has in the file if that is `given`, and its prediction; None of a bad row."""
    with left_as_it_is(model), said_by_option():
        ready = make_ready(model, task=task, max_length=max_length, usual_length=usual_length, dtype=dtype,
                           eight_bits=precision == INT8)
        objective = ready.learner.objective
        if not isinstance(objective, Task):
            raise RequestError(f"{name_of(model)} learned no task; name one by --task, or use generate.")
        source = partial(ready.source, document=document, on_bad_row=on_bad_row, encoding=encoding, fields=fields)
        with opened(data, source, on_bad_row) as reader:
            told = list(reader.notes)
            for note in told:
                log.info(note)
            nothing: tuple[Row, Prediction | None] = {}, None
            pairs = (pair or nothing for pair in _predicted(ready, objective, reader, size, precision))
            yield from as_given(reader, objective, pairs) if given else pairs
            for note in reader.notes[len(told):]:
                log.info(note)


@contextmanager
def opened(
    data: str | Path | Given, source: Callable[[str], Reader], on_bad_row: str | None = None,
) -> Iterator[Reader]:
    """What `data` names, while the block runs: rows in memory, stdin, or a file that `source` opens."""
    spares, way_out = (False, "") if on_bad_row is None else (leaves_out(on_bad_row), WAY_OUT)
    if isinstance(data, Iterator):
        yield hold(data, spares=spares, way_out=way_out)
        return
    if not isinstance(data, str | Path):
        yield memory_reader(data, ROWS, spares=spares, way_out=way_out)
        return
    with jsonlines.kept(str(data)) as path:
        reader = source(path)
        if path != str(data):  # the file is ours: what is said of it is said of stdin
            reader.notes[:] = [note.replace(path, "stdin") for note in reader.notes]
        yield reader


def as_given(
    reader: Reader, task: Task, pairs: Iterator[tuple[Row, Prediction | None]],
) -> Iterator[tuple[Row, Prediction | None]]:
    """Each prediction beside the row as it stands in the file, read once more; text is what it is."""
    if reader.document is not None or not reader.files:
        yield from pairs
        return
    for row, pair in zip(raws(reader, task), pairs, strict=False):
        yield row or {}, pair[1]


def raws(reader: Reader, task: Task) -> Iterator[Row | None]:
    """The rows of a file with all their columns; None for each that can't be read and is left out."""
    again, known = replace(reader, bad={}, notes=[]), 0
    for row, _ in task.unfolded(again, answered=False):
        yield from repeat(None, len(again.bad) - known)
        yield row
        known = len(again.bad)
    yield from repeat(None, len(again.bad) - known)


def _predicted(
    ready: Ready, task: Task, reader: Reader, size: int, precision: str,
) -> Iterator[tuple[Row, Prediction] | None]:
    import torch

    from llmkit.training.evaluate import Room, each
    from llmkit.training.spread.processes import accelerate, apart

    numbers = ready.numbers(precision)
    with apart():
        accelerator = accelerate(numbers, Path())
    learner, room = ready.learner.to(accelerator.device), Room(size, choices.at_once())
    stream, cut, unknown = with_gaps(task, reader), list[int](), Unknown(ready.setup.tokenizer)
    written = Written(ready.setup.tokenizer, ready.setup.plain)
    while chunk := list(islice(stream, CHUNK)):
        part = _encoded(task, [one for one in chunk if one is not None], reader, ready.setup, cut)
        part.tell(unknown)
        written.see(part.rows)
        outcomes: dict[int, Any] = {}
        with torch.inference_mode(), choices.computing_in(numbers, accelerator.device.type):
            for rows, _, told in each(accelerator, learner, [part], ready.setup, room,
                                      lambda batch: learner(batch, "predict")) if len(part) else ():
                check_all(told, reader.name)
                outcomes |= zip(rows, told, strict=True)
        said = zip(part.rows, task.combined(part, [outcomes[row] for row in range(len(part))], ready.setup))
        kept = {id(row) for row in part.rows}
        yield from (next(said) if one is not None and id(one[0]) in kept else None for one in chunk)
    if cut:
        log.info(cut_short(cut, ready.setup.max_length))
    unknown.warn(reader.name)
    if note := written.note():
        log.info("%s: %s", reader.name, note)
    if reader.bad:
        whose = "has null in its" if len(reader.bad) == 1 else "have null in their"
        log.warning(f"{many(len(reader.bad), 'bad row')} {whose} place; the first: {next(iter(reader.bad))}")


def _encoded(
    task: Task, rows: list[tuple[Row, Place]], reader: Reader, setup: Setup, cut: list[int],
) -> Encoded:
    """Rows as features; where bad ones aren't left out, none is, too long or not: each row has its prediction."""
    if reader.spares:
        return task.encoded(rows, reader, setup, cut)
    try:
        return Encoded(task.featured(rows, setup, cut) if rows else [], [row for row, _ in rows])
    except DataError as error:
        reader.spare(error)
        raise


def with_gaps(task: Task, reader: Reader) -> Iterator[tuple[Row, Place] | None]:
    """Checked rows to predict, and None for each bad one where it stands among them.

    Raises DataError where all are bad.
    """
    reader.bad.clear()  # what was seen when the file was opened comes again
    known, good = 0, False
    for one in task.stream(reader, answered=False):
        yield from repeat(None, len(reader.bad) - known)
        yield one
        known, good = len(reader.bad), True
    if not good and reader.bad:
        raise reader.nothing_left()
    yield from repeat(None, len(reader.bad) - known)
