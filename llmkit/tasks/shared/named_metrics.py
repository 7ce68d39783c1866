"""Metrics that a recipe names beside a task's own: those of the evaluate library, by hub id or by a script's path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmkit.system.errors import RequestError


def matthews(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """Matthews' correlation of labels, CoLA's figure: 1 all right, 0 as by chance, whatever the shares of the labels.

    >>> matthews([1, 1, 1, 0], [1, 1, 0, 0])
    0.5773502691896258
    """
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(true, predicted))


def f1_positive(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """F1 of the second of two labels alone, as MRPC and QQP are measured; the task's own `f1` is the mean of both.

    >>> f1_positive([1, 1, 1, 0], [1, 1, 0, 0])
    0.8
    """
    from sklearn.metrics import f1_score

    if not {*predicted, *true} <= {0, 1}:
        raise ValueError("it is for two labels")
    return float(f1_score(true, predicted, zero_division=0))


OWN: Mapping[str, Callable[[Sequence[Any], Sequence[Any]], float]] = MappingProxyType(
    {"matthews": matthews, "f1_positive": f1_positive})
"""Metrics that need no hub; each is a figure by its own name."""


@cache
def metric(name: str) -> Any:
    """A metric, loaded once. RequestError where it can't be had.

    `evaluate` runs a script of the current folder in the place of a hub's of that name: that is refused here. Only an
    absolute path means a file. Our own need no loading.
    """
    if name in OWN:
        return OWN[name]
    path = Path(name)
    if path.is_absolute() and not path.exists():
        raise RequestError(f"training.metrics: there is no {name}.")
    if not path.is_absolute() and (path.exists() or path.with_suffix(".py").exists()):
        raise RequestError(f"training.metrics: {name!r} is also a file or folder here, whose code would run in the "
                           f"place of the hub's; write {str(path.absolute())!r} if you mean it.")
    import evaluate

    try:
        return evaluate.load(name)
    except (OSError, ImportError, ValueError, TypeError, AttributeError) as error:  # whatever its script does wrong
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise RequestError(f"training.metrics: {name!r} can't be loaded: {said}. Where no hub can be reached, give the "
                           "absolute path of a metric's script.") from error


def scores(names: Sequence[str], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    """What each metric makes of (prediction, reference) pairs; a figure goes by its own name behind its metric's."""
    out: dict[str, float] = {}
    for name in names:
        try:
            if name in OWN:
                out[name] = OWN[name]([a for a, _ in pairs], [b for _, b in pairs])
                continue
            found = metric(name).compute(predictions=[a for a, _ in pairs], references=[b for _, b in pairs])
        except (ValueError, TypeError, KeyError) as error:
            said = " ".join(str(error).split())[:300]
            raise RequestError(f"training.metrics: {name!r} doesn't take this task's predictions: {said}") from error
        out |= {f"{Path(name).stem}/{key}": float(value) for key, value in found.items()
                if isinstance(value, int | float)}
    return out
