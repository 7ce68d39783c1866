"""The lines of a run's metrics.jsonl for a page: at first all, thinned where they are many, later only new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from llmkit.figures.curves import is_number
from llmkit.training.looking.oddities import MOST as MOST_ODD
from llmkit.training.looking.oddities import Odd, read_line, sentences

MOST = 600
"""Lines of one kind that are told at once: a curve has no more columns on a screen."""
PARSED = 100_000
"""Training lines that are parsed at once; of more, evenly spaced ones."""
LONGEST = 1 << 20
"""Bytes of a line; a longer one isn't one of ours, and is passed over."""
TRAIN = b'{"event": "train"'
"""What a training line begins with."""
PIECE = 1 << 20
"""Bytes that are read at once where only lines are counted."""
TAIL = 1 << 18
"""Bytes at the end of a file in which its last lines are looked for."""

Event = dict[str, Any]


@dataclass(frozen=True)
class NewLines:
    """What was read of a file of events."""

    events: list[Event]
    until: int
    """The byte behind the last whole line: the next call goes on there."""
    file: str
    """Which file it was, for a run that goes on from a checkpoint writes its file anew."""
    fresh: bool
    """Whether these are from the file's start, so that what was known of it before no longer counts."""
    thinned: int = 1
    """How many training lines stand behind each one that is told."""
    broken: int = 0
    """Lines that can't be read."""
    odd: tuple[Odd, ...] = ()
    """The first lines that no run writes."""
    odd_count: int = 0
    """How many there are, of those that were parsed."""

    def sentences(self, path: Path) -> list[str]:
        """What there is to say of these."""
        return sentences(path.name, self.odd, self.odd_count)


def read(path: Path, since: int = 0, file: str = "", most: int = MOST) -> NewLines:
    """The lines after a byte of a file, at most so many of each kind; all where `file` isn't this one any more.

    Nothing where there is no such file yet.
    """
    try:
        with path.open("rb") as source:
            known = os.fstat(source.fileno())
            name = f"{known.st_dev:x}-{known.st_ino:x}"
            fresh = name != file or not 0 < since <= known.st_size
            source.seek(0 if fresh else since)
            return _thinned(source, 0 if fresh else since, known.st_size, name, fresh, most)
    except FileNotFoundError:
        return NewLines([], 0, "", fresh=True)


def last(path: Path) -> tuple[list[Event], list[str]]:
    """The last lines of a file, as far as they stand in its last quarter of a megabyte; and what is odd about them."""
    try:
        with path.open("rb") as source:
            start = max(0, os.fstat(source.fileno()).st_size - TAIL)
            source.seek(start)
            whole = source.read(TAIL).split(b"\n")[1 if start else 0 : -1]
            lines = [read_line(line) for line in whole]
            odd = [(number, why) for number, (_, why) in enumerate(lines, 1) if why]
            before = _lines_before(source, start) if odd and start else 0
    except FileNotFoundError:
        return [], []
    return ([event for event, _ in lines if event is not None],
            sentences(path.name, [(before + number, why) for number, why in odd], len(odd)))


def _lines_before(source: IO[bytes], start: int) -> int:
    """How many lines end, or are cut, before a byte and the first line's end behind it."""
    source.seek(0)
    found, left = 1, start
    while left > 0 and (piece := source.read(min(PIECE, left))):
        found, left = found + piece.count(b"\n"), left - len(piece)
    return found


def _thinned(source: IO[bytes], since: int, size: int, name: str, fresh: bool, most: int) -> NewLines:
    every = max(1, _count(source, since, size) // PARSED)
    kinds: dict[str, list[Event]] = {}
    until, trains, broken = since, 0, 0
    odd: list[Odd] = []
    ended: Event | None = None
    for number, (raw, place) in enumerate(_whole(source, since, size), 1):
        until = place
        if raw.startswith(TRAIN):
            trains += 1
            if trains % every:
                continue
        event, why = read_line(raw)
        if why:
            odd.append((number, why))
        if event is None:
            broken += 1
            continue
        kinds.setdefault(str(event.get("event")), []).append(event)
        if event.get("event") == "train":
            ended = event
    events = [event for kind, some in kinds.items() for event in (
        means(some, most) if kind == "train" else spaced(some, most))]
    if ended is not None and ended not in events:
        events.append(ended)  # where the run is now
    events.sort(key=lambda event: float(event["step"]))
    told = max(1, -(-trains // most)) if trains > most else 1
    return NewLines(events, until, name, fresh, told, broken, tuple(odd[:MOST_ODD]), len(odd))


def _count(source: IO[bytes], since: int, size: int) -> int:
    """About how many lines there are, by the first few."""
    head = source.read(1 << 16)
    source.seek(since)
    lines = head.count(b"\n")
    return 0 if not lines else int(lines * (size - since) / len(head))


def _whole(source: IO[bytes], since: int, size: int) -> Iterator[tuple[bytes, int]]:
    """(line, the byte behind it) of each whole line up to a size; one that is being written is left for later."""
    place = since
    while place < size:
        raw = source.readline(LONGEST)
        place += len(raw)
        if raw.endswith(b"\n"):
            yield raw, place
            continue
        if len(raw) < LONGEST:
            return
        while raw and not raw.endswith(b"\n"):
            raw = source.readline(LONGEST)
            place += len(raw)
        yield b"too long", place


def means(events: Sequence[Event], most: int) -> list[Event]:
    """At most so many training lines: each figure the mean of some that follow each other, the step that of the last.

    >>> means([{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}], 1)
    [{'step': 2, 'loss': 3.0}]
    """
    if len(events) <= most:
        return list(events)
    edges = [i * len(events) // most for i in range(most + 1)]
    return [_mean(events[start:stop]) for start, stop in pairwise(edges)]


def _mean(events: Sequence[Event]) -> Event:
    end = events[-1]
    out: Event = dict(end)
    for name in end:
        values = [event[name] for event in events if is_number(event.get(name))]
        if values and name not in ("step", "tokens", "epoch", "learning_rate"):
            out[name] = sum(values) / len(values)
    return out


def spaced(events: Sequence[Event], most: int) -> list[Event]:
    """At most so many, evenly spaced, the last one among them."""
    every = -(-len(events) // most) if events else 1
    return list(events[::-1][::every][::-1])


def plain(value: Any) -> Any:
    r"""A value as strict JSON in UTF-8 has it: what is no finite number is null, half a surrogate pair is `?`.

    >>> plain({"loss": float("nan"), "steps": [1, 2], "name": "a\ud800"})
    {'loss': None, 'steps': [1, 2], 'name': 'a?'}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if is_number(value) else None
    if isinstance(value, Mapping):
        return {plain(str(name)): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, int | bool) else plain(str(value))
