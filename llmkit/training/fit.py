"""One run, from a recipe to a folder. Read `fit` top to bottom."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import Any

from llmkit.backbones.kernels import shortcuts
from llmkit.planning.settle import settle
from llmkit.recipe import Recipe
from llmkit.system import report
from llmkit.system.errors import PlaceError
from llmkit.system.signals import stopping
from llmkit.training.prepare import describe, enough_room, idles, list_bad_rows, ready, with_floors
from llmkit.training.processes import accelerate, shared, world
from llmkit.training.resume import as_before, pick_up
from llmkit.training.run_folder import Run


def fit(asked: Recipe, resume: str = "auto") -> dict[str, Any]:
    """Train as the recipe says, going on where an earlier run of it stopped; return the summary.

    `resume` is auto, must, never, or a checkpoint's path. Raises an LlmkitError whose status is the exit status.
    """
    began = time.monotonic()
    with stopping() as stop, ExitStack() as held:
        report.quiet_libraries()
        settled = settle(asked, world())
        recipe, plan, run = settled.recipe, settled.recipe.training, Run(asked.folder)
        accelerator = accelerate(plan.precision, plan.report_to, run.folder, idles(settled), plan.tf32)
        held.enter_context(shortcuts.only(plan.shortcuts))
        main = accelerator.is_main_process
        if main:
            held.enter_context(run.locked())
            held.callback(run.close)
        start, done = shared(accelerator, lambda: pick_up(run, asked, recipe, resume))
        if done is not None:
            return dict(done)
        loop = ready(settled if start is None else as_before(settled, run), accelerator, run, stop, began, start)
        if main:
            enough_room(run, loop.learner, loop.length, loop.state, plan, recipe.tuning.adapter)
            describe(loop.settled, loop.sets, loop.learner, start)
            list_bad_rows(loop.settled, run)
            loop.sets = with_floors(loop.sets, recipe.learning)
            run.rewind(loop.state.step if start is not None else -1)
            run.write_recipe(loop.recipe)
        if plan.report_to:
            accelerator.init_trackers(recipe.name)
        try:
            loop.train()
            return loop.finish()
        except BaseException as error:
            if main:
                with suppress(PlaceError):  # what went wrong first is what is told
                    loop.conclude("failed" if stop.by is None else "stopped", str(error))
            raise
