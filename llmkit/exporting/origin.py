"""Where a model came from: its run and recipe, what it was tuned from, and under which licence that is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from llmkit import models
from llmkit.models import CATALOGUE, layout
from llmkit.models.files import read_json
from llmkit.models.run import Run, recipe_beside
from llmkit.system.addresses import at_home

NAMES_A_PLACE = ("source", "pretrained", "output_dir", "metrics", "phrases", "swap")
"""Fields of a recipe whose value may be a path."""


@dataclass(frozen=True)
class Provenance:
    """What is known of a model that is given away; but for `source`, no path of this machine is in it."""

    source: Path
    """The folder of the model, on this machine."""
    model: str
    """A run's or a folder's own name, or a hub id, or a name of the catalogue."""
    summary: dict[str, Any]
    """The run's summary.json; empty where the model is no run."""
    recipe: dict[str, Any]
    """The run's resolved recipe; empty likewise."""
    adapter: str | None
    """The type of the adapter that is merged, in peft's words."""
    base: str | None
    """What the adapter was trained on, or the run started from."""
    base_id: str | None
    """The id that it has on the hub, where it is known to have one."""
    licence: str | None
    """The licence of the base, or of a model that is only copied, where it is known."""

    @property
    def learned(self) -> dict[str, Any]:
        """The recipe's block of the task or objective."""
        return dict(self.recipe.get("task") or self.recipe.get("objective") or {})

    @property
    def data(self) -> list[str]:
        """What it learned from, by name."""
        return list(self.summary["recipe"]["data"]) if self.summary else []


def origin_of(model: str | Path, source: Path) -> Provenance:
    """Read what stands around a model's folder: `source` is what `model` names on this machine."""
    run = run_of(source)
    summary = (run.of_model if run is not None else None) or {}
    recipe = recipe_of(source)
    if summary:
        about = summary["recipe"]
        about |= {"backbone": named(about["backbone"]), "data": [named(one) for one in about["data"]]}
    first, place = before(source), run.folder.resolve() if run is not None and summary else model
    return Provenance(
        source, named(str(place)), summary, without_places(recipe), adapter_of(source).get("peft_type"),
        named(first) if first else None, hub_id(first) if first else None,
        next((licence for one in line(str(model), source) if (licence := licence_of(one))), None))


def recipe_of(source: Path) -> dict[str, Any]:
    """The recipe that a model's folder is from: a run's, or one that went along with an export."""
    run = run_of(source)
    return run.asked if run is not None else recipe_beside(source)


def run_of(source: Path) -> Run | None:
    """The run whose model/ a folder is."""
    run = Run.open(source)
    return run if run is not None and source.name == run.model.name else None


def adapter_of(source: Path) -> dict[str, Any]:
    """What peft's file says of the adapter in a folder; empty where it holds a whole model."""
    path = source / layout.ADAPTER
    return read_json(path) if path.is_file() else {}


def before(source: Path) -> str | None:
    """The model that a folder's was tuned from, by the name or path that it had then."""
    pretrained = (recipe_of(source).get("backbone") or {}).get("pretrained")
    found = adapter_of(source).get("base_model_name_or_path") or pretrained
    return str(found) if found else None


def named(name: str) -> str:
    """A place on this machine by its own name; hub ids, names and relative paths as they are.

    /home/me/corpora/*.txt -> *.txt,  /home/me/runs/tagger/model -> tagger,  runs/tagger -> runs/tagger
    """
    path = PurePath(name)
    if not path.is_absolute() and not name.startswith("~"):
        return name
    if known := hub_id(name):
        return known
    return path.parent.name if path.name in (layout.MODEL, layout.BEFORE) else path.name


def without_places(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose absolute paths are names."""

    def clean(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: clean(inner, below) for inner, below in value.items()}
        if isinstance(value, list):
            return [clean(key, one) for one in value]
        return named(value) if key in NAMES_A_PLACE and isinstance(value, str) else value

    return {key: clean(key, value) for key, value in recipe.items()}


def line(model: str, source: Path) -> Iterator[str]:
    """A model, what it was tuned from, what that was tuned from, … as far as it can be followed on this machine."""
    seen: list[Path] = []
    while source not in seen:
        yield model
        seen.append(source)
        model = before(source) or ""
        if not model:
            return
        folder = at_home(model)
        if not folder.is_dir():
            yield model
            return
        run = Run(folder)
        source = run.model if run.has_model else folder


def hub_id(name: str) -> str | None:
    """The id on the hub of a model by a name or a place on this machine; None where it isn't known to have one."""
    folder = at_home(name)
    if published := re.search(r"models--([^/]+)--([^/]+)/snapshots/", name):
        return "/".join(published.groups())
    entry = unpacked(folder) if folder.exists() else models.find(name)
    if entry:
        return entry.hub
    return name if not folder.exists() and models.cached(name) else None


def licence_of(model: str) -> str | None:
    """The licence that the catalogue knows, or that a folder's model card says."""
    if entry := models.find(hub_id(model) or ""):
        return entry.licence
    card = at_home(model) / layout.CARD
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    try:
        said = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return None
    return str(said["license"]) if isinstance(said, dict) and said.get("license") else None


def unpacked(folder: Path) -> models.Entry | None:
    """The catalogue's entry whose wheel was unpacked to a folder."""
    return next((entry for entry in CATALOGUE.values() if entry.wheel and models.place(entry) == folder), None)
