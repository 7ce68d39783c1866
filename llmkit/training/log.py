"""What a run says of a step: the losses since the last line, and where one jumps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_LOSSES, FEWEST_LOSSES, JUMP = 128, 16, 6.0
"""Losses that a new one is compared with, at most and at least, and the standard deviations above them of a jump."""


def deviations(loss: float, before: Sequence[float]) -> float | None:
    """How many standard deviations a loss is above those before it, where that is a jump; None where it isn't.

    Six over the last 128, as OLMo's trainer counts a step as an outlier.
    """
    if len(before) < FEWEST_LOSSES:
        return None
    above = loss - float(np.mean(before))
    spread = max(float(np.std(before)), 1e-3 * abs(float(np.mean(before))), 1e-12)
    return above / spread if above > JUMP * spread else None
