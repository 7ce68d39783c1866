"""Tune for the same task by several methods, models or settings, and put what each reached and cost side by side."""

from __future__ import annotations

import logging
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmkit import recipe as recipes
from llmkit.inference.comparing.contenders import RATE, Contender, Grid, contenders, kind_of
from llmkit.inference.comparing.inline import Variant
from llmkit.inference.comparing.sheet import Sheet, of_seeds, rank, refuse_folder, spread
from llmkit.models.run import Run
from llmkit.planning.choices import usual_rate
from llmkit.recipe import Recipe
from llmkit.system import machine
from llmkit.system.errors import CheckpointError, LlmkitError, PlaceError, RequestError, Stopped, nearest
from llmkit.training.spread import launch

log = logging.getLogger("llmkit")

GRID = (1 / 3, 1.0, 3.0)
"""Multiples of a method's usual learning rate that are tried where it is tuned."""
COSTS = {"method": ("trainable_parameters", "parameters that train", "log"),
         "model": ("parameters", "parameters", "log"), "setting": ("wall_seconds", "seconds", "linear")}
"""What the plot puts the metric against: a row's field, the name of the axis, and its scale."""


@dataclass
class MethodOutcome:
    """What one run came to."""

    variant: str
    """The label of its contender."""
    seed: int
    learning_rate: float
    status: str
    """completed, or failed."""
    value: float | None = None
    """The metric, on the validation rows."""
    summary: dict[str, Any] = field(default_factory=dict)
    saved_bytes: int = 0
    """Size of model/: an adapter, or a whole model."""
    error: str = ""
    """The last line of a run that failed."""
    exit_status: int = 0


