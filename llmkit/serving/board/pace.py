"""How much of a run is done, and about how long the rest takes: by its recipe and its last line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmkit.figures.curves import is_number


def pace(training: Mapping[str, Any], line: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(share done from 0 to 1, seconds of training left), each None where nobody can tell.

    training   the block of the recipe: max_steps, num_train_epochs, max_tokens or max_minutes say when the run ends
    line       the last training line of metrics.jsonl: step, epoch, tokens, tokens_per_second

    Evaluations and checkpoints come on top. 300 of 1,000 steps, 30,000 tokens at 100 a second  ->  (0.3, 700.0)
    """
    tokens, speed = _above(line.get("tokens")), _above(line.get("tokens_per_second"))
    spent = tokens / speed if tokens and speed else None
    minutes = _above(training.get("max_minutes"))
    share: float | None = None
    for field, known in (("max_steps", "step"), ("num_train_epochs", "epoch"), ("max_tokens", "tokens")):
        if (whole := _above(training.get(field))) and is_number(line.get(known)):
            share = line[known] / whole
            break
    else:
        if minutes and spent is not None:
            share = spent / (60 * minutes)
    if share is None:
        return None, None
    share = min(1.0, max(0.0, share))
    return share, spent * (1 - share) / share if spent is not None and share > 0 else None


def _above(value: Any) -> float | None:
    """A figure above 0; None for anything else."""
    return float(value) if is_number(value) and value > 0 else None
