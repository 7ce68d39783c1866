"""What to change in a recipe that doesn't fit on GPUs: fields with their values, each tried before it is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from llmkit import recipe as recipes
from llmkit.planning import sharding
from llmkit.planning.choices import Precision
from llmkit.planning.clusters.gpus import Cluster
from llmkit.planning.clusters.memory import Strategy
from llmkit.planning.clusters.outlook import Case, Way, asked_for, case, way
from llmkit.recipe import Recipe
from llmkit.system.errors import LlmkitError

MOST = 3
"""Remedies that are named."""
SHARDED = "training.distributed={strategy: fsdp}"
AGAIN = "training.gradient_checkpointing=true"
BY_ONE = "training.micro_batch_size=1"
EIGHT = "optimizer=adamw_8bit"
LORA = "tuning={method: lora}"
FOUR = "backbone.quantization_config={load_in_4bit: true, bnb_4bit_quant_type: nf4}"
SHORTER = "data.max_length="
LIGHT = (SHARDED, AGAIN, BY_ONE, EIGHT)
"""Changes that leave the model as it is: of these only what is held is counted anew."""
SHORTEST = 128
"""Tokens below which no row is cut."""
FAR = 4096
"""GPUs up to which more are tried."""


def remedies(request: Recipe, this: Case, chosen: Way) -> list[dict[str, Any]]:
    """Up to three changes with which each GPU has memory for the run, the gentlest first.

    [{"set": ["training.gradient_checkpointing=true"], "on": None, "memory": bytes a GPU, "strategy"}]; each was
    put into the recipe, and the whole counted again. `on` is another number of GPUs. Empty where none of them does.
    """
    found = list[dict[str, Any]]()
    strategy = chosen.strategy if this.assumed.strategy else None
    for settings in candidates(request, this):
        if any(set(one["set"]) <= set(settings) for one in found):
            continue  # it does with less
        tried = with_settings(request, this, settings, strategy)
        if tried is not None and tried.fits:
            found.append({"set": list(settings), "on": None, "memory": tried.held.total, "strategy": tried.strategy})
            if len(found) == MOST:
                return found
    if (more := on_more(request, this, chosen)) is not None:
        found.append(more)
    return found


def candidates(request: Recipe, this: Case) -> Iterator[tuple[str, ...]]:
    """Changes to a recipe, those first that change no loss; then what trains, rows, and the model."""
    training, recipe = request.training, this.recipe
    same = []
    if this.rows is not None and this.rows > 1:
        same.append(BY_ONE)
    if not training.gradient_checkpointing:
        same.append(AGAIN)
    if this.cluster.count > 1 and asked_for(recipe, this.cluster) == "ddp" and shards(request, this.precision):
        same.append(SHARDED)
    yield from subsets(same)
    lighter = (EIGHT,) if recipe.rule.states > 1 else ()
    if lighter and recipe.tuning.trains_model:
        yield from (lighter + part for part in ((), *subsets(same)))
    if recipe.backbone.pretrained is not None and recipe.tuning.trains_model:
        yield from ((LORA, *part) for part in ((), *subsets(same)))
        yield from ((LORA, FOUR, *part) for part in ((), *subsets(same)))
    every = (*same, *lighter) if recipe.tuning.trains_model else tuple(same)
    length = (recipe.data.max_length or 0) // 2
    while length >= SHORTEST:
        yield (f"{SHORTER}{length}", *every)
        length //= 2
    if recipe.backbone.pretrained is None and recipe.backbone.size is not None:
        for size in smaller(this):
            yield (f"backbone.size={size}", *every)


def subsets(settings: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Some settings alone and together, few before many: a b  ->  (a) (b) (a b)"""
    from itertools import combinations

    for count in range(1, len(settings) + 1):
        yield from combinations(settings, count)


def smaller(this: Case) -> list[str]:
    """Sizes of the family that are named before the recipe's: smaller ones, the largest first."""
    sizes = list(this.settled.family.sizes)
    size = this.recipe.backbone.size
    return sizes[:sizes.index(size)][::-1] if size in sizes else []


def with_settings(request: Recipe, this: Case, settings: Sequence[str], strategy: Strategy | None) -> Way | None:
    """The recipe with some fields changed, on the same cluster; None where that is no recipe of this version."""
    try:
        changed = recipes.load(recipes.tree_of(request), settings)
        if SHARDED in settings and not shards(changed, this.precision):
            return None
        if all(setting in LIGHT or setting.startswith(SHORTER) for setting in settings):  # the model stays what it is
            ruled = recipes.with_optimizer(changed)[0]
            settled = replace(this.settled, recipe=replace(
                this.recipe, optimizer=ruled.optimizer, training=ruled.training,
                data=replace(this.recipe.data, max_length=ruled.data.max_length or this.recipe.data.max_length)))
            other = replace(this, settled=settled, rows=1 if BY_ONE in settings else this.rows)
        else:
            other = case(changed, this.cluster, this.assumed)
    except LlmkitError:
        return None
    return way(other, strategy or asked_for(changed, this.cluster))


def on_more(request: Recipe, this: Case, chosen: Way) -> dict[str, Any] | None:
    """The fewest GPUs, in whole machines, among which FSDP has room for the recipe as it is; None where none are."""
    if not shards(request, this.precision):
        return None
    count, gpu = this.cluster.count, this.cluster.gpu
    each = max(this.cluster.per_machine, min(count, gpu.per_machine))
    while (count := 2 * count) <= FAR and request.training.global_batch_size % count == 0:
        other = replace(this, cluster=Cluster(gpu, count, min(count, each)))
        tried = way(other, "fsdp")
        if tried.fits:
            said = [] if asked_for(this.recipe, other.cluster) == "fsdp" or this.assumed.strategy else [SHARDED]
            return {"set": said, "on": count, "memory": tried.held.total, "strategy": "fsdp"}
    return None


def shards(request: Recipe, usual: Precision) -> bool:
    """Whether the recipe's model can lie in parts on several GPUs, which compute in `usual` where it says nothing."""
    ruled, said = recipes.with_optimizer(request)[0], request.training.precision
    return not sharding.why_not(replace(ruled, training=replace(
        ruled.training, precision=usual if said == "auto" else said)))


