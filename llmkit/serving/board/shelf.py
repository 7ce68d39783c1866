"""The runs under a folder, as the board's page is told of them; nothing is written."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkit.models import layout
from llmkit.models.run import Run, is_run
from llmkit.serving.board import reading
from llmkit.serving.board.telling import details, row, spoken
from llmkit.serving.protocol import ApiError
from llmkit.training.looking.run_page import run_page
from llmkit.training.looking.story import Story, one_line, weight

MOST_RUNS, MOST_FOLDERS, DEEPEST = 500, 5000, 6
"""Runs that are shown, folders that are looked into for them, and how far below."""
WALK, SIZE = 5.0, 30.0
"""Seconds until runs are looked for, and until a folder is measured, again."""
BROKEN = (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""What files end with that hold something else than llmkit writes."""


@dataclass
class Seen:
    """What is known of a run until one of its files changes."""

    signature: tuple[object, ...]
    facts: dict[str, Any]
    bytes: int
    measured: float


@dataclass
class Found:
    """The runs that there are, by the name that the page has for each."""

    runs: dict[str, Run] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    when: float = float("-inf")


class Shelf:
    """All runs under a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found = Found()
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()

    # ---- which there are ----

    def found(self) -> Found:
        """The runs, looked for anew after some seconds."""
        with self._lock:
            if time.monotonic() - self._found.when > WALK:
                self._found = look(self.folder)
                self._seen = {name: seen for name, seen in self._seen.items() if name in self._found.runs}
            return self._found

    def run(self, name: str) -> Run:
        """The run of a name; ApiError where there is none, or none any more: no path is made of what a client says."""
        run = self.found().runs.get(name)
        if run is None:
            raise ApiError(404, f"no run is called {name[:100]!r} here.", param="run", code="run_not_found")
        if not is_run(run.folder):
            raise ApiError(404, f"{run.folder}: is gone; somebody took it away.", param="run", code="run_not_found")
        return run

    # ---- what is told of them ----

    def listing(self, language: str = "en") -> dict[str, Any]:
        """{"folder", "runs": a row each, "notes"}; `language` is as `told` has it."""
        found = self.found()
        rows, notes = [], list(found.notes)
        for name, run in found.runs.items():
            try:
                rows.append(spoken(self._row(name, run), language))
            except (OSError, *BROKEN) as error:
                if is_run(run.folder):  # one that was taken away is in the next list no more
                    notes.append(f"{run.folder}: can't be shown: {one_line(error) or type(error).__name__}")
        return {"folder": str(self.folder), "runs": rows, "notes": notes}

    def told(self, name: str, language: str) -> dict[str, Any]:
        """A run with all but its curves; ApiError where its files aren't such as llmkit writes."""
        run = self.run(name)
        try:
            return {**spoken(self._row(name, run), language), **details(self.story(run), language)}
        except FileNotFoundError as error:
            raise ApiError(404, f"{run.folder}: is gone; somebody took it away.", param="run") from error
        except (OSError, *BROKEN) as error:
            raise ApiError(422, f"{run.folder}: the files of this run aren't such as llmkit writes: "
                                f"{type(error).__name__}: {one_line(error)}.") from error

    def lines(self, name: str, since: int, file: str) -> dict[str, Any]:
        """The lines of its metrics after a byte, as `reading.read` gives them."""
        run = self.run(name)
        try:
            found = reading.read(run.folder / layout.METRICS, since, file)
        except OSError as error:
            raise ApiError(422, f"{run.folder / layout.METRICS}: can't be read: {error.strerror}.") from error
        return {"events": reading.plain(found.events), "until": found.until, "file": found.file, "fresh": found.fresh,
                "thinned": found.thinned, "broken": found.broken}

    def report(self, name: str, language: str = "en") -> str:
        """The page of a run as `llmkit report` writes it, from its files as they are now."""
        run = self.run(name)
        try:
            return run_page(self.story(run, language))
        except (OSError, *BROKEN) as error:
            raise ApiError(422, f"{run.folder}: the files of this run aren't such as llmkit writes: "
                                f"{type(error).__name__}: {one_line(error)}.") from error

    def story(self, run: Run, language: str = "en") -> Story:
        """A run with its lines, thinned where they are many."""
        path = run.folder / layout.METRICS
        found, (samples, odd) = reading.read(path), reading.last(run.folder / layout.SAMPLES)
        return Story.of(run, found.events, tuple(samples), [*found.sentences(path), *odd], language)

    def _row(self, name: str, run: Run) -> dict[str, Any]:
        """A run's line in the list: read anew where one of its files changed."""
        signature, now = signature_of(run), time.monotonic()
        seen = self._seen.get(name)
        measured = seen is not None and now - seen.measured < SIZE
        if seen is None or seen.signature != signature or not measured:
            size = seen.bytes if seen is not None and measured else weight(run.folder)
            events, odd = reading.last(run.folder / layout.METRICS)
            story = Story.of(run, events, (), odd)
            seen = Seen(signature, row(story, size), size, seen.measured if seen is not None and measured else now)
            self._seen[name] = seen
        return {"id": name, **seen.facts}


def signature_of(run: Run) -> tuple[object, ...]:
    """What changes with a run's files, and when a process takes its folder or leaves it."""
    out: list[object] = [run.held, run.has_model]
    for name in (layout.RECIPE, layout.SUMMARY, layout.METRICS, layout.SAMPLES):
        try:
            known = (run.folder / name).stat()
            out.append((known.st_mtime_ns, known.st_size, known.st_ino))
        except OSError:
            out.append(None)
    return tuple(out)


def look(folder: Path) -> Found:
    """Every run in a folder and below it, by its path from there; links are not followed, and that is said."""
    found, links = Found(when=time.monotonic()), 0
    for looked, (place, is_link) in enumerate(_walk(folder, DEEPEST, found.notes), 1):
        links += is_link
        if looked > MOST_FOLDERS or len(found.runs) >= MOST_RUNS:
            found.notes.append(f"only the first {len(found.runs):,} runs are shown: name a folder that holds fewer.")
            break
        if not is_link and is_run(place):
            found.runs[place.relative_to(folder).as_posix()] = Run(place)
    if links:
        found.notes.append(f"{links} {'link is' if links == 1 else 'links are'} not followed.")
    return found


def _walk(folder: Path, deep: int, notes: list[str]) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it is a link to one), a run's own folders left out."""
    yield folder, False
    if deep == 0 or is_run(folder):
        return
    try:
        with os.scandir(folder) as entries:
            below = sorted((entry.name, entry.is_symlink()) for entry in entries
                           if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return  # it goes while it is looked at, or isn't there yet
    except OSError as error:
        notes.append(f"{folder}: can't be looked into: {error.strerror}.")
        return
    for name, is_link in below:
        if is_link:
            yield folder / name, True
        else:
            yield from _walk(folder / name, deep - 1, notes)
