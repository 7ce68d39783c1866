"""What a run counts, and a checkpoint keeps."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

REACHED = "the recipe's length is reached"
"""Why most runs end, in their summary."""


@dataclass
class State:
    """What the loop counts, and a checkpoint keeps."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Time in the step loop: waiting for data included, evaluation and saving not."""
    waited: float = 0.0
    """Of that, what the main process waited for data."""
    agreed: float = 0.0
    """That time as all processes know it."""
    wall: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last line of metrics.jsonl: losses and targets by head, tokens, seconds."""
    train_loss: float | None = None
    before: dict[str, float] | None = None
    """The evaluation before the first step."""
    evaluation: dict[str, float] | None = None
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Every evaluation, with its step."""
    best: dict[str, float] | None = None
    """Of these, the one whose weights are kept."""
    ended: str | None = None
    """Why the run ends before its length."""
    due: bool = False
    """Whether the evaluation after this step is still to be made: a signal came in it."""
    skipped: int = 0
    """Steps that weren't made because a number wasn't finite."""
    skipped_last: int = 0
    """Those of them in a row up to here."""
    losses: list[float] = field(default_factory=list)
    """Of the last lines of metrics.jsonl, by which a jump is told."""


class Interrupted(Exception):
    """A signal came in an evaluation."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(by.name)
        self.by = by
