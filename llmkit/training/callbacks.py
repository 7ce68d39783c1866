"""What a program is told of its run: a method an event, with a view of the run that can't be changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmkit.recipe import Recipe
from llmkit.system.errors import RequestError


@dataclass(frozen=True)
class View:
    """How far a run is, when an event is told."""

    recipe: Recipe
    """As it is run: nothing in it is left open."""
    folder: Path
    """Of the run."""
    step: int
    """Optimizer steps done."""
    tokens: int
    """Model input positions so far that weren't padding."""
    epoch: float
    """Passes over the training rows."""
    share: float
    """How much of the run is done, from 0 to 1."""
    learning_rate: float
    """Of the next step."""
    train_loss: float | None
    """Mean loss a target (nats) of the last line of metrics.jsonl; None before the first."""
    evaluation: Mapping[str, float]
    """The figures of the last evaluation; empty before the first."""
    seconds: float
    """Since the run began; resumed, with what it took before."""
    main: bool
    """Whether this process is the one that writes the run's folder: with several, each calls its own callbacks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "evaluation", MappingProxyType(dict(self.evaluation)))


class Callback:
    """Told of a run's events, in this order; override the methods that you want.

    What a method raises ends the run, as any error does: what was saved before stays whole. To look at a run from
    outside, its metrics.jsonl has the same events.

        class Watch(llmkit.Callback):
            def on_log(self, view, event):
                print(view.step, event["loss"])

        llmkit.fit("bert_mlm", callbacks=[Watch()])
    """

    def on_start(self, view: View) -> None:
        """Before the first step of this call; `view.step` is above 0 where a run goes on."""

    def on_step(self, view: View) -> None:
        """After an optimizer step."""

    def on_log(self, view: View, event: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: event["event"] is train, evaluate, spike or skipped."""

    def on_evaluate(self, view: View, figures: Mapping[str, float]) -> None:
        """After an evaluation, with its figures."""

    def on_save(self, view: View, folder: Path) -> None:
        """A checkpoint is whole, in this folder; with async_save that is told some steps after its own."""

    def on_end(self, view: View, summary: Mapping[str, Any]) -> None:
        """The run is over, however it ended: summary["status"] is completed, stopped or failed."""


def checked(callbacks: Iterable[Any]) -> tuple[Callback, ...]:
    """The callbacks; RequestError where they are no list, or one isn't made from `Callback`."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise RequestError(f"callbacks: a list of llmkit.Callback is needed, not a {type(callbacks).__name__}.")
    given = tuple(callbacks)
    for callback in given:
        if not isinstance(callback, Callback):
            what = f"the class {callback.__name__}" if isinstance(callback, type) else f"a {type(callback).__name__}"
            raise RequestError(f"callbacks: {what} is no llmkit.Callback; make a class from it, and give an instance.")
    return given
