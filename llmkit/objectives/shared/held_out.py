"""A share of the documents is held out; where one side would be empty, the error names a share that works."""

from __future__ import annotations

from collections.abc import Sequence

from llmkit.data.tokens import Documents
from llmkit.system.errors import DataError
from llmkit.system.plural import many

SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""What is proposed."""


def held_out(sources: Sequence[Documents], share: float, seed: int) -> tuple[list[Documents], list[Documents]]:
    """(training, validation) of each source; DataError where all documents would be on one side."""
    learned, held = _sides(sources, share, seed)
    if not sum(map(len, learned)) or not sum(map(len, held)):
        count = sum(map(len, learned)) + sum(map(len, held))
        raise DataError(f"data.validation: a share of {share} of {many(count, 'document')} leaves one side empty; "
                        f"{_way_out(sources, seed, share)}")
    return learned, held


def _sides(sources: Sequence[Documents], share: float, seed: int) -> tuple[list[Documents], list[Documents]]:
    parts = [documents.split(share, seed) for documents in sources]
    return [part[0] for part in parts], [part[1] for part in parts]


def _way_out(sources: Sequence[Documents], seed: int, share: float) -> str:
    """A share that leaves both sides something, the nearest to what was asked for; equal documents stay together."""
    for other in sorted(SHARES, key=lambda other: abs(other - share)):
        learned, held = _sides(sources, other, seed)
        if sum(map(len, learned)) and (count := sum(map(len, held))):
            return (f"--set data.validation={other} holds out {many(count, 'document')}; or give validation sources of "
                    "its own.")
    return "give validation sources of its own."
