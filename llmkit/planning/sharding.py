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
    check_groups(plan, processes)


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


def check_groups(plan: Distributed, processes: int) -> None:
    """RequestError where a model in parts can't lie on so many processes in the groups that are asked for.

    It can be known as soon as the number of processes is. One alone has the whole model, whatever is asked for.
    """
    if plan.strategy == "ddp" or processes == 1:
        return
    copies, size = plan.dp_replicate_size, plan.dp_shard_size
    if copies > 1 and (processes % copies or processes < 2 * copies):
        raise RequestError(
            f"training.distributed.dp_replicate_size: {copies} groups of one size, of 2 or more processes each, can't "
            f"be made of {processes} processes; {_groups(processes)}.")
    if size is not None and copies * size != processes:
        raise RequestError(
            f"training.distributed.dp_shard_size: {copies} group{'s' * (copies > 1)} (dp_replicate_size) of {size} "
            f"process{'es' * (size > 1)} make {copies * size}, and there are {processes}; leave dp_shard_size out, and "
            f"it is {processes // copies}.")


def _groups(processes: int) -> str:
    """What can be instead: `1, 2 or 4 can`"""
    can = [str(count) for count in range(1, processes // 2 + 1) if processes % count == 0]
    return f"{' or '.join([', '.join(can[:-1]), can[-1]] if len(can) > 1 else can)} can"
