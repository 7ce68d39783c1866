"""A run's folder, for reading: what was asked, what came of it, and the networks that it left."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmkit import recipe as recipes
from llmkit.models import layout
from llmkit.models.fetch import on_disk
from llmkit.models.files import read_json
from llmkit.recipe import Recipe
from llmkit.recipe.reading import read
from llmkit.system.addresses import at_home
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.system.locks import runs


def spare(output: str, model: str | Path | None) -> None:
    """RequestError where an output would go over a file of the model, or of the run, that is read."""
    folder = None if model is None or output == "-" else on_disk(model)
    if folder is not None and folder.is_dir() and layout.is_part(at_home(output), folder):
        raise RequestError(f"--output {output}: is a file of {model}, which is read here, and would be lost; name "
                           "another.")


def looked_into(path: str | Path) -> Path:
    """The folder of a path, for those who look at runs; RequestError where there is none, or a file is there."""
    folder = at_home(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise RequestError(f"{path}: is a file; a folder is needed, as runs or runs/first.")
    raise RequestError(f"{path}: there is no such folder; runs are in the folder that --output-dir named, else in "
                       "runs/.")


@dataclass(frozen=True)
class Run:
    """The folder of a run, be it finished or not. Each file is read when it is first asked for."""

    folder: Path

    @classmethod
    def open(cls, path: str | Path) -> Run | None:
        """The run that a path is of: its folder, its model/, or another network's folder in it; None where it is none.

        A name of the catalogue or of a hub is of no run, wherever it is asked for: only a folder that exists is.
        RequestError for a name that can't be one.
        """
        here = on_disk(path)
        if here is None or not here.is_dir():
            return None
        return next((cls(folder) for folder in (here, here.absolute().parent) if is_run(folder)), None)

    @property
    def model(self) -> Path:
        """The folder of its model; there once the run is finished. While it goes on, that of the model before."""
        return layout.model_in(self.folder)

    @property
    def has_model(self) -> bool:
        """Whether it ended by a rule of its recipe and left a model."""
        return self.model.is_dir()

    @property
    def completed(self) -> bool:
        """Whether its summary says that it is whole, and its model is there."""
        return self.readable.get("status") == "completed" and (self.folder / layout.MODEL).is_dir()

    @cached_property
    def recipe(self) -> Recipe:
        """Its resolved recipe; RequestError where that can't be read or can't work."""
        return recipes.load(self.folder / layout.RECIPE)

    @property
    def asked(self) -> dict[str, Any]:
        """Its recipe as it is written, unchecked: of another version, or with plug-ins that aren't here."""
        return recipe_beside(self.folder)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What its summary says; None where it left none. CheckpointError where it can't be read."""
        path = self.folder / layout.SUMMARY
        return read_json(path) if path.is_file() else None

    @property
    def readable(self) -> dict[str, Any]:
        """What its summary says; empty where it left none or it can't be read: for who writes it anew."""
        try:
            return self.summary or {}
        except CheckpointError:
            return {}

    @property
    def status(self) -> str | None:
        """completed, stopped, failed, running, or interrupted where no process runs it any more; None: it says none."""
        said = (self.summary or {}).get("status")
        return "interrupted" if said == "running" and not self.held else said

    @property
    def held(self) -> bool:
        """Whether a process has the folder, as far as its files tell: on another machine, by its signs of life.

        The lock itself isn't tried: to open and close it would let go of it, were it this process that holds it.
        """
        if any(runs(path.name.removeprefix(layout.HELD)) for path in self.folder.glob(f"{layout.HELD}*")):
            return True
        lock = self.folder / layout.LOCK
        try:
            said = re.search(r" on (\S+)", lock.read_text(encoding="utf-8", errors="replace"))
            silent = time.time() - lock.stat().st_mtime
        except OSError:
            return False
        return said is not None and said[1] != socket.gethostname() and silent < layout.SILENCE

    @property
    def of_model(self) -> dict[str, Any] | None:
        """What is known of the model that it has: its summary, or while it goes on, what it said when it had ended."""
        return self.ended or self.summary

    @property
    def ended(self) -> dict[str, Any] | None:
        """What the summary said when the run ended whose model is there, though it may go on since; None: it can't say.

        Where both models stand there, the newer one is published, and nothing was said of it yet.
        """
        summary = self.readable
        new, old = ((self.folder / name).is_dir() for name in (layout.MODEL, layout.BEFORE))
        if summary.get("status") == "completed":
            return summary if new else None
        before = summary.get("before")
        return before if isinstance(before, dict) and new != old else None

    @property
    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its metrics up to one that is cut short; none where it wrote none yet."""
        path = self.folder / layout.METRICS
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                return

    @property
    def checkpoints(self) -> list[str]:
        """The names of its checkpoints' folders, the oldest first, be they whole or not."""
        found = {path.name: layout.CHECKPOINT.fullmatch(path.name)
                 for path in (self.folder / layout.CHECKPOINTS).glob("step-*")}
        steps = {name: int(match[1]) for name, match in found.items() if match is not None}
        return sorted(steps, key=steps.__getitem__)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: it holds the recipe, and a model or checkpoints."""
    return (folder / layout.RECIPE).is_file() and any(
        (folder / name).is_dir() for name in (layout.MODEL, layout.BEFORE, layout.CHECKPOINTS))


def recipe_beside(folder: Path) -> dict[str, Any]:
    """A recipe that stands in a folder as it is written, unchecked; empty where there is none.

    RequestError where it is no YAML that a recipe may be: whoever made the folder may have made it so.
    """
    path = folder / layout.RECIPE
    return read(path).root if path.is_file() else {}


def recipe_of(model: str | Path) -> Recipe | None:
    """The recipe of the finished run that a model is from; None where it is from none."""
    run = Run.open(model)
    return run.recipe if run is not None and run.has_model else None
