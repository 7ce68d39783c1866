"""Measure a trained model: perplexity on text, a task's metrics on rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmkit import models, recipe, registry
from llmkit.data.sources import open_source
from llmkit.errors import RequestError
from llmkit.objectives.base import Objective, Setup
from llmkit.recipe import Source
from llmkit.settle import family_named, family_of
from llmkit.tasks.base import Task


def evaluate(
    model: str | Path, data: str | Path, *, task: str | None = None, objective: str | None = None,
    max_length: int | None = None, batch_size: int = 16,
) -> dict[str, Any]:
    """Evaluate a run, a folder, a hub id or a catalogue model on a file; all of the file counts.

    A run is measured by the objective or task that it learned, in rows like those it learned from; another model by the
    one its head is for, on the documents one after the other, in parts of its positions (at most 512, or `max_length`).
    Returns {"metrics": {"loss": …}, "model", "data", …}.
    """
    from llmkit import report
    from llmkit.train import Learner, accelerate
    from llmkit.train import evaluate as measured

    report.quiet_libraries()
    learned = _learned(Path(model))
    if task is not None or objective is not None:
        kind, name = ("tasks", task) if task is not None else ("objectives", objective)
        chosen: Objective | None = registry.find(kind, str(name))()
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
    opened = models.open_model(model, chosen.head_for(family))
    if opened.missing and not (folder / "adapter_config.json").is_file():  # an adapter brings its head
        raise RequestError(f"{model}: no weights for {opened.missing[0]}, which {registry.name_of(chosen)} needs; "
                           "train it for that first.")
    limit = family.position_limit(opened.model.config)
    virtual = 0 if learned is None else learned.tuning.virtual_tokens
    most = min(512, (limit or 512) - virtual)
    said = max_length or (learned.data.max_length if learned is not None else None) or most
    if limit is not None and said + virtual > limit:
        raise RequestError(f"--max-length {said}: the model has {limit - virtual} positions.")
    names: dict[Any, str] = dict(opened.model.config.id2label or {})
    labels = tuple(names[number] for number in sorted(names)) if isinstance(chosen, Task) else None
    way = chosen.packings[-1] if isinstance(chosen, Task) else "blocks" if learned is None else learned.data.packing
    setup = Setup(opened.tokenizer, family, said, way, 0, labels)
    reader = open_source(Source(str(data)) if learned is None else _source(str(data), learned))
    sets = chosen.prepare([reader], None, setup)
    accelerator = accelerate("fp32", (), Path())
    whole = chosen.assemble(opened.model, family, opened.tokenizer, folder.parent if learned is not None else None)
    learner = Learner(whole, chosen, family).to(accelerator.device)
    metrics = measured(accelerator, learner, sets.train, setup, batch_size)
    return {"metrics": metrics, "model": str(model), "data": str(data), "measured_by": registry.name_of(chosen),
            "max_length": said, "rows": sum(map(len, sets.train))}


def _family(folder: Path) -> str:
    """The family of a model that isn't a run; auto where llmkit has no file for it."""
    try:
        return family_of(folder)
    except RequestError:
        return "auto"


def _source(data: str, learned: recipe.Recipe) -> Source:
    """A file read as the run read its own: the same names of fields, the same encoding."""
    first = learned.data.train[0]
    fields = first.fields if Path(data).suffix in {Path(source.source).suffix for source in learned.data.train} else {}
    return Source(data, fields=fields, encoding=first.encoding)


def _learned(model: Path) -> recipe.Recipe | None:
    """The recipe of a run, where the model is one."""
    for folder in (model, model.parent):
        if (folder / "recipe.yaml").is_file() and (folder / "model").is_dir():
            return recipe.load(folder / "recipe.yaml")
    return None
