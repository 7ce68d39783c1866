"""Options that can't act in a run as it is: each is said before the first step, and the run goes on without it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llmkit.recipe import Recipe, registry, with_optimizer


def unheeded(recipe: Recipe, steps: int | None, processes: int = 1) -> list[str]:
    """A sentence for each option of a settled recipe that can't act in a run of so many steps; None: nobody knows them.

    `training.warmup_steps: 500 isn't over when the run ends, after step 100: …`
    """
    return [f"training.{one}" for one in (
        *_evaluations(recipe, steps), *_schedule(recipe, steps), *_saves(recipe, steps), *_optimizer(recipe, steps),
        *_parts(recipe, processes))]


def _parts(recipe: Recipe, processes: int) -> Iterator[str]:
    """What of a model in parts doesn't come to pass."""
    plan = recipe.training.distributed
    if plan.strategy == "fsdp" and processes == 1:
        yield "distributed.strategy: fsdp can't act: one process has the whole model; --processes N starts several"
    elif plan.cpu_offload and not torch.cuda.is_available():
        yield "distributed.cpu_offload can't act: there is no GPU here, and all parts lie in main memory anyway"


def _evaluations(recipe: Recipe, steps: int | None) -> Iterator[str]:
    """What rests on evaluations that aren't made."""
    plan, every, patience = recipe.training, recipe.training.eval_steps, recipe.training.early_stopping_patience
    if every is not None and recipe.data.validation is None:
        yield f"eval_steps: {every} can't act: there is nothing to evaluate on; data.validation is needed"
    elif every is not None and steps is not None and every >= steps:
        yield (f"eval_steps: {every} is not before the run's end, at step {steps}: it is evaluated at its start and "
               "end alone")
    if patience is not None and every is None:
        yield (f"early_stopping_patience: {patience} can't act: the run is evaluated at its start and end alone; set "
               "training.eval_steps")
    elif patience is not None and every is not None and steps is not None and patience * every >= steps:
        yield (f"early_stopping_patience: {patience} can't act: {patience} evaluations are {patience * every} steps, "
               f"and the run ends after step {steps}; make eval_steps less than {-(-steps // patience)}")
    if plan.greater_is_better is not None and plan.metric_for_best_model is None:
        yield "greater_is_better can't act: the last weights are kept; it is of metric_for_best_model"


def _saves(recipe: Recipe, steps: int | None) -> Iterator[str]:
    """A checkpoint beside the steps where no step follows it."""
    plan = recipe.training
    if plan.async_save and steps is not None and plan.save_steps >= steps:
        yield (f"async_save can't act: the only checkpoint is that of the run's end, after step {steps}, which no step "
               f"follows; save_steps: {max(1, steps // 4)} makes some before it")


def _schedule(recipe: Recipe, steps: int | None) -> Iterator[str]:
    """What the learning rate's schedule doesn't come to, or doesn't have."""
    plan, warmup = recipe.training, recipe.training.warmup_steps
    if plan.lr_scheduler_type == "constant" and warmup and steps is not None:
        yield f"warmup_steps: {warmup:g} can't act: the schedule constant has no warm-up; constant_with_warmup has one"
    elif steps is not None and warmup >= max(1, steps):
        yield (f"warmup_steps: {warmup:g} isn't over when the run ends, after step {steps}: the learning rate stays "
               f"below {(plan.learning_rate or 0.0):g}; a share, as 0.1, fits any length")
    if plan.lr_scheduler_type in ("constant", "constant_with_warmup") and plan.lr_scheduler_kwargs:
        yield (f"lr_scheduler_kwargs: {', '.join(plan.lr_scheduler_kwargs)} can't act: the schedule "
               f"{plan.lr_scheduler_type} has no options")


def _optimizer(recipe: Recipe, steps: int | None) -> Iterator[str]:
    """What an optimizer has no use for."""
    plan, rule = recipe.training, with_optimizer(recipe)[0].rule
    name = registry.name_of(rule)
    if plan.weight_decay and not rule.decays:
        yield f"weight_decay: {plan.weight_decay:g} can't act: {name} has none"
    if rule.averages and plan.lr_scheduler_type not in ("constant", "constant_with_warmup"):
        yield (f"lr_scheduler_type: {plan.lr_scheduler_type} lowers the rate of {name}, whose average does without "
               "that; constant_with_warmup doesn't")
