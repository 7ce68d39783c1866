"""Ask the same model about the same rows by several prompts, and put what each reached and cost side by side."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import fields as options_of
from pathlib import Path
from typing import Any

from llmkit import models
from llmkit import recipe as recipes
from llmkit.data.sources import Reader, open_source
from llmkit.inference import labelling as prompted
from llmkit.inference.comparing.inline import Variant
from llmkit.inference.comparing.sheet import Sheet, of_seeds, refuse_folder, spread
from llmkit.inference.evaluate import open_scorer
from llmkit.inference.scoring import Scorer
from llmkit.prompting.base import Kit, Prompting, generator
from llmkit.recipe import registry
from llmkit.recipe.seams import PromptMode
from llmkit.system.errors import CheckpointError, LlmkitError, RequestError, nearest
from llmkit.tasks.base import Floors, Row, split
from llmkit.tasks.shared.few import few_shots
from llmkit.training.folder.run_folder import put

log = logging.getLogger("llmkit")


@dataclass
class PromptOutcome:
    """What one prompt mode came to, with one seed."""

    mode: str
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    prompt_tokens: float = 0.0
    """Tokens of a prompt, on average."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: str = ""
    """Why it can't be asked."""
    exit_status: int = 0


class Prompts:
    """Prompt modes on the same rows; what was measured stays in the folder, a file each."""

    def __init__(
        self, recipe: str, modes: Sequence[Variant], seeds: Sequence[int], folder: Path | None = None,
        settings: Sequence[str] = (), metric: str | None = None, limit: int | None = None, *,
        task: str | None = None, fields: Mapping[str, Any] | None = None,
    ) -> None:
        """`recipe` is a path or a packaged name; examples are drawn from its training rows, and asked are the others.

        What its `prompting` block says goes for every mode that has such an option and doesn't say otherwise itself.
        `limit`: so many of the rows are asked about, the same for all. `task` and `fields` go over the recipe, as
        `recipes.load` takes them. RequestError where a request can't work.
        """
        refuse_folder({setting.partition("=")[0].strip() for setting in settings})
        request = recipes.load(recipe, settings, task=task, fields=fields)
        by_words = None if request.task is None else request.task.by_words()
        if by_words is None:
            raise RequestError(f"task: prompts are compared by how well they tell labels apart: classification, not "
                               f"{registry.name_of(request.learning)}.")
        if request.backbone.pretrained is None:
            raise RequestError("backbone.pretrained: a prompt asks a model that can read; name one.")
        if request.data.validation is None:
            raise RequestError("data.validation: prompts are compared on rows that examples aren't drawn from; set "
                               "data.validation=0.1, or name sources.")
        self.recipe, self.seeds, self.limit, self.request = recipe, list(seeds), limit, request
        self.task = by_words
        self.model = request.backbone.pretrained
        self.modes = {one.label: made(one, request.prompting) for one in modes}
        self.slugs = {one.label: one.slug for one in modes}
        self.folder = folder or Path("runs") / f"{request.name}-prompts"
        Sheet.check(self.folder, "prompts")
        self.metric = metric or self.task.metric
        self.outcomes: list[PromptOutcome] = []
        self.floors: Floors = {}
        self.asked_rows = 0

    # ---- asking ----

    def run(self) -> None:
        """Every mode and seed that isn't there yet; one that can't be asked is noted, and the next begins.

        A mode without chance is asked once.
        """
        pool, rows, data = self.rows()
        self.asked_rows = len(rows)
        self.floors = self.task.floors(pool, rows)
        if self.metric not in (known := {"loss": 0.0, **next(iter(self.floors.values()))}):
            raise RequestError(f"--metric {self.metric}: there is no such figure.{nearest(self.metric, known)}")
        examples = prompted.shots(pool)
        labels = {label: prompted.known_labels(mode, [*pool, *rows]) for label, mode in self.modes.items()}
        common = [self.model, stamp(models.resolve(self.model)), data, self.limit]
        scorer: Scorer | None = None
        for label, mode in self.modes.items():
            mode.words(labels[label])
            mode.check(Kit(None, pool=examples))
        for label, mode in self.modes.items():
            for seed in self.seeds if mode.drawn else self.seeds[:1]:
                one = mode.reseeded(seed)
                key = hashlib.sha256(json.dumps([*common, recipes.block("prompting", one)]).encode()).hexdigest()
                path = self.folder / "asked" / f"{self.slugs[label]}-{seed}.json"
                outcome = kept(path, key)
                if outcome is None:
                    scorer = scorer or open_scorer(self.model)
                    outcome = self.one(label, seed, one, scorer, labels[label], examples, rows)
                    put(path, json.dumps({"key": key, "outcome": asdict(outcome)}, ensure_ascii=False))
                self.outcomes.append(outcome)
            self.write()

    def opened(self, sources: Sequence[recipes.Source], at: str) -> list[Reader]:
        """The sources that a field of the recipe names."""
        return [open_source(source, self.request.data.document, tables=True,
                            at=f"{at}.{number}" if len(sources) > 1 else at) for number, source in enumerate(sources)]

    def rows(self) -> tuple[list[Row], list[Row], list[str]]:
        """(rows that examples are drawn from, rows that are asked about, fingerprints of where they are from)."""
        data = self.request.data
        readers = self.opened(data.train, "data.train")
        of = [reader.fingerprint() for reader in readers]  # first: what is read must be of it
        read = [self.task.read(reader) for reader in readers]
        if isinstance(data.validation, list):
            others = self.opened(data.validation, "data.validation")
            of += [reader.fingerprint() for reader in others]
            held = [self.task.read(reader) for reader in others]
            readers += others
        else:
            read, held = split(read, data.validation or 0.0, self.request.seed)
        if data.shots is not None:
            read, note = few_shots(read, data.shots, self.request.seed, self.task.labels_of)
            log.info("%s", note)
        pool, rows = ([row for part in parts for row, _ in part] for parts in (read, held))
        if self.limit is not None and self.limit < len(rows):
            chosen = generator("asked", 0).permutation(len(rows))[: self.limit]
            rows = [rows[i] for i in sorted(chosen.tolist())]
        for note in dict.fromkeys(note for reader in readers for note in reader.notes):
            log.info("%s", note)
        return pool, rows, of

    def one(
        self, label: str, seed: int, mode: Prompting, scorer: Scorer, labels: Sequence[str], examples: Sequence[Any],
        rows: Sequence[Row],
    ) -> PromptOutcome:
        """Ask about all rows by one mode."""
        start = time.monotonic()
        try:
            labeller = prompted.Labeller(scorer, mode, labels, examples)
            metrics = prompted.measured(labeller, self.task, rows)
        except LlmkitError as error:
            log.info("%s, seed %d failed: %s", label, seed, error)
            return PromptOutcome(label, seed, error=str(error), exit_status=error.status)
        outcome = PromptOutcome(label, seed, metrics, statistics.mean(labeller.tokens), time.monotonic() - start,
                          labeller.kit.notes(mode.wants))
        log.info("%s, seed %d: %s %.4f in %.0f s%s", label, seed, self.metric, metrics[self.metric], outcome.seconds,
                 "".join(f"; {note}" for note in outcome.notes))
        return outcome

    def failure(self) -> LlmkitError:
        """What to say where nothing could be asked: the first error, with its exit status."""
        first = self.outcomes[0]
        error = LlmkitError(f"every mode failed; {first.mode}: {first.error}")
        error.status = first.exit_status
        return error

    # ---- reporting ----

    def table(self) -> Iterator[dict[str, Any]]:
        """One row a mode: the metric over its seeds, and what it cost on average."""
        for label in self.modes:
            mine = [one for one in self.outcomes if one.mode == label]
            done = [one for one in mine if one.metrics]
            row: dict[str, Any] = {"mode": label, "runs": len(done), "failed": len(mine) - len(done),
                                   "error": next((one.error for one in mine if one.error), None)}
            if done:
                row |= {**spread([one.metrics[self.metric] for one in done]),
                        "prompt_tokens": statistics.mean(one.prompt_tokens for one in done),
                        "seconds": statistics.mean(one.seconds for one in done),
                        "notes": list(dict.fromkeys(note for one in done for note in one.notes))}
            yield row

    def as_json(self) -> dict[str, Any]:
        """Everything, as one document."""
        return {"recipe": self.recipe, "model": self.model, "metric": self.metric, "seeds": self.seeds,
                "rows": self.asked_rows,
                "floors": {what: some[self.metric] for what, some in self.floors.items() if self.metric in some},
                "folder": str(self.folder), "modes": list(self.table()),
                "prompting": {label: recipes.block("prompting", mode) for label, mode in self.modes.items()},
                "runs": [asdict(one) for one in self.outcomes]}

    @property
    def sheet(self) -> Sheet:
        """All of it as a table and a plot."""
        document = self.as_json()
        return Sheet(
            "mode", self.metric, document["modes"],
            {"tokens": lambda row: f"{row['prompt_tokens']:.0f}", "time": lambda row: f"{row['seconds']:.0f} s"},
            document["floors"], ("prompt_tokens", "tokens of a prompt", "linear"),
            f"{self.request.name}: {self.metric} of {self.model} by prompt",
            f"{of_seeds(self.metric, len(self.seeds))} {self.asked_rows:,} rows; a mode without chance is asked once. "
            "The time is of what no mode above had asked yet.")

    def write(self) -> None:
        """Leave prompts.json, prompts.md and prompts.png in the folder."""
        self.sheet.write(self.folder, "prompts", self.as_json())


