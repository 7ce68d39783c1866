"""Measure a trained model: perplexity on text, a task's metrics on rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import models, recipe
from llmkit.data.sources import Reader, open_source
from llmkit.inference.labelling import Labeller, known_labels, measured
from llmkit.inference.scoring import KINDS, Scorer
from llmkit.models import layout
from llmkit.models.run import recipe_of
from llmkit.objectives.base import Sets, Setup
from llmkit.planning.settle import family_named, family_of, with_prompt
from llmkit.prompting.base import Kit, Prompting
from llmkit.recipe import Source, registry
from llmkit.recipe.seams import Answering, Learning
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.base import Encoded, Floors, Row, Task

if TYPE_CHECKING:
    from llmkit.training.learner import Learner

log = logging.getLogger("llmkit")


def evaluate(
    model: str | Path, data: str | Path, *, target: str | Path | None = None, task: str | None = None,
    objective: str | None = None, max_length: int | None = None, batch_size: int = 16, prompt: Prompting | None = None,
) -> dict[str, Any]:
    """Evaluate a run, a folder, a hub id or a catalogue model on a file; all of the file counts.

    target   of parallel text, the file whose lines are the translations of those of `data`

    A run is measured by the objective or task that it learned, in rows like those it learned from; another model by the
    one its head is for, on the documents one after the other, in parts of its positions (at most 512, or `max_length`).
    With a prompt, a language model says labels by their words, and any other model reads every text in it.
    Returns {"metrics": {"loss": …}, "floors", "model", "data", …}.
    """
    from llmkit.training.evaluate import evaluate as all_figures
    from llmkit.training.evaluate import refer
    from llmkit.training.processes import accelerate

    if prompt is not None and target is None and (words := asks_for_words(model, task)) is not None:
        return by_prompt(model, data, prompt, words)
    ready = make_ready(model, task=task, objective=objective, max_length=max_length, prompt=prompt)
    sets = ready.learner.objective.prepare([ready.source(str(data), target=target)], None, ready.setup)
    accelerator = accelerate("fp32", (), Path())
    if isinstance(ready.learner.objective, Task) and ready.learner.objective.reference:
        refer(accelerator, untuned(ready, model).to(accelerator.device), sets.train, ready.setup, batch_size)
    metrics = all_figures(accelerator, ready.learner.to(accelerator.device), sets.train, ready.setup, batch_size)
    chosen = ready.learner.objective
    return {"metrics": metrics, "floors": _floors(chosen, ready.learned, sets), "model": str(model), "data": str(data),
            "measured_by": registry.name_of(chosen), "max_length": ready.setup.max_length,
            "rows": sum(map(len, sets.train))}


@dataclass(frozen=True)
class Ready:
    """A model opened for what it learned."""

    learner: Learner
    setup: Setup
    learned: recipe.Recipe | None
    """The recipe of the run that it is from."""

    def source(self, data: str, document: str = "auto", target: str | Path | None = None) -> Reader:
        """A file, read as the run read its own: the same names of fields, the same encoding; `target` beside it."""
        beside = None if target is None else str(target)
        if self.learned is None:
            return open_source(Source(data, beside), document)
        first = self.learned.data.train[0]
        same = Path(data).suffix in {Path(source.source).suffix for source in self.learned.data.train}
        return open_source(Source(data, beside, fields=first.fields if same else {}, encoding=first.encoding), document)


def make_ready(
    model: str | Path, *, task: str | Answering | None = None, objective: str | None = None,
    max_length: int | None = None, usual_length: int = 512, dtype: str = "float32", prompt: Prompting | None = None,
) -> Ready:
    """Open a run, a folder, a hub id or a catalogue model for its task or objective, or for the one that is named.

    usual_length   positions that are used at most where neither `max_length` nor a run's recipe says how many
    prompt         stands in the place of the run's own

    RequestError where it has no weights for the task, fewer positions than `max_length`, or no text that a prompt could
    go around.
    """
    from llmkit.system import report
    from llmkit.training.learner import Learner

    report.quiet_libraries()
    learned = recipe_of(model)
    if task is not None and not isinstance(task, str):
        chosen: Learning | None = task
    elif task is not None or objective is not None:
        kind, name = ("tasks", task) if task is not None else ("objectives", objective)
        chosen = registry.find(kind, str(name))()
    else:
        chosen = None if learned is None else learned.learning
    folder = models.resolve(model)
    family_name = _family(folder) if learned is None else str(learned.backbone.family)
    family = family_named(family_name, folder)
    if chosen is None:
        usual = {"decoder": "causal_lm", "encoder": "masked_lm", "encoder-decoder": "span_corruption",
                 "permuted": "permuted_lm"}[family.shape]
        # not every decoder was taught to end, and an end is no text
        options = {"add_eos_token": False} if usual == "causal_lm" else {}
        chosen = registry.find("objectives", usual)(**options)
    recipe.fit_together(chosen, family_name, family)
    own = None if learned is None or type(chosen) is not type(learned.learning) else learned.prompting
    chosen = prompted(chosen, prompt) if prompt is not None else chosen
    opened = models.open_model(model, chosen.head_for(family), dtype=dtype)
    if opened.missing and not (folder / layout.ADAPTER).is_file():  # an adapter brings its head
        raise RequestError(f"{model}: no weights for {opened.missing[0]}, which {registry.name_of(chosen)} needs; "
                           "train it for that first.")
    limit = family.position_limit(opened.model.config)
    virtual = 0 if learned is None else learned.tuning.virtual_tokens
    most = min(usual_length, (limit or 512) - virtual)
    said = max_length or (learned.data.max_length if learned is not None else None) or most
    if limit is not None and said + virtual > limit:
        raise RequestError(f"--max-length {said}: the model has {limit - virtual} positions.")
    names: dict[Any, str] = dict(opened.model.config.id2label or {})
    labels = tuple(names[number] for number in sorted(names)) if isinstance(chosen, Task) else None
    way = chosen.packings[-1] if isinstance(chosen, Task) else "blocks" if learned is None else learned.data.packing
    whole = chosen.assemble(opened.model, family, opened.tokenizer, folder.parent if learned is not None else None)
    problem = opened.model.config.problem_type if isinstance(chosen, Task) else None
    others = tuple(learned.training.metrics) if learned is not None and isinstance(chosen, Task) else ()
    setup = Setup(opened.tokenizer, family, said, way, 0, labels, metrics=others, problem=problem)
    return Ready(Learner(whole, chosen, family), with_prompt(setup, prompt or own, chosen), learned)


def prompted(chosen: Learning, prompt: Prompting) -> Learning:
    """A task that reads its texts in a prompt; RequestError where it can't."""
    if not isinstance(chosen, Task) or chosen.prompted is None:
        raise RequestError(f"--prompt goes around the texts of a task; {registry.name_of(chosen)} reads none that it "
                           "could stand around. Name one by --task: classification, summarization …")
    if prompt.untrained:
        raise RequestError(f"--prompt: {prompt.untrained}. Here {registry.name_of(chosen)} is done by the model's own "
                           "head, not by comparing words.")
    return chosen.turned_round() if prompt.turns else chosen


