"""A checkpoint: what trains, the optimizer, and what the run counts."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from llmkit import recipe as recipes
from llmkit.system.errors import NumberError
from llmkit.training.finish import under_way
from llmkit.training.log import Log
from llmkit.training.session import Session

TUNING = "tuning.safetensors"
"""What the tuning method keeps beside what trains."""


def save(session: Session, journal: Log) -> None:
    """Write a checkpoint, by the main process. NumberError where a parameter isn't finite: nothing is written then."""
    journal.close_window()
    state, tuning, learner = session.state, session.recipe.tuning, session.learner
    if (name := session.spread.not_finite(learner)) is not None:
        raise NumberError(f"step {state.step}: {name} isn't finite any more; no checkpoint holds it. "
                          "A lower training.learning_rate may help.")
    if session.main:
        state.wall = time.monotonic() - session.began
        manifest = {"state": asdict(state), "data": session.data, "processes": session.accelerator.num_processes,
                    "recipe": recipes.tree_of(session.recipe), **session.below}

        def write(folder: Path) -> None:
            session.spread.save(folder, learner, session.optimizer, session.best)
            if more := tuning.state(learner.tuned):
                save_file({name: value.contiguous() for name, value in more.items()}, folder / TUNING)

        manifest["threads"] = torch.get_num_threads()
        session.run.save(state.step, manifest, write, session.recipe.training.save_total_limit)
        under_way(session)
    else:
        session.spread.save(None, learner, session.optimizer, session.best)
    session.accelerator.wait_for_everyone()
    session.tell(lambda callback, view: callback.on_save(view, session.run.checkpoint(state.step)))
