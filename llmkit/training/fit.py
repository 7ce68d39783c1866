"""One run, from a recipe to a folder. Read `fit` top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from llmkit.backbones.kernels import shortcuts
from llmkit.planning.settle import settle
from llmkit.recipe import Recipe
from llmkit.system import report
from llmkit.system.environment import prepare_torch
from llmkit.system.errors import PlaceError
from llmkit.system.signals import stopping
from llmkit.training.callbacks import Callback, checked
from llmkit.training.finish import conclude, finish
from llmkit.training.loop import train
from llmkit.training.prepare import announce, idles, ready
from llmkit.training.processes import accelerate, shared, world
from llmkit.training.request import recipe_from
from llmkit.training.resume import as_before, pick_up
from llmkit.training.run_folder import RunFolder


def fit(
    recipe: str | Path | Mapping[str, Any] | Recipe, resume: str = "auto", *, callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train as a recipe says, going on where an earlier run of it stopped; return the summary.

    recipe      a path, a packaged name, a dict of its fields, or what `llmkit.load_recipe` returns
    resume      auto, must, never, or a checkpoint's path
    callbacks   told of the run's events, see `Callback`

    Raises an LlmkitError whose status is the exit status of the command line.
    """
    began = time.monotonic()
    prepare_torch()
    with stopping() as stop, ExitStack() as held:
        report.quiet_libraries()
        request = recipe_from(recipe)
        settled = settle(request, world())
        plan, run = settled.recipe.training, RunFolder(request.folder)
        accelerator = accelerate(plan.precision, plan.report_to, run.folder, idles(settled), plan.tf32)
        held.enter_context(shortcuts.only(plan.shortcuts))
        if accelerator.is_main_process:
            held.enter_context(run.locked())
            held.callback(run.close)
        start, done = shared(accelerator, lambda: pick_up(run, request, settled.recipe, resume))
        if done is not None:
            return dict(done)
        settled = settled if start is None else as_before(settled, run)
        session = ready(settled, accelerator, run, stop, began, start, callbacks=checked(callbacks))
        if session.main:
            announce(session, start)
        if plan.report_to:
            accelerator.init_trackers(request.name)
        try:
            train(session)
            summary = finish(session)
        except BaseException as error:
            if session.main:
                with suppress(PlaceError):  # what went wrong first is what is told
                    failed = conclude(session, "failed" if stop.by is None else "stopped", str(error))
                    session.tell(lambda callback, view: callback.on_end(view, failed))
            raise
        session.tell(lambda callback, view: callback.on_end(view, summary))
        return summary
