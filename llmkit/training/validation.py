"""A run's evaluations: when one is the best so far, and when none was better for too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmkit.objectives.base import more_is_better
from llmkit.planning import choices
from llmkit.recipe import Training
from llmkit.system.errors import RequestError, nearest
from llmkit.system.plural import many
from llmkit.training.evaluate import Room, evaluate
from llmkit.training.log import Log
from llmkit.training.looking.samples import show
from llmkit.training.session import Session
from llmkit.training.state import Interrupted


def validate(session: Session, journal: Log) -> None:
    """Losses and metrics over all validation rows, each seen once, with masks that never change.

    A signal cuts it short: it stays due, and is made anew when the run goes on.
    """
    state, plan = session.state, session.recipe.training
    # the best of a run is found among evaluations of the same rows
    last, answers = session.over and plan.metric_for_best_model is None, list[dict[str, Any]]()
    if session.judging is None:
        session.judging = Room(session.micro_batch_size, choices.at_once())
    session.judging.rows = min(session.judging.rows, session.micro_batch_size)  # which may have become smaller
    try:
        with session.averaged():
            figures = evaluate(session.accelerator, session.learner, session.sets.validation, session.setup,
                               session.judging, last, session.stop, session.spread, answers)
    except Interrupted as signalled:
        session.asked_to_stop = signalled.by
        return
    state.evaluation, state.due = figures, False
    journal.event({"event": "evaluate", "step": state.step, **figures})
    state.evaluations.append({"step": state.step, **figures})
    state.ended = session.objective.verdict(state.evaluations)
    if plan.metric_for_best_model is not None:
        keep_the_best(session, figures)
    show(session, answers)
    session.tell(lambda callback, view: callback.on_evaluate(view, session.told(figures)))


def keep_the_best(session: Session, figures: dict[str, float]) -> None:
    """Keep the weights where they are the best so far; end the run where none was better for long enough."""
    state, plan = session.state, session.recipe.training
    if better(figures, state.best, plan, session.objective.heads):
        state.best = {"step": state.step, **figures}
        with session.averaged():
            session.best = session.spread.copies(session.learner)
    waited = sum(one["step"] > (state.best or figures)["step"] for one in state.evaluations)
    if plan.early_stopping_patience is not None and waited >= plan.early_stopping_patience:
        state.ended = f"no better {plan.metric_for_best_model} in {many(waited, 'evaluation')}"


def better(
    figures: Mapping[str, float], best: Mapping[str, float] | None, plan: Training, losses: Sequence[str] = (),
) -> bool:
    """Whether an evaluation is the best so far; RequestError where it has no such figure."""
    name = str(plan.metric_for_best_model)
    if name not in figures:
        raise RequestError(f"training.metric_for_best_model: the evaluation has no {name!r}.{nearest(name, figures)}")
    more = plan.greater_is_better
    if more is None:
        more = name not in losses and more_is_better(name)
    return best is None or (figures[name] > best[name] if more else figures[name] < best[name])
