"""What a run shows at an evaluation: a count of its answers, and what the model says of a few rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.backbones.kernels.frozen import STATES
from llmkit.backbones.kernels.privates import by_sdpa
from llmkit.data.batches import Drawn
from llmkit.system.devices import moved, same_chance
from llmkit.tasks.base import Encoded, Task
from llmkit.tasks.shared.writing import Writing
from llmkit.training.teaching.taught import KEPT

if TYPE_CHECKING:
    from llmkit.training.session import Session

SECONDS, SHARE = 2.0, 0.01
"""What looking may take between the first and the last evaluation, of a run's time where that is more."""
WRITTEN, MOST_ROWS, LETTERS = 48, 16, 400
"""Tokens of an answer that is written to be looked at, rows of features of the examples, letters of a field."""


def show(session: Session, answers: Sequence[Mapping[str, Any]]) -> None:
    """Keep the count of the answers, write it and the samples down, and draw the curves so far."""
    if answers:
        session.tally = answers[-1]
    pictures, step = session.pictures, session.state.step
    if not pictures.on:
        return
    if session.tally:
        pictures.carefully(lambda: session.run.show({"event": "answers", "step": step, **session.tally}))
    if step == 0 or session.over or pictures.looked <= max(SECONDS, SHARE * (time.monotonic() - session.began)):
        pictures.looked += pictures.carefully(lambda: look(session, session.sets.validation))
    if step:
        pictures.between()


def show_training_rows(session: Session) -> None:
    """At the end of a run that held out no rows: what the model says of some that it learned from."""
    if session.pictures.on and not session.sets.validation:
        session.pictures.carefully(lambda: look(
            session, session.sets.train, "These are training rows: the run held out none, and it saw their answers."))


def look(session: Session, sets: Sequence[Any], about: str = "") -> None:
    """Write down what the model says of a few rows."""
    rows = sampled(session, sets)
    if rows:
        session.run.show({"event": "samples", "step": session.state.step, **({"about": about} if about else {}),
                          "rows": rows})


def sampled(session: Session, sets: Sequence[Any]) -> list[dict[str, Any]]:
    """What the model says of the first rows; none where layers are compiled, for they would be once more, and none of
    a model in parts, which the main process can't ask alone.
    """
    if session.recipe.training.compile or session.spread.even:
        return []
    device, learner, objective = session.accelerator.device, session.learner, session.objective
    was = learner.training
    learner.eval()
    try:
        with same_chance(device), session.spread.judging(), session.averaged(), by_sdpa(learner.tuned):
            if isinstance(objective, Task):
                return of_task(session, shorter(objective), next(part for part in sets if len(part)))
            drawn = Drawn(sets, seed=0)
            rows = [drawn[0, row] for row in range(min(objective.looked_at, len(drawn)))]
            with moved([objective.collate(rows, session.setup.tokenizer)], device) as (batch,):
                return objective.show(learner.model, batch, learner.family, session.setup.tokenizer)
    finally:
        learner.train(was)


def shorter(task: Task) -> Task:
    """The task, with answers that are short enough where it writes some."""
    return task.limited(min(WRITTEN, task.max_new_tokens)) if isinstance(task, Writing) else task


def of_task(session: Session, task: Task, part: Encoded) -> list[dict[str, Any]]:
    """The first examples of a task, each with its fields and what the model says of it."""
    few, learner, setup = first_of(part, task.looked_at), session.learner, session.setup
    with moved([task.collate(few.features, setup.tokenizer)], session.accelerator.device) as (batch,):
        outcomes = task.predict(learner.model, batch, learner.family)
    return [beside(row, said) for row, said in zip(few.rows, task.combined(few, outcomes, setup), strict=True)]


def first_of(part: Encoded, count: int) -> Encoded:
    """So many of the first examples, with all their rows of features; fewer where one has many."""
    rows = [i for i, owner in enumerate(part.owners) if owner < count]
    kept = {part.owners[i] for i in rows[:MOST_ROWS]} - {part.owners[i] for i in rows[MOST_ROWS:]} or {part.owners[0]}
    numbers = {owner: number for number, owner in enumerate(sorted(kept))}
    features = [{name: row for name, row in part.features[i].items() if name not in (STATES, KEPT)}  # for training
                | {"of": np.array([numbers[owner]])} for i, owner in enumerate(part.owners) if owner in numbers]
    return Encoded(features, [part.rows[owner] for owner in numbers])


def beside(row: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """An example and a prediction in one row; of tagged words, each word with what it was taken for."""
    if "tokens" in row and "tags" in said and len(row["tokens"]) == len(said["tags"]):
        return {"text, and the tag of each word": tagged(row["tokens"], row.get("tags") or [], said["tags"])}
    return {**{name: short(value) for name, value in row.items() if value not in (None, "", [])},
            **{f"the model says: {name}": short(value) for name, value in said.items()}}


def tagged(words: Sequence[str], true: Sequence[str], said: Sequence[str]) -> list[list[str]]:
    """Words that have a tag, or were given one: the [cat, right, B-WHO]"""
    out = []
    for place, (word, tag) in enumerate(zip(words, said, strict=True)):
        real = true[place] if place < len(true) else tag
        mark = "" if tag == real == "O" else "right" if tag == real else "wrong"
        out += [[word, mark, tag if tag == real else f"{tag}, is {real}"], [" ", ""]]
    return out


def short(value: Any) -> Any:
    """A value that a page has room for: figures as they are, texts up to a few lines."""
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
