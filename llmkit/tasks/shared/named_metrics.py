"""Metrics that a recipe names beside a task's own: those of the evaluate library, by hub id or by a script's path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from llmkit.system.errors import RequestError


@cache
def metric(name: str) -> Any:
    """A metric, loaded once. RequestError where it can't be had.

    `evaluate` runs a script of the current folder in the place of a hub's of that name: that is refused here. Only an
    absolute path means a file.
    """
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
            found = metric(name).compute(predictions=[a for a, _ in pairs], references=[b for _, b in pairs])
        except (ValueError, TypeError, KeyError) as error:
            said = " ".join(str(error).split())[:300]
            raise RequestError(f"training.metrics: {name!r} doesn't take this task's predictions: {said}") from error
        out |= {f"{Path(name).stem}/{key}": float(value) for key, value in found.items()
                if isinstance(value, int | float)}
    return out
