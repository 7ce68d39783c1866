"""A checkpoint: what trains, the optimizer, and what the run counts; written while the run waits, or goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from llmkit import recipe as recipes
from llmkit.system.devices import copied
from llmkit.system.errors import NumberError
from llmkit.training.finish import under_way
from llmkit.training.log import Log
from llmkit.training.session import Session

log = logging.getLogger("llmkit")

TUNING = "tuning.safetensors"
"""What the tuning method keeps beside what trains."""
SLOW = 1.0
"""Seconds that a checkpoint waits for the one before it, from which on that is said."""

Write = Callable[[Path | None], None]
"""Writes a checkpoint's files into a folder, which is told to the main process alone."""


def save(session: Session, journal: Log) -> None:
    """Write a checkpoint, by the main process. NumberError where a parameter isn't finite: nothing is written then.

    With `training.async_save`, it is copied here and written beside the steps that follow; one that no step follows is
    written here, for the run ends with it.
    """
    wait(session)
    journal.close_window()
    state, learner = session.state, session.learner
    if (name := session.spread.not_finite(learner)) is not None:
        raise NumberError(f"step {state.step}: {name} isn't finite any more; no checkpoint holds it. "
                          "A lower training.learning_rate may help.")
    beside = session.recipe.training.async_save and not (session.over or session.asked_to_stop)
    work = checkpoint(session, contents(session, beside))
    if beside:
        session.aside.start(state.step, work)
    else:
        work()
        saved(session, state.step)


def contents(session: Session, apart: bool) -> Write:
    """What writes the tensors of this step; `apart`: of copies, so that the steps that follow may change them."""
    learner, tuning, best = session.learner, session.recipe.tuning, session.best
    more = tuning.state(learner.tuned) if session.main else {}
    if apart:
        tensors, more = session.spread.copied(learner, session.optimizer, best), copied(more)
    else:
        def tensors(folder: Path | None) -> None:
            session.spread.save(folder, learner, session.optimizer, best)

    def write(folder: Path | None) -> None:
        tensors(folder)
        if more and folder is not None:
            save_file({name: value.contiguous() for name, value in more.items()}, folder / TUNING)

    return write


def checkpoint(session: Session, write: Write) -> Callable[[], None]:
    """What makes a checkpoint of this step: the main process the folder and its manifest, the others their parts."""
    if not session.main:
        return lambda: write(None)
    state, keep = session.state, session.recipe.training.save_total_limit
    state.wall = time.monotonic() - session.began
    manifest = {"state": asdict(state), "data": session.data, "processes": session.accelerator.num_processes,
                "recipe": recipes.tree_of(session.recipe), **session.below, "threads": torch.get_num_threads(),
                "rounding": dict(recipes.ROUNDING)}
    return lambda: session.run.save(manifest["state"]["step"], manifest, write, keep)


def saved(session: Session, step: int) -> None:
    """The checkpoint of a step is whole: say so, once all processes are here."""
    session.accelerator.wait_for_everyone()
    if session.main:
        under_way(session)
    session.tell(lambda callback, view: callback.on_save(view, session.run.checkpoint(step)))


def wait(session: Session) -> None:
    """Until the checkpoint that is on its way is whole, where there is one; raise what went wrong with it."""
    aside = session.aside
    if not aside.busy:
        return
    done, began = aside.over, time.monotonic()
    aside.end()
    waited = time.monotonic() - began
    if not done and waited > SLOW and session.main and not session.asked_to_stop:
        log.warning("the run waited %.1f s for the checkpoint after step %d, which was still being written; a larger "
                    "training.save_steps leaves more time", waited, aside.step)
    saved(session, aside.step)