def made(variant: Variant, usual: PromptMode | None) -> Prompting:
    """A mode with its own options, and what the recipe's block says of others that it has.

    A mode that is normalised inherits as if it stood alone. RequestError as for a recipe.
    """
    said: dict[str, Any] = {}
    if usual is not None:
        plain = {option.name: option.default for option in options_of(usual)}  # type: ignore[arg-type]  # all modes are
        said = {key: value for key, value in recipes.block("prompting", usual).items()
                if key in plain and value != plain[key]}
    mode: Prompting = recipes.plugin(
        "prompting", inherited(variant.name, variant.options, said), f"--modes {variant.label}")
    return mode


def inherited(name: str, options: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """A mode's block, with options of another under its own."""
    fields_of = options_of(registry.find("prompting", name))  # type: ignore[arg-type]  # all modes are dataclasses
    known = {option.name for option in fields_of} - {"of"}
    block = {"name": name, **{key: value for key, value in usual.items() if key in known}, **options}
    inner = block.get("of")
    if inner is not None:
        inner = {"name": inner} if isinstance(inner, str) else dict(inner)
        if inner.get("name") in registry.names("prompting"):
            block["of"] = inherited(inner.pop("name"), inner, usual)
    return block


def stamp(folder: Path) -> list[tuple[str, int, int]]:
    """What tells a model's files from others: name, size and time."""
    found = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return [(name, about.st_size, about.st_mtime_ns) for name, about in found]


def kept(path: Path, key: str) -> PromptOutcome | None:
    """What was measured before; CheckpointError where that was of another model, data or mode."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        outcome = PromptOutcome(**found["outcome"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {error}; remove it to ask again.") from error
    if found["key"] != key:
        raise CheckpointError(f"{path} is of another model, other rows, or a mode with other options; choose another "
                              "--output-dir.")
    return outcome

