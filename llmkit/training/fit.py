"""One run, from a recipe to a folder. Read `fit` top to bottom."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

from llmkit.backbones.kernels import liger, shortcuts
from llmkit.data.memory import Given
from llmkit.planning.settle import settle
from llmkit.system import report
from llmkit.system.environment import forget_leftovers, prepare_torch
from llmkit.system.signals import stopping
from llmkit.training.callbacks import Callback, checked
from llmkit.training.finish import finish, give_up
from llmkit.training.folder import trackers
from llmkit.training.folder.ending import leave, status_left
from llmkit.training.folder.resume import as_before, as_meant, checked_resume, pick_up, without_data
from llmkit.training.folder.run_folder import RunFolder
from llmkit.training.loop import go_on
from llmkit.training.prepare import announce, idles, material, ready
from llmkit.training.request import Request, read
from llmkit.training.spread.agreeing import agreed, connect, take_device
from llmkit.training.spread.alike import check_folder, met
from llmkit.training.spread.launchers import launched
from llmkit.training.spread.meeting import first
from llmkit.training.spread.processes import accelerate, alone, apart, shared, world
from llmkit.training.spread.repeatable import repeatable


def fit(
    recipe: Request, resume: str = "auto", *, train: Given | None = None, validation: Given | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train as a recipe says, going on where an earlier run of it stopped; return the summary.

    recipe       a path, a packaged name, a dict of its fields, or what `llmkit.load_recipe` returns
    resume       auto, must, never, or a checkpoint's path
    train        rows in the place of data.train: dicts or texts, a `datasets.Dataset`, or a function called each pass
    validation   such rows in the place of data.validation
    callbacks    told of the run's events, see `Callback`

    Raises an LlmkitError, whose status is the command line's exit status. The caller's accelerators stay as they are.
    """
    began = time.monotonic()
    prepare_torch()
    if left := forget_leftovers():
        report.log.warning("%s", left)
    told, resume = checked(callbacks), checked_resume(resume)
    with alone(), stopping() as stop, apart(), ExitStack() as held:
        report.quiet_libraries()
        request, memory = read(recipe, train, validation)
        run = RunFolder(request.folder)
        stop.leave = partial(leave, run)
        held.enter_context(status_left(run))
        trackers.check(request.training.report_to)
        take_device()
        meeting = held.enter_context(met(request, resume))
        request = held.enter_context(launched(as_meant(request, resume)))
        if (done := meeting.first_says("past", lambda: without_data(run, request, resume, memory))) is not None:
            return dict(done)
        settled = settle(request, world(), memory=memory)
        held.enter_context(run.locked() if meeting.main else nullcontext())
        check_folder(meeting, run)
        settled = agreed(settled, meeting)
        plan = settled.recipe.training
        start, done = pick_up(run, request, settled.recipe, resume, settled.readers) if meeting.main else (None, None)
        if (done := meeting.decide("done", done, first)) is not None:
            return dict(done)
        found = material(settled, meeting)
        connect(meeting)
        held.enter_context(repeatable(plan.full_determinism))
        accelerator = accelerate(plan.precision, run.folder, idles(settled), plan.tf32)
        held.callback(trackers.end, accelerator)
        held.enter_context(shortcuts.only(liger.ways(plan)))
        start = shared(accelerator, lambda: start)
        settled = settled if start is None else as_before(settled, run, start)
        session = ready(settled, found, meeting, accelerator, run, stop, began, start, callbacks=told)
        if session.main:
            announce(session, start)
        try:
            trackers.begin(accelerator, run, session.recipe, None if start is None else start.step)
            with meeting.first:
                go_on(session)
                summary = finish(session)
        except BaseException as error:
            give_up(session, error)
            raise
        session.tell(lambda callback, view: callback.on_end(view, session.told(summary)))
        return summary
