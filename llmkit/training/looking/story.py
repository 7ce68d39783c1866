"""What there is to tell of a run, read from its folder: finished or not, of this version or an older one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmkit import recipe as recipes
from llmkit.figures.curves import Panel, is_number, measured, panels
from llmkit.models import layout
from llmkit.models.run import Run
from llmkit.recipe import BLOCKS, Recipe, registry
from llmkit.system.errors import CheckpointError, LlmkitError
from llmkit.system.language import ENGLISH, chosen, translate
from llmkit.tasks.shared import floors as floored
from llmkit.training.folder.standing import FILES, FOLDERS
from llmkit.training.looking.oddities import read_lines, sound


@dataclass(frozen=True)
class Story:
    """One run, as a page and a table tell it."""

    run: Run
    asked: Mapping[str, Any]
    """Its recipe as it is written; empty where that can't be read."""
    recipe: Recipe | None
    """The same, checked; None where it is of another version, or with plug-ins that aren't here."""
    summary: Mapping[str, Any]
    """Empty where it left none, or none that can be read."""
    events: tuple[Mapping[str, Any], ...]
    samples: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = field(default=())
    """What couldn't be read of it."""
    language: str = ENGLISH
    """What its page is written in."""

    @classmethod
    def of(
        cls, run: Run, events: Iterable[Any] | None = None, samples: tuple[Mapping[str, Any], ...] | None = None,
        odd: Iterable[str] = (), language: str | None = None,
    ) -> Story:
        """Read a run's folder; what can't be read is noted, and the rest is told.

        events, samples   lines that were read of it already; all of its files where nothing is given
        odd               what there was to say of those
        language          of its page; the one that messages are in where nothing is given
        """
        notes: list[str] = []
        asked: Mapping[str, Any] = {}
        recipe: Recipe | None = None
        summary: Mapping[str, Any] = {}
        try:
            found = run.asked
            asked = found if isinstance(found, dict) else {}
            recipe = None if foreign(asked) else run.recipe
        except (LlmkitError, OSError, ValueError, TypeError) as error:
            notes.append(f"its {layout.RECIPE} can't be checked by this version: {one_line(error)}")
        try:
            summary = run.summary or {}
        except (CheckpointError, OSError) as error:
            why = one_line(error).removeprefix(f"{run.folder / layout.SUMMARY}: ").removeprefix("can't be read: ")
            notes.append(f"its {layout.SUMMARY} can't be read: {why}")
        summary, wrong = sound(summary, run.folder / layout.SUMMARY)
        notes += wrong
        if events is None:
            events, wrong = read_lines(run.folder / layout.METRICS)
            notes += wrong
        if samples is None:
            lines, wrong = read_lines(run.folder / layout.SAMPLES)
            samples, notes = tuple(lines), [*notes, *wrong]
        return cls(run, asked, recipe, summary, tuple(events), samples, (*notes, *odd),
                   language or chosen())

    def say(self, text: str) -> str:
        """A sentence in the page's language, where it has a translation."""
        return translate(text, self.language)

    # ---- what it was ----

    @property
    def name(self) -> str:
        """What its recipe calls it; else its folder's name."""
        return str(self.asked.get("name") or self.run.folder.absolute().name)

    @property
    def block(self) -> str:
        """What was learned is an `objective`, or a `task`."""
        return "task" if self.asked.get("task") else "objective"

    @property
    def learning(self) -> str:
        """What was learned: classification, masked_lm …"""
        return self.plugin(self.block)

    def plugin(self, block: str) -> str:
        """The name of the plug-in of a block; "" where the recipe has none."""
        said = self.asked.get(block)
        return str(said.get(BLOCKS[block][1], "") if isinstance(said, dict) else said or "")

    @property
    def model(self) -> str:
        """What it started from: `bert-tiny`, or a pretrained model."""
        said = self.asked.get("backbone")
        backbone = said if isinstance(said, dict) else {"pretrained": said}
        start = backbone.get("pretrained")
        return str(start or "-".join(str(backbone[key]) for key in ("family", "size") if backbone.get(key)) or "?")

    # ---- what came of it ----

    @property
    def status(self) -> str:
        """completed, stopped, failed, running, interrupted; unknown where it says none."""
        try:
            said = self.run.status or "unknown"
            return said if isinstance(said, str) else "unknown"
        except (CheckpointError, OSError, AttributeError):  # a summary that can't be read is noted
            return "unknown"

    @property
    def metric(self) -> str:
        """The figure that says most of it."""
        chosen = (self.asked.get("training") or {}).get("metric_for_best_model")
        usual = "loss" if self.recipe is None else self.recipe.learning.metric
        return str(chosen or (usual if usual in self.figures or not self.figures else "loss"))

    @property
    def figures(self) -> Mapping[str, float]:
        """Of the evaluation of the weights that it left: the best's, else the last's; empty where there was none."""
        found = self.summary.get("best") or self.summary.get("evaluation")
        if not isinstance(found, dict):
            found = next((event for event in reversed(self.events) if event.get("event") == "evaluate"), {})
        return {name: value for name, value in found.items() if name not in ("event", "step") and is_number(value)}

    @property
    def before(self) -> Mapping[str, float]:
        """Of the evaluation before the first step."""
        return self.summary.get("evaluation_before") or {}

    @property
    def floors(self) -> Mapping[str, Mapping[str, float]]:
        """What is reached without a model, by what reaches it."""
        return floored.known(self.summary.get("floors") or {}, self.summary.get("unigram_entropy"), self.figures)

    @property
    def entropy(self) -> float | None:
        """Nats a token that word frequencies alone give, where the loss is of single tokens too."""
        return self.floors.get("word frequencies alone", {}).get("loss")

    @property
    def train_loss(self) -> float | None:
        """The mean loss of its last line of metrics.jsonl."""
        found = self.summary.get("train_loss")
        if found is None:
            found = next((event.get("loss") for event in reversed(self.events) if event.get("event") == "train"), None)
        return float(found) if is_number(found) else None  # type: ignore[arg-type]

    @property
    def step(self) -> int:
        """Optimizer steps, as far as its files tell."""
        lines = [int(event["step"]) for event in self.events]
        return max([int(self.summary.get("steps") or 0), *lines])

    @property
    def when(self) -> str:
        """When it wrote last, in UTC: 2026-11-30 11:05."""
        places = [self.run.folder / name for name in (layout.SUMMARY, layout.METRICS, layout.RECIPE)]
        times = [place.stat().st_mtime for place in places if place.is_file()]
        return datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M") if times else ""

    @property
    def size(self) -> int:
        """Bytes of what it wrote into its folder."""
        return weight(self.run.folder)

    @property
    def panels(self) -> list[Panel]:
        """Its curves: loss, rate, gradient, speed."""
        return panels(self.events, self.entropy)

    @property
    def metrics(self) -> list[Panel]:
        """The curves of its evaluations' other figures."""
        return measured(self.events, self.floors)

    @property
    def verdicts(self) -> list[str]:
        """What stays below its floor, and whether all answers are one."""
        same = self.summary.get("one_answer")
        return [*([str(same)] if same else []), *floored.below(self.figures, self.floors)]

    def facts(self, size: int | None = None) -> dict[str, Any]:
        """What a table, and --json, has of it. `size`: bytes of its folder, where somebody measured it already."""
        floor = floored.best(self.metric, self.floors)
        return {
            "folder": str(self.run.folder), "name": self.name, "status": self.status, "learning": self.learning,
            "tuning": self.plugin("tuning"), "model": self.model, "metric": self.metric,
            "value": self.figures.get(self.metric, self.train_loss if self.metric == "loss" else None),
            "floor": None if floor is None else {"name": floor[0], "value": floor[1]}, "train_loss": self.train_loss,
            "steps": self.step, "tokens": self.summary.get("tokens"), "seconds": self.summary.get("wall_seconds"),
            "bytes": self.size if size is None else size, "when": self.when, "notes": list(self.notes)}

    def fields(self) -> list[tuple[str, Any, Any]]:
        """(field, value, its default) of the recipe; the default is "" where a field has none, or isn't known here."""
        usual = {} if self.recipe is None else recipes.defaults(self.recipe)
        return [(name, value, usual.get(name, "")) for name, value in recipes.flat(dict(self.asked)).items()]


def weight(folder: Path) -> int:
    """Bytes of what a run wrote into its folder; others' files there, links, and what goes meanwhile don't count."""
    found = 0
    for name in (*FILES, *FOLDERS):
        for place, _, names in os.walk(folder / name):
            found += sum(_bytes(os.path.join(place, inner)) for inner in names)
        found += _bytes(folder / name)
    return found


def _bytes(path: str | Path) -> int:
    """Of a file; 0 where there is none."""
    try:
        seen = os.lstat(path)
    except OSError:
        return 0
    return seen.st_size if stat.S_ISREG(seen.st_mode) else 0


def foreign(asked: Mapping[str, Any]) -> bool:
    """Whether a recipe names a plug-in of somebody's own: to check it would run its code, and here nobody asked."""
    keys = {**BLOCKS, "backbone": ("backbones", "family")}
    said = ((kind, asked.get(block), key) for block, (kind, key) in keys.items())
    named = ((kind, str((one.get(key) if isinstance(one, dict) else one) or "")) for kind, one, key in said)
    return any("." in name or (name not in registry.names(kind) and name in registry.installed(kind))
               for kind, name in named)


def one_line(error: BaseException) -> str:
    """An error, short enough to stand in a note."""
    return " ".join(str(error).split())[:300]
