"""Say what a trained model says of every row of a file: labels, tags, answers, texts."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from llmkit.data.sources import Reader
from llmkit.errors import PlaceError, RequestError
from llmkit.evaluation import Ready, make_ready
from llmkit.tasks.base import Encoded, Prediction, Task

CHUNK = 2048
"""Rows that are held at once: sorted by length among themselves, written in the order of the file."""


def predict(
    model: str | Path, data: str | Path, *, task: str | None = None, max_length: int | None = None,
    batch_size: int = 16,
) -> Iterator[Prediction]:
    """One prediction for each row of a file, in its order; memory doesn't grow with the file.

    `data` is a file as for `evaluate`, whose rows needn't have answers; `-` reads stdin, text by the line or JSONL.
    Raises RequestError where the model learned no task.
    """
    ready = make_ready(model, task=task, max_length=max_length)
    objective = ready.learner.objective
    if not isinstance(objective, Task):
        raise RequestError(f"{model} learned no task; name one by --task, or use generate.")
    with _file(str(data)) as path:
        yield from _predicted(ready, objective, ready.source(path), batch_size)


def write(predictions: Iterable[Prediction], to: IO[str]) -> int:
    """One JSON object a line, each flushed with its chunk; return how many."""
    count = 0
    for count, prediction in enumerate(predictions, 1):  # noqa: B007
        to.write(json.dumps(prediction, ensure_ascii=False) + "\n")
    to.flush()
    return count


def _predicted(ready: Ready, task: Task, reader: Reader, size: int) -> Iterator[Prediction]:
    import torch

    from llmkit.train import accelerate, visited

    accelerator = accelerate("fp32", (), Path())
    learner = ready.learner.to(accelerator.device)
    stream = task.stream(reader, answered=False)
    while chunk := list(islice(stream, CHUNK)):
        part = Encoded(task.encode(chunk, ready.setup, []), [row for row, _ in chunk])
        outcomes: dict[int, Any] = {}
        with torch.inference_mode():
            for rows, batch in visited(accelerator, learner, [part], ready.setup, size):
                outcomes |= zip(rows, learner(batch, "predict"), strict=True)
        yield from task.combined(part, [outcomes[row] for row in range(len(part))], ready.setup)


@contextmanager
def _file(data: str) -> Iterator[str]:
    """The path of a file; what comes from stdin is put into one, with the extension of what it looks like."""
    if data != "-":
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="llmkit-") as folder:
        whole = Path(folder) / "stdin"
        try:
            with whole.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            with whole.open("rb") as file:
                first = file.read(1)
        except OSError as error:
            raise PlaceError(f"stdin can't be kept in {folder}: {error}") from error
        named = whole.with_suffix(".jsonl" if first == b"{" else ".txt")
        whole.rename(named)
        yield str(named)
