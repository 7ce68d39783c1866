"""What a run's files hold that no run writes: each is named once, by file and line, and the rest is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmkit.figures.curves import is_number

MOST = 5
"""Odd lines of a file that are named; of more, how many there are."""
LETTERS = 60
"""Of an odd value that is shown."""
FIGURES = frozenset({"epoch", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second", "data_wait",
                     "deviations"})
"""What is a number in whatever line has it; in an evaluation, all but its name."""
NUMBERS = ("steps", "tokens", "train_loss", "wall_seconds", "tokens_per_second", "data_wait", "parameters",
           "trainable_parameters", "peak_memory_bytes", "peak_gpu_memory_bytes", "processes", "skipped_steps",
           "bad_rows", "unigram_entropy")
TEXTS = ("status", "why", "weights", "one_answer", "device", "precision", "strategy")
"""Fields of a summary by what they hold."""

Event = dict[str, Any]
Odd = tuple[int, str]
"""The number of a line, and what is odd about it."""


def read_line(raw: bytes | str) -> tuple[Event | None, str]:
    """A line of metrics.jsonl or samples.jsonl as an event, and what is odd about it; "" where nothing is.

    A figure that is none, or not finite, is None in the event.

    >>> read_line('{"event": "train", "step": 3, "loss": "low"}')
    ({'event': 'train', 'step': 3, 'loss': None}, "loss is no number: 'low'")
    """
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return None, "is no JSON, and is passed over"
    if not isinstance(event, dict):
        return None, f"is no object but {_short(event)}, and is passed over"
    if not is_number(event.get("step")):
        return None, "has no `step` that is a number, and is passed over"
    measured = event.get("event") == "evaluate"
    wrong = [name for name, value in event.items() if (name in FIGURES or (measured and name not in ("event", "step")))
             and value is not None and not is_number(value)]
    said = "; ".join(_of_figure(name, event[name]) for name in wrong)
    return {**event, **dict.fromkeys(wrong)}, said


def read_lines(path: Path) -> tuple[list[Event], list[str]]:
    """The events of a file of a run, and a sentence for each odd line; nothing where there is no such file.

    A last line that is no JSON and has no end is being written, or was cut short: nothing is said of it.
    """
    try:
        *lines, unfinished = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path.name}: can't be read: {error.strerror}"]
    events: list[Event] = []
    odd: list[Odd] = []
    for number, raw in enumerate(lines, 1):
        event, why = read_line(raw)
        if event is not None:
            events.append(event)
        if why:
            odd.append((number, why))
    event, _ = read_line(unfinished)
    return [*events, *([] if event is None else [event])], sentences(path.name, odd, len(odd))


def sentences(name: str, odd: Sequence[Odd], count: int) -> list[str]:
    """What is said of odd lines: `metrics.jsonl:7: is no JSON, and is passed over`; of many, of the first."""
    said = [f"{name}:{number}: {why}" for number, why in odd[:MOST]]
    return [*said, f"{name}: {count - len(said):,} more of its lines are odd"] if count > len(said) else said


def sound(summary: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """A summary without what is of another kind than it should be, and a sentence for each such field."""
    out, said = dict(summary), dict[str, str]()
    for name in NUMBERS:
        if (value := out.get(name)) is not None and not is_number(value):
            said[name] = _of_figure(name, out.pop(name))
    for name in TEXTS:
        if (value := out.get(name)) is not None and not isinstance(value, str):
            said[name] = f"{name} is no text: {_short(out.pop(name))}"
    for name in ("evaluation", "evaluation_before", "best", "floors", "versions"):
        if (value := out.get(name)) is not None and not isinstance(value, dict):
            said[name] = f"{name} is no object: {_short(out.pop(name))}"
    for name in ("evaluation", "evaluation_before"):
        if name in out and (wrong := _unnumbered(out[name])):
            said[name] = _of_figure(f"{name}.{wrong[0]}", out[name][wrong[0]])
            out[name] = {key: value for key, value in (out[name] or {}).items() if key not in wrong}
    if out.get("best") and not is_number(out["best"].get("step")):
        said["best"] = f"best has no step that is a number: {_short(out.pop('best'))}"
    for what, some in list((out.get("floors") or {}).items()):
        if not isinstance(some, dict) or _unnumbered(some):
            said["floors"] = f"floors.{what} has no numbers: {_short(some)}"
            out["floors"] = {name: one for name, one in out["floors"].items() if name != what}
    if (resumed := out.get("resumed")) is not None:
        fine = isinstance(resumed, list) and all(isinstance(one, dict) and is_number(one.get("step"))
                                                for one in resumed)
        if not fine:
            said["resumed"] = f"resumed is no list of steps: {_short(out.pop('resumed'))}"
    return out, [f"{_placed(path, name)}: {why}; it isn't shown" for name, why in said.items()]


def _unnumbered(some: Mapping[str, Any] | None) -> list[str]:
    return [name for name, value in (some or {}).items() if value is not None and not is_number(value)]


def _placed(path: Path, name: str) -> str:
    """summary.json:12, where a field is."""
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = ()
    number = next((number for number, line in enumerate(lines, 1) if f'"{name}"' in line), None)
    return path.name if number is None else f"{path.name}:{number}"


def _of_figure(name: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{name} is not finite: {_short(value)}"
    return f"{name} is no number: {_short(value)}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return "what can't be written"
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
