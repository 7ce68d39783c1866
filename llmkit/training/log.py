"""What a run writes of its steps: a line of metrics.jsonl now and then, and where the loss jumps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmkit.backbones.shared.routers import FIGURES, LAYER, Load
from llmkit.system.devices import finest
from llmkit.training.session import Session

log = logging.getLogger("llmkit")

MOST_LOSSES, FEWEST_LOSSES, JUMP = 128, 16, 6.0
"""Losses that a new one is compared with, at most and at least, and the standard deviations above them of a jump."""


class Log:
    """Sums since the last line, and the events that are written."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pending: dict[str, Any] = {}
        """Losses by head, summed over this process's targets, that the other processes don't know of yet."""

    def add(self, name: str, value: float) -> None:
        """Add to the sums since the last line."""
        window = self.session.state.window
        window[name] = window.get(name, 0.0) + value

    def routed(self, load: Load) -> None:
        """Add how evenly a step's tokens went to the experts, which all processes know."""
        layers = load.by_layer()
        names = (*FIGURES, *(f"{LAYER}{number}" for number in range(len(layers))))
        figures = torch.cat([load.figures(), layers.to(finest(layers.device))]) / self.session.accelerator.num_processes
        for name, figure in zip(names, figures, strict=True):
            self.pending[name] = self.pending.get(name, 0.0) + figure
        self.add("routed", 1)

    def close_window(self) -> None:
        """Bring the losses since the last time from all processes into the window."""
        if self.pending:
            local = torch.stack([torch.as_tensor(value) for value in self.pending.values()])
            summed = self.session.accelerator.reduce(local, "sum").tolist()
            for head, value in zip(self.pending, summed, strict=True):
                self.add(f"sum/{head}", value)
            self.pending.clear()

    def line(self, rate: float) -> dict[str, float]:
        """Write a train event; return what the progress bar shows. Where every step was skipped, there is none."""
        self.close_window()
        session, state, weight = self.session, self.session.state, self.session.objective.weights
        window = state.window
        if not any(window.get(f"count/{head}") for head in weight):
            state.window = {}
            return {}
        means = {head: window[f"sum/{head}"] / max(1.0, window[f"count/{head}"]) for head in weight}
        loss = sum(weight[head] * mean for head, mean in means.items())
        state.train_loss = loss
        speed = window["tokens"] / max(window["seconds"], 1e-9)
        parts = {head: mean for head, mean in means.items() if window[f"count/{head}"]} if len(means) > 1 else {}
        steps = window.get("routed")
        layers = [name.removeprefix("sum/") for name in window if name.startswith(f"sum/{LAYER}")]
        parts |= {name: window[f"sum/{name}"] / steps for name in (*FIGURES, *layers)} if steps else {}
        self.event({
            "event": "train", "step": state.step, "epoch": session.length.epochs(state), "tokens": state.tokens,
            "loss": loss, **parts, "learning_rate": rate,
            **({"grad_norm": window["norm"]} if "norm" in window else {}), "tokens_per_second": speed,
            "data_wait": window.get("waited", 0.0) / max(window["seconds"], 1e-9)})
        if (jump := deviations(loss, state.losses)) is not None:
            log.warning("step %d: the loss jumped to %.4g, %.0f standard deviations above its usual %.4g",
                        state.step, loss, jump, float(np.mean(state.losses)))
            self.event({"event": "spike", "step": state.step, "loss": loss, "deviations": jump})
        state.losses = [*state.losses, loss][-MOST_LOSSES:]
        state.window = {}
        return {"loss": loss, "tokens/s": speed}

    def event(self, event: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and of the trackers; callbacks hear of it."""
        session = self.session
        if session.main:
            session.run.log(event)
        if session.recipe.training.report_to:
            figures = {f"{event['event']}/{k}": v for k, v in event.items() if k not in ("event", "step")}
            session.accelerator.log(figures, event["step"])
        session.tell(lambda callback, view: callback.on_log(view, session.told(event)))


def deviations(loss: float, before: Sequence[float]) -> float | None:
    """How many standard deviations a loss is above those before it, where that is a jump; None where it isn't.

    Six over the last 128, as OLMo's trainer counts a step as an outlier.
    """
    if len(before) < FEWEST_LOSSES:
        return None
    above = loss - float(np.mean(before))
    spread = max(float(np.std(before)), 1e-3 * abs(float(np.mean(before))), 1e-12)
    return above / spread if above > JUMP * spread else None
