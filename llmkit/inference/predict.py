"""Say what a trained model says of every row of a file, or of rows in memory: labels, tags, answers, texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from llmkit.data import jsonlines, tabled
from llmkit.data.memory import hold
from llmkit.data.sources import Reader
from llmkit.inference.evaluate import Model, Ready, make_ready, name_of
from llmkit.recipe.seams import Answering
from llmkit.system.errors import RequestError
from llmkit.system.report import log
from llmkit.tasks.base import Encoded, Prediction, Row, Task, cut_short

CHUNK = 2048
"""Rows that are held at once: sorted by length among themselves, written in the order of the file."""


def predict(
    model: Model, data: str | Path | Iterable[Mapping[str, Any]], *, task: str | Answering | None = None,
    max_length: int | None = None, batch_size: int = 16, columns: bool = False,
) -> Iterator[Prediction]:
    """One prediction for each row of a file, in its order; memory doesn't grow with the file.

    `model` is a run, a folder, a hub id or a catalogue name, or a model that is open (`llmkit.models.Opened`).
    `data` is a file as for `evaluate`, whose rows needn't have answers; `-` reads stdin, text by the line or JSONL.
    Or it is rows themselves, by the names of the task's fields: [{"text": …}, …].
    With `columns`, a prediction stands after all that the row had in the file: {"id": 7, "text": …, "label": …}.
    Raises RequestError where the model learned no task.
    """
    for row, prediction in beside(model, data, task=task, max_length=max_length, batch_size=batch_size, given=columns):
        yield tabled.beside(row, prediction) if columns else prediction


def beside(
    model: Model, data: str | Path | Iterable[Mapping[str, Any]], *, task: str | Answering | None = None,
    max_length: int | None = None, batch_size: int = 16, document: str = "auto", usual_length: int = 512,
    dtype: str = "float32", given: bool = False,
) -> Iterator[tuple[Row, Prediction]]:
    """One prediction for each row, beside it: the fields that the task reads of a file's row, or, `given`, all of it.

    `document` is what a row is in a text file; `usual_length` how many positions are used of a model that isn't a run.
    """
    ready = make_ready(model, task=task, max_length=max_length, usual_length=usual_length, dtype=dtype)
    objective = ready.learner.objective
    if not isinstance(objective, Task):
        raise RequestError(f"{name_of(model)} learned no task; name one by --task, or use generate.")
    with opened(data, partial(ready.source, document=document)) as reader:
        pairs = _predicted(ready, objective, reader, batch_size)
        told = list(reader.notes)
        for note in told:
            log.info(note)
        yield from as_given(reader, pairs) if given else pairs
        for note in reader.notes[len(told):]:
            log.info(note)


@contextmanager
def opened(data: str | Path | Iterable[Mapping[str, Any]], source: Callable[[str], Reader]) -> Iterator[Reader]:
    """What `data` names, while the block runs: rows in memory, stdin, or a file that `source` opens."""
    if not isinstance(data, str | Path):
        yield hold(data)
        return
    with jsonlines.kept(str(data)) as path:
        yield source(path)


def as_given(reader: Reader, pairs: Iterator[tuple[Row, Prediction]]) -> Iterator[tuple[Row, Prediction]]:
    """Each prediction beside the row as it stands in the file, read once more; text is what it is."""
    if reader.document is not None or not reader.files:
        yield from pairs
        return
    for row, pair in zip(raws(reader), pairs, strict=False):
        yield row or {}, pair[1]


def raws(reader: Reader) -> Iterator[Row | None]:
    """The rows of a file with all their columns; None for each that can't be read and is left out."""
    again, known = replace(reader, bad={}, notes=[]), 0
    for row, _ in again.rows():
        yield from repeat(None, len(again.bad) - known)
        yield row
        known = len(again.bad)
    yield from repeat(None, len(again.bad) - known)


def _predicted(ready: Ready, task: Task, reader: Reader, size: int) -> Iterator[tuple[Row, Prediction]]:
    import torch

    from llmkit.training.evaluate import visited
    from llmkit.training.spread.processes import accelerate, apart

    with apart():
        accelerator = accelerate("fp32", (), Path())
    learner = ready.learner.to(accelerator.device)
    stream, cut = task.stream(reader, answered=False), list[int]()
    while chunk := list(islice(stream, CHUNK)):
        part = Encoded(task.featured(chunk, ready.setup, cut), [row for row, _ in chunk])
        outcomes: dict[int, Any] = {}
        with torch.inference_mode():
            for rows, batch in visited(accelerator, learner, [part], ready.setup, size):
                outcomes |= zip(rows, learner(batch, "predict"), strict=True)
        yield from zip(part.rows, task.combined(part, [outcomes[row] for row in range(len(part))], ready.setup))
    if cut:
        log.info(cut_short(cut, ready.setup.max_length))