class Comparison:
    """All runs of a comparison and what they share; each run is a process and a folder of its own."""

    def __init__(
        self, recipe: str, methods: Sequence[Variant], seeds: Sequence[int], folder: Path | None = None,
        settings: Sequence[str] = (), metric: str | None = None, tune: bool = False, *, task: str | None = None,
        fields: Mapping[str, Any] | None = None, processes: int = 1, models: Sequence[str] = (),
        grid: Grid | None = None,
    ) -> None:
        """`recipe` is a path or a packaged name; `settings` are for all runs. RequestError where a request can't work.

        Each method starts from each of `models`, where some are given, with each point of `grid`: values by field.

        `task` and `fields` go over the recipe, as `recipes.load` takes them; each run has so many `processes`.

        A learning rate of the recipe is one method's: it is left out, and each method has its own usual one, unless
        `settings` name one for all.
        """
        self.recipe, self.seeds, self.settings = recipe, seeds, tuple(settings)
        self.grid = dict(grid or {})
        self.kind = kind_of(methods, models, self.grid)
        self.contenders = contenders(methods, models, self.grid)
        self.path = recipes.located(recipe)  # said once, not for each run
        self.task, self.fields, self.processes = task, dict(fields or {}), processes
        named = {setting.partition("=")[0].strip() for setting in settings}
        if both := sorted(named & self.grid.keys()):
            raise RequestError(f"--grid {both[0]}: --set gives one value for all; leave one out.")
        if "seed" in named:
            raise RequestError("--set seed: each run of a comparison has a seed of its own; --seed N gives the first, "
                               "and --seeds N says how many.")
        refuse_folder(named)
        self.rate_given = RATE in named or RATE in self.grid
        if tune and self.rate_given:
            how = "--grid training.learning_rate tries its own" if RATE in self.grid else (
                "--set training.learning_rate gives one for all")
            raise RequestError(f"--tune learning_rate: {how}; leave one out.")
        self.tune = tune
        requests = [self.recipe_for(contender, seeds[0], None) for contender in self.contenders]
        if requests[0].data.validation is None:
            raise RequestError("data.validation: a comparison needs rows that nothing learns from; set "
                               "data.validation=0.1, or name sources.")
        recipes.check_processes(requests[0].training, processes, "--processes")
        self.name = requests[0].name
        if task is not None and not self.name.endswith(task):
            self.name = f"{self.name}-{task}"  # as finetune calls its folders
        self.folder = folder or Path("runs") / f"{self.name}-compare"
        Sheet.check(self.folder, "compare")
        self.metric = metric or requests[0].learning.metric
        self.rates = {contender.label: usual_rate(request) for contender, request
                      in zip(self.contenders, requests, strict=True)}
        self.outcomes: list[MethodOutcome] = []

    def recipe_for(self, contender: Contender, seed: int, rate: float | None) -> Recipe:
        """The recipe of a run."""
        fields: dict[str, Any] = {**self.fields, "seed": seed}
        if not self.rate_given:
            fields[RATE] = rate
        return contender.recipe(self.path, self.settings, self.task, fields)

    # ---- running ----

    def run(self) -> None:
        """Every run that isn't there yet, one after the other; a failed one is noted, and the next begins."""
        for contender in self.contenders:
            usual = self.rates[contender.label]
            rate = usual
            if self.tune:
                tried = [self.one(contender, self.seeds[0], usual * factor) for factor in GRID]
                able = [one for one in tried if one.value is not None]
                if able:
                    best = max(able, key=lambda one: rank(self.metric, one.value or 0.0))
                    rate = best.learning_rate
                    log.info("%s: learning rate %g was best of %s", contender.label, rate,
                             ", ".join(f"{one.learning_rate:g} ({one.value:.4f})" for one in able))
                    self.outcomes.append(best)
                else:
                    self.outcomes.append(tried[0])
                    continue
            for seed in self.seeds[1:] if self.tune else self.seeds:
                self.outcomes.append(self.one(contender, seed, rate))
            self.write()

    def one(self, contender: Contender, seed: int, rate: float) -> MethodOutcome:
        """One run in a process of its own, or what it came to when it was made before."""
        place = self.folder / f"{contender.slug}-{rate:.3g}-{seed}"
        request = self.recipe_for(contender, seed, None if self.rate_given else rate)
        kind = "pretrain" if request.task is None else "finetune"
        tree = {**recipes.tree_of(request), "output_dir": str(place)}
        run = Run(place)
        path, journal = place.with_suffix(place.suffix + ".yaml"), place.with_suffix(place.suffix + ".log")
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        made = path.is_file() and path.read_text(encoding="utf-8") == text and run.completed
        status = 0
        if not made:
            log.info("%s, seed %d, learning rate %g …", contender.label, seed, rate)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                with journal.open("wb") as sink:
                    command = [sys.executable, "-m", "llmkit", kind, str(path), "--json"]
                    command += ["--processes", str(self.processes)] if self.processes > 1 else []
                    status = launch.wait([launch.start(command, os.environ.copy(), sink)])
            except OSError as error:
                raise PlaceError(f"{self.folder}: {error.strerror}.") from error
            if status in (75, 130):
                raise Stopped(f"stopped in {place}; the same command goes on from there", status)
        outcome = MethodOutcome(contender.label, seed, rate, "completed" if status == 0 else "failed")
        if status:
            lines = journal.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            outcome.exit_status = status
            outcome.error = lines[-1].removeprefix("llmkit: error: ") if lines else f"exit status {status}"
            if status == CheckpointError.status:  # the folder is another comparison's: no run of this one can be made
                raise CheckpointError(outcome.error)
            log.info("%s, seed %d failed: %s", contender.label, seed, outcome.error)
            return outcome
        outcome.summary = run.summary or {}
        figures = outcome.summary["best"] or outcome.summary["evaluation"]
        if self.metric not in figures:
            raise RequestError(f"--metric {self.metric}: the evaluation has no such figure."
                               f"{nearest(self.metric, figures)}")
        outcome.value = figures[self.metric]
        outcome.saved_bytes = sum(path.stat().st_size for path in run.model.rglob("*") if path.is_file())
        log.info("%s, seed %d: %s %.4f%s", contender.label, seed, self.metric, outcome.value,
                 " (made before)" if made else f" in {outcome.summary['wall_seconds']:.0f} s")
        return outcome

    def failure(self) -> LlmkitError:
        """What to say where no run came to its end: the first one's error, with its exit status."""
        first = self.outcomes[0]
        error = LlmkitError(f"every run failed; {first.variant}, seed {first.seed}: {first.error}")
        error.status = first.exit_status
        return error

    # ---- reporting ----

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a contender: the metric over its seeds, and what it cost on average; of a grid, the best first."""
        made = list(self._rows())
        if self.grid:
            made.sort(key=lambda row: -rank(self.metric, row["mean"]) if row["runs"] else float("inf"))
        yield from made

    def _rows(self) -> Iterator[dict[str, Any]]:
        for contender in self.contenders:
            mine = [one for one in self.outcomes if one.variant == contender.label]
            done = [one for one in mine if one.value is not None]
            row: dict[str, Any] = {"method": contender.method.label, "runs": len(done), "failed": len(mine) - len(done),
                                   "error": next((one.error for one in mine if one.error), None)}
            row |= {} if contender.model is None else {"model": contender.model}
            row |= {"settings": dict(contender.point)} if contender.point else {}
            row[self.kind] = contender.label
            if done:
                values = [one.value for one in done if one.value is not None]
                first = done[0].summary

                def mean(name: str, among: Sequence[MethodOutcome] = tuple(done)) -> float:
                    return float(statistics.mean(one.summary[name] for one in among))

                row |= {
                    **spread(values), "learning_rate": done[0].learning_rate,
                    "trainable_parameters": first["trainable_parameters"], "parameters": first["parameters"],
                    "trained_share": first["trainable_parameters"] / first["parameters"],
                    "wall_seconds": mean("wall_seconds"), "tokens_per_second": mean("tokens_per_second"),
                    "peak_memory_bytes": max(one.summary["peak_memory_bytes"] for one in done),
                    "saved_bytes": done[0].saved_bytes}
            yield row

    def floors(self) -> dict[str, float]:
        """What is reached with no language model at all."""
        made = (one.summary.get("floors") or {} for one in self.outcomes if one.summary)
        return {what: figures[self.metric] for what, figures in next(made, {}).items() if self.metric in figures}

    def as_json(self) -> dict[str, Any]:
        """Everything, as one document."""
        return {"recipe": self.recipe, "name": self.name, "metric": self.metric, "seeds": list(self.seeds),
                "floors": self.floors(), "tuned": "learning_rate" if self.tune else None, "grid": self.grid,
                "folder": str(self.folder), "methods": list(self.rows()),
                "runs": [asdict(one) for one in self.outcomes]}

    @property
    def sheet(self) -> Sheet:
        """All of it as a table and a plot."""
        how = ("The learning rate is the best of three on these rows." if self.tune else
               "One learning rate for all." if RATE not in self.grid and self.rate_given else
               "Each method has its usual learning rate." if RATE not in self.grid else "")
        if self.grid:
            how = (f"{how} Tuned on these same rows, by {', '.join(self.grid)}: the best of {len(self.contenders)} is "
                   "a little lucky here; measure it on rows of its own.").strip()
        title = {"method": f"{self.name}: {self.metric} by tuning method",
                 "run": f"{self.name}: {self.metric} by model, method and setting",
                 "model": f"{self.name}: {self.metric} by model"}
        return Sheet(
            self.kind, self.metric, list(self.rows()), {
                "trained": lambda row: f"{row['trainable_parameters']:,}",
                "share": lambda row: f"{row['trained_share']:.2%}",
                "time": lambda row: f"{row['wall_seconds']:.0f} s",
                "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
                "memory": lambda row: machine.size(row["peak_memory_bytes"]),
                "saved": lambda row: machine.size(row["saved_bytes"])},
            self.floors(), COSTS.get(self.kind, COSTS["method"]),
            title.get(self.kind, f"{self.name}: {self.metric} by setting"),
            f"{of_seeds(self.metric, len(self.seeds))} {how}")

    def write(self) -> None:
        """Leave compare.json, compare.md and compare.png in the folder."""
        self.sheet.write(self.folder, "compare", self.as_json())


def own_method(path: str, settings: Sequence[str], task: str | None, fields: Mapping[str, Any]) -> Variant:
    """The tuning method that a recipe has, with its options, where methods aren't what is compared."""
    tuning = recipes.tree_of(recipes.load(path, settings, task=task, fields=fields)).get("tuning") or {}
    options = {name: value for name, value in tuning.items() if name != "method"}
    return Variant(tuning.get("method", "full"), tuning.get("method", "full"), options)
