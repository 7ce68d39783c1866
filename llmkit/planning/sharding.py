"""Whether a recipe's model can lie in parts on several processes: what can't is refused before it is opened."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from llmkit.recipe import Distributed, Recipe, registry
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

DDP = "training.distributed.strategy: ddp"


def check(recipe: Recipe, processes: int) -> None:
    """RequestError where `training.distributed` asks for what can't be, with what can be instead.

    `recipe` is the one in which nothing is left open.
    """
    plan = recipe.training.distributed
    if plan.strategy == "ddp":
        usual = Distributed()
        for option in fields(Distributed):
            if getattr(plan, option.name) != getattr(usual, option.name):
                raise RequestError(f"training.distributed.{option.name}: is for strategy: fsdp; with ddp each process "
                                   "has the whole model.")
        return
    if why := why_not(recipe):
        raise RequestError(f"training.distributed.strategy: fsdp: {why}")
    if processes > 1:
        _check_groups(plan, processes)


def why_not(recipe: Recipe) -> str:
    """Why a recipe's model can't be trained in parts; "" where it can."""
    return next(_reasons(recipe), "")


def _reasons(recipe: Recipe) -> Iterator[str]:
    """Why a model can't be trained in parts, the first first."""
    if recipe.training.precision == "fp16":
        yield f"the scale of fp16 is of whole gradients. Use training.precision: bf16 or fp32, or {DDP}."
    if recipe.backbone.quantization_config is not None:
        yield f"weights of 4 or 8 bits can't be parted. Leave out backbone.quantization_config, or use {DDP}."
    if not recipe.tuning.shards:
        yield f"{registry.name_of(recipe.tuning)} looks at whole gradients in each step. Use lora, or {DDP}."
    if not recipe.rule.shards:
        can = ", ".join(name for name in registry.names("optimizers") if registry.find("optimizers", name)().shards)
        yield (f"{registry.name_of(recipe.rule)} needs each tensor whole. Use optimizer: {can}; "
               f"or {DDP}.")


def _check_groups(plan: Distributed, processes: int) -> None:
    """RequestError where the groups aren't all the processes."""
    size = plan.dp_shard_size or processes // plan.dp_replicate_size
    if plan.dp_replicate_size * size != processes or (plan.dp_replicate_size > 1 and size < 2):
        raise RequestError(
            f"training.distributed: dp_replicate_size {plan.dp_replicate_size} × dp_shard_size {size} is "
            f"{plan.dp_replicate_size * size}, and there are {processes} processes: the two must multiply to it, "
            "with dp_shard_size 2 or more.")
