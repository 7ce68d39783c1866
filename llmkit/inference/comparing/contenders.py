"""What a comparison puts side by side: tuning methods, models, and settings of a grid, each with each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from llmkit import recipe as recipes
from llmkit.inference.comparing.inline import Variant, split
from llmkit.recipe import Recipe
from llmkit.system.errors import RequestError

Grid: TypeAlias = Mapping[str, Sequence[str]]
"""The values of each field that is varied, as they were written."""
RATE = "training.learning_rate"


@dataclass(frozen=True)
class Contender:
    """One of those that are compared; each seed of it is a run."""

    method: Variant
    model: str | None = None
    """What it starts from, where models are compared."""
    point: Mapping[str, str] = field(default_factory=dict)
    """A value for each field of the grid."""
    label: str = ""
    """What tells it from the others."""

    @property
    def slug(self) -> str:
        """What tells it from the others, as a folder's name; a comparison of methods has theirs."""
        if self.model is None and not self.point:
            return self.method.slug
        short = self.label if self.model is None else self.label.replace(self.model, Path(self.model).name)
        return re.sub(r"[^\w.+-]+", "-", short).strip("-")[:120]

    @property
    def settings(self) -> list[str]:
        """Its point of the grid, as `--set` has it."""
        return [f"{name}={value}" for name, value in self.point.items()]

    def recipe(
        self, path: str | Path, settings: Sequence[str], task: str | None, fields: Mapping[str, object],
    ) -> Recipe:
        """The recipe at `path` with this method, this model and this point; a wrong field of the grid is named so."""
        more = {f"tuning.{key}": value for key, value in self.method.options.items()}
        if self.model is not None:
            more |= {"backbone.pretrained": self.model, "backbone.family": None, "backbone.size": None,
                     "backbone.config": {}, "tokenizer": None}
        try:
            return recipes.load(path, [*settings, *self.settings], method=self.method.name, task=task,
                                fields={**fields, **more})
        except RequestError as error:
            told = str(error)
            ours = any(told.startswith(f"--set {name}") for name in self.point)
            raise RequestError(told.replace("--set ", "--grid ", 1) if ours else told) from error


def contenders(methods: Sequence[Variant], models: Sequence[str], grid: Grid) -> list[Contender]:
    """Each method with each model and each point of the grid; what all have in common isn't in their labels.

    RequestError where two would share a folder.
    """
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    last = [name.rpartition(".")[2] for name in grid]
    short = {name: part if last.count(part) == 1 else name for name, part in zip(grid, last, strict=True)}
    out = []
    for method, model, point in itertools.product(methods, models or (None,), points):
        words = [f"{short[name]}={value}" for name, value in point.items()]
        if len(methods) > 1 or not (models or grid):
            words.insert(0, method.label)
        if model is not None:
            words.insert(0, model)
        out.append(Contender(method, model, point, " ".join(words)))
    slugs = [contender.slug for contender in out]
    if twice := {contender.label for contender in out if slugs.count(contender.slug) > 1}:
        raise RequestError(f"{', '.join(sorted(twice))}: these would share a folder; leave out what is there twice, or "
                           "call the folders of the models by different names.")
    return out


def kind_of(methods: Sequence[Variant], models: Sequence[str], grid: Grid) -> str:
    """What is compared, in a word: the head of the table's first column."""
    if models:
        return "model" if len(methods) == 1 and not grid else "run"
    return ("setting" if len(methods) == 1 else "run") if grid else "method"


def grid_of(words: Sequence[str]) -> dict[str, list[str]]:
    """`training.learning_rate=1e-3,3e-3`, once for each field, as the values of each field.

    RequestError for words that aren't of this kind, and for a field that is there twice.
    """
    grid: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        name, parts = name.strip(), [value.strip() for value in split(values)]
        if not equals or not parts or not re.fullmatch(r"[\w.]+", name):
            raise RequestError(f"--grid {word}: write SECTION.KEY=VALUE,VALUE, as training.learning_rate=1e-3,3e-3.")
        if name in grid:
            raise RequestError(f"--grid {name}: is given twice; put all of its values into one.")
        if twice := sorted({part for part in parts if parts.count(part) > 1}):
            raise RequestError(f"--grid {name}: {', '.join(twice)} is there twice.")
        grid[name] = parts
    return grid
