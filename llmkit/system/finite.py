"""What a model computes has to be numbers: NaN becomes no text, label, vector or figure, but an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmkit.system.errors import NumberError

if TYPE_CHECKING:
    from torch import Tensor


def stopped(what: str) -> NumberError:
    """The error of it."""
    return NumberError(f"{what}: the model's numbers stopped being finite. Its weights hold NaN or infinity, or are "
                       "too large for the precision that they are computed in.")


def check_scores(scores: Tensor, what: str) -> None:
    """NumberError where a row (…, some) has NaN, an infinity, or nothing that may be chosen.

    Minus infinity beside others is how what may not be chosen is marked.
    """
    if not bool(scores.amax(-1).isfinite().all()):
        raise stopped(what)


def check_all(value: Any, what: str) -> None:
    """NumberError where a number isn't finite, wherever it stands in lists and objects."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise stopped(what)
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            check_all(part, what)


class Watching:
    """What transformers' `generate` calls with the scores behind each token, before one is chosen."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, vocabulary), as they are; NumberError where they are none."""
        check_scores(scores, self.what)
        return scores