def asks_for_words(model: str | Path, task: str | None) -> Task | None:
    """The task whose labels a model that learned no task is to say by their words; None where it isn't asked to."""
    asked: Task | None = None if task is None else registry.find("tasks", task)().by_words()
    learned = recipe_of(model)
    if asked is None or (learned is not None and learned.task is not None):
        return None
    return asked if models.kind_of(models.resolve(model)) in KINDS else None


def by_prompt(model: str | Path, data: str | Path, mode: Prompting, task: Task) -> dict[str, Any]:
    """Evaluate a language model as a classifier that nobody trained, on a file of texts and labels."""
    reader = open_source(Source(str(data)))
    rows = [row for row, _ in task.read(reader)]
    labels = known_labels(mode, rows)
    mode.words(labels)
    mode.check(Kit(None))
    labeller = Labeller(open_scorer(model), mode, labels)
    metrics = measured(labeller, task, rows)
    for note in (*reader.notes, *labeller.kit.notes(mode.wants)):
        log.info("%s", note)
    return {"metrics": metrics, "floors": task.floors([], rows), "model": str(model), "data": str(data),
            "measured_by": registry.name_of(task), "prompt": recipe.block("prompting", mode),
            "prompt_tokens": sum(labeller.tokens) / len(labeller.tokens), "rows": len(rows)}


def open_scorer(model: str | Path) -> Scorer:
    """A language model, opened to be asked how likely words are; on a GPU where there is one."""
    import torch

    from llmkit.system import report

    report.quiet_libraries()
    opened, learned = models.open_model(model), recipe_of(model)
    name = _family(opened.folder) if learned is None else str(learned.backbone.family)
    gpu = torch.cuda.is_available()
    return Scorer(opened, family_named(name, opened.folder), device="cuda" if gpu else "cpu",
                  at_once=16_384 if gpu else 1024)


def untuned(ready: Ready, model: str | Path) -> Learner:
    """The model that a run was tuned from; RequestError where there is none to be found."""
    from llmkit.training.learner import Learner

    learned, objective = ready.learned, ready.learner.objective
    before = learned.backbone.pretrained if learned is not None else None
    if before is None:
        raise RequestError(f"{model}: {registry.name_of(objective)} is measured beside the model that it was tuned "
                           "from; give a run that started from a pretrained model.")
    return Learner(models.open_model(before, objective.head_for(ready.learner.family)).model, objective,
                   ready.learner.family)


def _floors(chosen: Learning, learned: recipe.Recipe | None, sets: Sets) -> Floors:
    """What the rows' metrics are without a language model, learned from the run's own rows where they are still there.

    Elsewhere from nothing but the rows themselves: then only floors that need no training rows are given.
    """
    if not isinstance(chosen, Task):
        return {}
    rows = [row for part in sets.train if isinstance(part, Encoded) for row in part.rows]
    before: list[Row] = []
    try:
        for source in learned.data.train if learned is not None and type(chosen) is type(learned.learning) else []:
            before += (row for row, _ in chosen.read(open_source(source)))
    except DataError:  # moved or deleted since
        before = []
    return chosen.floors(before, rows)


def _family(folder: Path) -> str:
    """The family of a model that isn't a run; auto where llmkit has no file for it."""
    try:
        return family_of(folder)
    except RequestError:
        return "auto"
