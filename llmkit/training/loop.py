"""The step loop: every event of a step comes in the same order."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from llmkit.system import report
from llmkit.training.folder.saving import save, wait
from llmkit.training.log import Log
from llmkit.training.session import Session
from llmkit.training.step import Stepper
from llmkit.training.validation import validate

log = logging.getLogger("llmkit")


def go_on(session: Session) -> None:
    """Step, log, evaluate, save, stop where a signal says so; until the recipe's length is reached."""
    plan, state, journal = session.recipe.training, session.state, Log(session)
    stepper, compiled = Stepper(session, journal), session.learner.compiled
    session.tell(lambda callback, view: callback.on_start(view))
    if state.step == 0 and session.sets.validation:
        validate(session, journal)
        state.before = state.evaluation
    batches, since = stepper.batches(), replace(state)
    session.stop.train(session.accelerator.num_processes > 1)
    with report.progress(session.main) as progress:
        clock = time.monotonic()
        while state.due or not session.over:
            if not state.due:
                rate = session.rate
                if not stepper.tried(batches):
                    batches = stepper.smaller()
                    continue
                state.step += 1
                session.stop.paced(time.monotonic() - clock)
                state.seconds += time.monotonic() - clock
                journal.add("seconds", time.monotonic() - clock)
                session.tell(lambda callback, view: callback.on_step(view))
                if compiled is not None and session.main and not compiled.told:
                    log.info("%s", compiled.describe())
                over = session.over
                if state.step % plan.logging_steps == 0 or over:
                    figures = journal.line(rate)
                    progress.update(session.length.share(state), state.step, figures,
                                    session.length.left(state, since))
                wanted = over or (plan.eval_steps and state.step % plan.eval_steps == 0)
                state.due = bool(session.sets.validation and wanted)
            over = session.over
            if state.due:
                validate(session, journal)
                if session.over and not over:
                    log.info("%s after step %d", state.ended, state.step)
                over = session.over
            if session.accelerator.num_processes == 1:  # several must agree on it, at the next step
                session.asked_to_stop = session.stop.by
            if session.asked_to_stop:
                session.stop.agreed.set()
            if session.written:
                wait(session)
            if state.step % plan.save_steps == 0 or over or session.asked_to_stop:
                save(session, journal)
            if session.asked_to_stop:
                session.halt(session.asked_to_stop)
            clock = time.monotonic()
