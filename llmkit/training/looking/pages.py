"""Pages that are asked for: of one run into its folder, of several where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkit.models import layout
from llmkit.models.run import Run
from llmkit.system.errors import CheckpointError, PlaceError, RequestError
from llmkit.training.folder.run_folder import put
from llmkit.training.folder.standing import PICTURES, is_drawn
from llmkit.training.looking.drawing import curves_of
from llmkit.training.looking.run_page import run_page
from llmkit.training.looking.several import several_page
from llmkit.training.looking.story import Story


@dataclass(frozen=True)
class Made:
    """A page that was written."""

    path: Path
    pictures: Sequence[Path]
    facts: Sequence[dict[str, Any]]
    """Of each run."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know."""


def write(runs: Sequence[Run], output: Path | None = None, metric: str | None = None) -> Made:
    """Write the page of one run, with its curves where the page goes into its folder, or of several side by side.

    PlaceError where a file is in the way that llmkit didn't write; CheckpointError where a run's files can't be told.
    """
    alone = len(runs) == 1
    place = output or (runs[0].folder if alone else Path()) / layout.REPORT
    check(runs, place, given=output is not None)
    stories = [Story.of(run) for run in runs]
    try:
        page = run_page(stories[0]) if alone else several_page(stories, metric)
        facts = [story.facts() for story in stories]
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{', '.join(str(run.folder) for run in runs)}: the files of this run aren't such as "
                              f"llmkit writes: {type(error).__name__}: {error}.") from error
    put(place, page)
    pictures = curves_of(runs[0].folder) if alone and output is None else []
    return Made(place, pictures, facts, [f"{story.name}: {note}" for story in stories for note in story.notes])


def check(runs: Sequence[Run], place: Path, given: bool) -> None:
    """PlaceError, or RequestError for what was named, where a page would go over something that isn't one of ours."""
    if place.is_dir():
        raise RequestError(f"--output {place}: is a folder; name a file in it, as {place / layout.REPORT}.")
    if given:
        if place.exists() and not is_drawn(place):
            raise PlaceError(f"{place}: is there, and llmkit report didn't write it; name another -o, or move it away.")
        return
    names = PICTURES if len(runs) == 1 else (layout.REPORT,)
    for path in (place.with_name(name) for name in names):
        if path.exists() and not is_drawn(path):
            raise PlaceError(f"{path}: is there, and no run of llmkit wrote it; name another file by -o, or move it "
                             "away.")
