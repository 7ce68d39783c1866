"""The end of a run: model/, the model card, and the summary."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from llmkit import recipe as recipes
from llmkit.models import ends, layout
from llmkit.models.files import pin
from llmkit.models.quantizing import numbers_in
from llmkit.objectives.shared import text_head
from llmkit.recipe import registry
from llmkit.system import machine, report
from llmkit.system.errors import PlaceError, status_of
from llmkit.tasks.classification import Classification
from llmkit.training.folder.belonging import length_of
from llmkit.training.folder.ending import ended, in_words
from llmkit.training.looking import collapse
from llmkit.training.looking.samples import show_training_rows
from llmkit.training.session import Session
from llmkit.training.spread.processes import shared
from llmkit.training.state import REACHED

PACKAGES = ("llmkit", "torch", "transformers", "accelerate", "peft")
"""Whose versions a summary says; None where one isn't installed."""


def finish(session: Session) -> dict[str, Any]:
    """Leave model/, the model card and the summary."""
    most = gather_object([peaks()])
    summary: dict[str, Any] | None = None
    with session.averaged():
        if session.best is not None:
            session.spread.put_back(session.learner, session.best)
        with session.spread.whole(session.learner):
            if session.main:
                publish(session)
                collapse.after_pretraining(session)
    if session.main:
        summary = conclude(session, "completed", session.state.ended or REACHED)
        summary |= {name: sum(one[name] for one in most) for name in most[0]}
        session.run.write(layout.CARD, card(session, summary))
        session.run.write(layout.SUMMARY, json.dumps(summary, indent=1))
        session.run.write(layout.STATUS, ended(0, "completed"))
        session.run.drop_before()
        show_training_rows(session)
        session.pictures.last()
    return dict(shared(session.accelerator, lambda: summary or {}))


def card(session: Session, summary: dict[str, Any]) -> str:
    """The model card, with the run's curves where it draws them."""
    text = report.card(summary, session.recipe.name, recipes.dump(session.recipe))
    if isinstance(session.recipe.task, Classification) and session.settled.head == text_head.TOKENS:
        text += f"\n{text_head.TOLD}\n"
    if not session.pictures.on:
        return text
    return f"{text}\n![loss, learning rate, norm of the gradient and tokens a second over the steps]({layout.CURVES})\n"


def give_up(session: Session, error: BaseException) -> None:
    """Say in the summary why a run ended before its end; what went wrong first is what is told."""
    session.aside.leave()
    if session.main:
        with suppress(PlaceError):
            summary = conclude(session, "failed" if session.stop.by is None else "stopped", str(error))
            session.run.write(layout.STATUS, ended(status_of(error), in_words(error)))
            if session.stop.by is None:  # who stops a run waits for it to be gone
                session.pictures.last()
            session.tell(lambda callback, view: callback.on_end(view, session.told(summary)))


def publish(session: Session) -> None:
    """Leave model/, and the networks that learned beside it, each in a folder of its own."""
    learner, tokenizer = session.learner, session.setup.tokenizer
    tuned = learner.tuned

    def write(folder: Path) -> None:
        session.recipe.tuning.save(tuned, folder)
        below = folder / layout.BASE  # there where a model trained under its adapter
        base = session.settled.base
        if base is not None and (commit := base.commit) is not None and not below.is_dir():
            pin(folder, commit)
        for place in (folder, below) if below.is_dir() else (folder,):
            tuned.config.save_pretrained(place)  # an adapter's too: it knows the labels
            ends.leave(tuned, place)
            tokenizer.save_pretrained(place)
        session.objective.describe(folder, session.setup)
        if session.stop.by is not None:
            session.halt(session.stop.by)

    for name, network in session.objective.others(learner.model).items():
        beside: Any = network

        def write_beside(folder: Path, network: Any = beside) -> None:
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        session.run.publish(write_beside, name)
    session.run.publish(write)


def under_way(session: Session) -> None:
    """Say in the summary that the run goes on: one that is killed leaves that, and no lock that a process holds."""
    conclude(session, "running", "the run goes on")


def conclude(session: Session, status: str, why: str) -> dict[str, Any]:
    """Write summary.json, and return it. What it said of an earlier end stays until there is another one."""
    state, recipe, learner = session.state, session.recipe, session.learner
    own: dict[str, Any] = {
        "status": status, "why": why,
        "weights": "last" if state.best is None else f"best {recipe.training.metric_for_best_model}",
        "best": state.best, "steps": state.step, "skipped_steps": state.skipped, "tokens": state.tokens,
        "train_loss": state.train_loss, "evaluation_before": state.before, "evaluation": state.evaluation,
        "length": length_of(recipe), "data": dict(session.data)}
    if session.resumed:
        own["resumed"] = session.resumed
    if same := session.tally.get("one_answer"):
        own["one_answer"] = same
    if session.earlier is not None and status != "completed":
        own["before"] = session.earlier
    more = {
        "parameters": numbers_in(learner.parameters()),
        "trainable_parameters": sum(p.numel() for name, p in learner.trained.items()
                                    if learner.wakes.get(name, 0) < max(1, state.step)),
        "wall_seconds": time.monotonic() - session.began,
        "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
        "data_wait": state.waited / max(state.seconds, 1e-9), **peaks(),
        "versions": {name: machine.installed(name) for name in PACKAGES},
        "processes": session.accelerator.num_processes, "strategy": session.spread.name,
        "device": str(session.accelerator.device),
        "precision": recipe.training.precision, "adapter": recipe.tuning.adapter, "recipe": about(session),
        "output_dir": str(session.run.folder)}
    if learner.compiled is not None:
        more["graphs"] = dict(learner.compiled.graphs)
    base = session.settled.base
    if base is not None and base.commit is not None:
        more["base"] = {"name": base.name, "commit": base.commit}
    if recipe.data.on_bad_row == "skip":
        more["bad_rows"] = sum(len(reader.bad) for reader in session.settled.readers)
    # a plug-in's facts stand among ours, and change none of them
    summary = {**own, **session.sets.facts, **more, **own}
    session.run.write(layout.SUMMARY, json.dumps(summary, indent=1))
    return summary


def about(session: Session) -> dict[str, Any]:
    """What the run was, for the model card."""
    recipe = session.recipe
    start = recipe.backbone.pretrained or f"{recipe.backbone.family}-{recipe.backbone.size or 'default'}"
    return {
        "what": "Pretrained" if recipe.task is None else "Fine-tuned", "backbone": start,
        "kind": "objective" if recipe.task is None else "task", "learning": registry.name_of(recipe.learning),
        "tuning": registry.name_of(recipe.tuning), "data": [reader.label for reader in session.settled.train]}


def peaks() -> dict[str, int]:
    """The most memory that this process has held, in bytes: main memory, and beside it a GPU's where it has one."""
    gpu = machine.peak_gpu_memory()
    return {"peak_memory_bytes": machine.peak_memory(), **({} if gpu is None else {"peak_gpu_memory_bytes": gpu})}
