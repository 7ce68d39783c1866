"""A run's folder, for reading: what was asked, what came of it, and the networks that it left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from llmkit import recipe as recipes
from llmkit.models import layout
from llmkit.models.fetch import on_disk
from llmkit.models.files import read_json
from llmkit.recipe import Recipe
from llmkit.system.errors import CheckpointError


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
        """The folder of its model; there once the run is finished."""
        return self.folder / layout.MODEL

    @property
    def has_model(self) -> bool:
        """Whether it ended by a rule of its recipe and left a model."""
        return self.model.is_dir()

    @property
    def completed(self) -> bool:
        """Whether its summary says that it is whole, and its model is there."""
        try:
            summary = self.summary
        except CheckpointError:
            return False
        return summary is not None and summary.get("status") == "completed" and self.has_model

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
    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its metrics up to one that is cut short; none where it wrote none yet."""
        path = self.folder / layout.METRICS
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
            try:
                yield json.loads(line)
            except ValueError:
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
        (folder / name).is_dir() for name in (layout.MODEL, layout.CHECKPOINTS))


def recipe_beside(folder: Path) -> dict[str, Any]:
    """A recipe that stands in a folder as it is written, unchecked; empty where there is none."""
    path = folder / layout.RECIPE
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def recipe_of(model: str | Path) -> Recipe | None:
    """The recipe of the finished run that a model is from; None where it is from none."""
    run = Run.open(model)
    return run.recipe if run is not None and run.has_model else None
