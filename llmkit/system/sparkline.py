"""A curve in one line of text: ▇▅▃▂▁."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Figures as bars between their lowest and their highest; of many, each bar is the mean of its neighbours.

    >>> sparkline([3, 2, 1, 1.5])
    '█▅▁▃'
    """
    known = [value for value in values if math.isfinite(value)]
    if len(known) > width:
        edges = [i * len(known) // width for i in range(width + 1)]
        known = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not known:
        return ""
    low, spread = min(known), max(known) - min(known)
    return "".join(BARS[round((value - low) / spread * (len(BARS) - 1)) if spread else 0] for value in known)


def shows(encoding: str | None) -> bool:
    """Whether a stream's encoding has these letters."""
    try:
        BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
