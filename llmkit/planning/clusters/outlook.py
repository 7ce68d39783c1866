"""What a recipe's run would take on GPUs that aren't here: memory, speed, traffic, checkpoints, days and money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from llmkit import recipe as recipes
from llmkit.objectives.base import Objective
from llmkit.planning import choices, sharding
from llmkit.planning.clusters.amounts import Amounts, amounts
from llmkit.planning.clusters.anatomy import Anatomy, anatomy
from llmkit.planning.clusters.gpus import Cluster
from llmkit.planning.clusters.memory import FULL, ROOM, STRATEGIES, WHOLE, Demand, Held, Strategy, held
from llmkit.planning.clusters.pace import Pace, assumed, operations, pace, rate
from llmkit.planning.settle import Settled, settle
from llmkit.recipe import Recipe, registry
from llmkit.system.errors import RequestError
from llmkit.system.machine import size

DISK = 1e9
"""Bytes a second in which a checkpoint is written where nothing is said: about a file system over a network."""
WIDE = 768
"""Width from which on models reached the utilisation that is assumed: the smallest of llm-foundry's table."""
AT_ONCE = choices.AT_ONCE["cuda"]
"""Tokens of a micro-batch where memory allows."""
CENTURY = 100 * 365.25 * 86_400
"""Seconds after which no date is said."""


@dataclass(frozen=True)
class Assumed:
    """What a person takes for given."""

    mfu: float | None = None
    """The utilisation of the GPUs, from 0 to 1; None: the usual one."""
    disk: float = DISK
    """Bytes a second in which checkpoints are written."""
    price: float | None = None
    """Of a GPU hour, in any currency."""
    strategy: Strategy | None = None
    """How the model is spread; None: as the recipe says."""

    def __post_init__(self) -> None:
        """RequestError where a figure can't be one."""
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise RequestError(f"--mfu {self.mfu:g}: is a share of what the GPUs could do, above 0 and at most 1: 0.4.")
        if self.price is not None and not (0 <= self.price < math.inf):
            raise RequestError(f"--price {self.price:g}: is what a GPU costs an hour, 0 or more.")


@dataclass(frozen=True)
class Case:
    """A recipe on a cluster, with all that is counted once."""

    settled: Settled
    model: Anatomy
    cluster: Cluster
    amounts: Amounts
    assumed: Assumed
    precision: choices.Precision
    rows: int | None
    """Of a micro-batch, where the recipe says; None: as many as fit."""

    @property
    def recipe(self) -> Recipe:
        """The recipe, nothing in it left open but the micro-batch."""
        return self.settled.recipe

    @property
    def mfu(self) -> float:
        """The utilisation that is reckoned with."""
        recomputes = self.recipe.training.gradient_checkpointing
        return assumed(recomputes) if self.assumed.mfu is None else self.assumed.mfu

    def demand(self, rows: int) -> Demand:
        """With so many rows at once."""
        training = self.recipe.training
        return Demand(rows, self.recipe.data.max_length or 128, self.recipe.rule.states,
                    FULL if self.precision == "fp32" else 2, training.gradient_checkpointing)


@dataclass(frozen=True)
class Way:
    """A recipe with its model spread in one way."""

    strategy: Strategy
    rows: int
    """Of a micro-batch."""
    accumulation: int
    held: Held
    room: float
    """Bytes of a GPU that may be planned with."""
    pace: Pace

    @property
    def fits(self) -> bool:
        """Whether a GPU has memory for it."""
        return self.held.total <= self.room


# ---- from a recipe to a case ----


def case(request: Recipe, cluster: Cluster, given: Assumed) -> Case:
    """Settle a recipe as a run on the cluster would; nothing is measured here, and no weights are made.

    RequestError where it couldn't be one: parts that don't fit together, rows that so many GPUs can't share.
    """
    asked = request.training
    precision = cluster.gpu.numbers if asked.precision == "auto" else asked.precision
    if precision == "bf16" and cluster.gpu.numbers != "bf16":
        raise RequestError(f"training.precision: a {cluster.gpu.name} doesn't multiply bf16; use fp16 or fp32.")
    check_share(asked.global_batch_size, cluster)
    rows = None if asked.micro_batch_size == "auto" else asked.micro_batch_size
    stand_in = replace(  # of this machine nothing is asked: neither what fits nor what it is quick in
        asked, precision="bf16" if precision == "fp16" else precision, compile=False,
        micro_batch_size=1 if rows is None else rows)
    settled = settle(replace(request, training=stand_in), cluster.count, of_any_size=True)
    if precision == "fp16" and choices.overflows(settled.family):
        if asked.precision != "auto":
            raise RequestError("training.precision: T5's activations overflow in fp16; use bf16 or fp32.")
        precision = "fp32"
    sharding.check(replace(settled.recipe, training=replace(settled.recipe.training, precision=precision)),
                   cluster.count)
    return Case(settled, anatomy(settled), cluster, amounts(settled), given, precision, rows)


def check_share(rows: int, cluster: Cluster) -> None:
    """RequestError where a step's rows can't be shared evenly, with the numbers near it that can."""
    if rows % cluster.count:
        near = [count for count in (rows // cluster.count * cluster.count, -(-rows // cluster.count) * cluster.count)
                if count]
        raise RequestError(f"training.global_batch_size: {rows:,} rows can't be shared by {cluster.count:,} GPUs; make "
                           f"it {' or '.join(map(str, near))}, as --set training.global_batch_size={near[-1]}.")


def asked_for(recipe: Recipe, cluster: Cluster) -> Strategy:
    """How a recipe spreads its model: as `training.distributed` says, DDP where it says nothing."""
    if cluster.count == 1:
        return "one"
    said = recipes.tree_of(recipe)["training"].get("distributed") or {}
    if said.get("strategy") != "fsdp":
        return "ddp"
    copies = said.get("dp_replicate_size") or 1
    return "hybrid" if copies > 1 and cluster.machines > 1 else "fsdp"


# ---- ways ----


def ways(this: Case) -> list[Way]:
    """Every way in which the cluster could hold the model; one across machines only where there are several."""
    cluster = this.cluster
    possible = [strategy for strategy in STRATEGIES if strategy == "one" or cluster.count > 1]
    if cluster.machines == 1 or cluster.per_machine == 1:
        possible = [strategy for strategy in possible if strategy != "hybrid"]
    return [way(this, strategy) for strategy in possible]


def way(this: Case, strategy: Strategy) -> Way:
    """A recipe spread in one way, with the most rows at once that fit."""
    training, room = this.recipe.training, ROOM * this.cluster.gpu.memory
    share = training.global_batch_size // (1 if strategy == "one" else this.cluster.count)
    length = this.recipe.data.max_length or 128
    possible = sorted(choices.divisors(share, max(1, AT_ONCE // length)), reverse=True)
    if this.rows is not None:
        possible = [this.rows]
    rows = next((count for count in possible
                 if held(this.model, this.demand(count), strategy, this.cluster).total <= room), possible[-1])
    demand, accumulation = this.demand(rows), max(1, share // rows)
    return Way(strategy, rows, accumulation, held(this.model, demand, strategy, this.cluster), room, pace(
        this.model, demand, strategy, this.cluster, training.global_batch_size * this.amounts.length, accumulation,
        this.amounts.length, this.mfu, rate(this.cluster.gpu, this.precision, training.tf32)))


# ---- the whole run ----


def outlook(request: Recipe, cluster: Cluster, given: Assumed, now: datetime) -> dict[str, Any]:
    """All that a plan says of a cluster, as plain data: bytes, seconds, tokens; {"recipe", "cluster", "strategies" …}.

    Raises RequestError and DataError as a run would; GPUs too small for it are no error, but said.
    """
    from llmkit.planning.clusters.remedies import remedies, shards

    this = case(request, cluster, given)
    found = ways(this)
    wanted = given.strategy or asked_for(this.recipe, cluster)
    chosen = next((one for one in found if one.strategy == wanted), None)
    if chosen is None:
        there = ", ".join(one.strategy for one in found)
        raise RequestError(f"--strategy {wanted}: {cluster.words()} can't be used so; there is: {there}.")
    length = how_long(this, chosen.pace)
    checkpoint = checkpoints(this, length["steps"])
    seconds = times(this, chosen, length, checkpoint)
    return {
        **about(this), "strategy": chosen.strategy, "fits": chosen.fits, "length": length,
        "strategies": [{**strategy(one, length["tokens"]),
                        "available": one.strategy in WHOLE or shards(request, this.precision)} for one in found],
        "checkpoint": checkpoint, "time": seconds, "ends": ends(now, seconds["total"]),
        "cost": None if given.price is None else given.price * cluster.count * seconds["total"] / 3600,
        "remedies": [] if chosen.fits else remedies(request, this, chosen),
        "notes": notes(this, chosen, found, checkpoint), "warnings": warnings(this, chosen)}


def about(this: Case) -> dict[str, Any]:
    """What is planned, and what is assumed."""
    recipe, training, gpu = this.recipe, this.recipe.training, this.cluster.gpu
    return {
        "recipe": recipe.name, "learning": registry.name_of(recipe.learning), "tuning": registry.name_of(recipe.tuning),
        "backbone": str(recipe.backbone.pretrained or f"{recipe.backbone.family}-{recipe.backbone.size or 'default'}"),
        "optimizer": registry.name_of(recipe.rule), "precision": this.precision,
        "gradient_checkpointing": training.gradient_checkpointing, "global_batch_size": training.global_batch_size,
        "max_length": recipe.data.max_length, "packing": recipe.data.packing,
        "cluster": {"gpus": this.cluster.count, "machines": this.cluster.machines,
                    "gpus_per_machine": this.cluster.per_machine, **asdict(gpu)},
        "parameters": this.model.parameters, "trainable_parameters": this.model.trained,
        "active_parameters": this.model.parameters - this.model.idle,
        "flops_per_token": operations(this.model, this.amounts.length),
        "data": {"rows": round(this.amounts.train.rows), "tokens": round(this.amounts.train.tokens),
                 "validation_rows": round(this.amounts.validation.rows), "tokens_per_row": this.amounts.length,
                 "counted": this.amounts.exact},
        "assumed": {"mfu": this.mfu, "mfu_given": this.assumed.mfu is not None, "disk": this.assumed.disk,
                    "price": this.assumed.price, "memory_share": ROOM}}


def strategy(one: Way, tokens: float) -> dict[str, Any]:
    """A line of the table."""
    return {
        "strategy": one.strategy, "fits": one.fits, "micro_batch_size": one.rows, "accumulation": one.accumulation,
        "memory": {**asdict(one.held), "total": one.held.total, "room": one.room},
        "seconds_per_step": one.pace.seconds, "bound": one.pace.bound,
        "tokens_per_second": one.pace.tokens_per_second, "training_seconds": tokens / one.pace.tokens_per_second,
        "traffic": {**asdict(one.pace.traffic), "hides": one.pace.traffic.hides}}


def how_long(this: Case, step: Pace) -> dict[str, Any]:
    """Steps and tokens of the run; `exact` where the recipe alone says how many steps."""
    training, epoch = this.recipe.training, max(1.0, this.amounts.train.rows)
    by = next((name for name in recipes.LENGTHS if getattr(training, name) is not None), "num_train_epochs")
    if by == "max_steps":
        steps: float = training.max_steps or 1
    elif by == "max_tokens":
        steps = math.ceil((training.max_tokens or 1) / step.tokens)
    elif by == "max_minutes":
        steps = max(1, math.ceil(60 * (training.max_minutes or 0) / step.seconds))
    else:
        steps = max(1, math.ceil((training.num_train_epochs or 3) * epoch / training.global_batch_size))
    return {"ends_by": by, "steps": int(steps), "exact": by == "max_steps", "tokens_per_step": step.tokens,
            "tokens": steps * step.tokens, "epochs": steps * training.global_batch_size / epoch}


def checkpoints(this: Case, steps: int) -> dict[str, Any]:
    """Bytes of a checkpoint, how many are written and kept, and the seconds that one takes.

    What trains and what the optimizer keeps of it are in fp32: 12 bytes a parameter with Adam; and the best weights
    once more where the recipe asks for them. `copied` is what main memory has twice while one is written beside the
    steps; the last one isn't, for no step follows it.
    """
    training = this.recipe.training
    best = 1 if training.metric_for_best_model is not None else 0
    size = FULL * this.model.trained * (1 + this.recipe.rule.states + best)
    written = -(-steps // training.save_steps)
    model = FULL * this.model.parameters if this.recipe.tuning.trains_model else FULL * this.model.trained
    kept = min(written, training.save_total_limit)
    copied = size - FULL * this.model.trained * best if training.async_save and written > 1 else 0
    return {"bytes": size, "count": written, "kept": kept, "seconds": size / this.assumed.disk, "model": model,
            "disk": (kept + 1) * size + model, "copied": copied}


def times(this: Case, chosen: Way, length: dict[str, Any], checkpoint: dict[str, Any]) -> dict[str, float]:
    """Seconds of the run from its first step on: training, evaluations and checkpoints.

    An evaluation is a forward pass: a third of a step's operations. What a task writes in it isn't counted, nor is the
    copy of a checkpoint that is written while steps go on.
    """
    training = this.recipe.training
    trains = length["tokens"] / chosen.pace.tokens_per_second
    if length["ends_by"] == "max_minutes":
        trains = 60.0 * (training.max_minutes or 0)
    evaluations = 0
    if this.amounts.validation.rows:
        every = training.eval_steps or length["steps"]
        evaluations = 1 + -(-length["steps"] // every)
    held_out = this.amounts.validation.rows * this.amounts.length
    evaluating = evaluations * held_out / chosen.pace.tokens_per_second / 3
    waits = checkpoint["seconds"]
    if training.async_save:  # until the next one is due, steps go on
        waits = max(0.0, checkpoint["seconds"] - training.save_steps * chosen.pace.seconds)
    saving = (checkpoint["count"] - 1) * waits + checkpoint["seconds"]
    return {"training": trains, "evaluations": evaluating, "evaluation_count": evaluations, "checkpoints": saving,
            "total": trains + evaluating + saving}


def ends(now: datetime, seconds: float) -> str | None:
    """When a run ends that starts now, to the minute, in the zone of `now`; None where it takes more than a century."""
    return None if seconds > CENTURY else (now + timedelta(seconds=seconds)).isoformat(timespec="minutes")


# ---- what is to be said ----


def notes(this: Case, chosen: Way, found: Sequence[Way], checkpoint: Mapping[str, Any]) -> list[str]:
    """What was assumed or isn't counted, in words."""
    said = []
    recipe, network = this.recipe, this.cluster
    if this.assumed.mfu is None:
        less = (", three quarters of that where activations are computed again"
                if recipe.training.gradient_checkpointing else "")
        said.append(f"MFU {this.mfu:.0%} is assumed: Llama 3 405B had 38 to 43 % on H100s (Dubey et al. 2024), MPT of "
                    f"0.76 to 13 B 35 to 46 % (llm-foundry){less}; --mfu says another")
    if this.model.width < WIDE:
        said.append(f"a model {this.model.width} wide is smaller than all whose utilisation was published ({WIDE} and "
                    "more): it will reach less; plan without --on on one such GPU measures it")
    if not this.amounts.exact or recipe.training.max_steps is None:
        said.append("rows and tokens are estimated: a token is about four bytes of text")
    if network.machines > 1:
        said.append(f"between machines {network.gpu.network / 1e9:g} GB/s a GPU are reckoned with, inside "
                    f"{network.gpu.link / 1e9:g}; --bandwidth says another")
    if recipe.teacher is not None:
        said.append(f"the teacher {recipe.teacher.model} isn't counted: its weights and forward passes come on top")
    if type(recipe.learning).assemble is not Objective.assemble:
        said.append(f"{registry.name_of(recipe.learning)} trains a second network, which isn't counted")
    if recipe.task is not None and recipe.task.writes and this.amounts.validation.rows:
        said.append("what evaluations write isn't counted in their time")
    if checkpoint["copied"]:
        whose = "by the first process" if chosen.strategy in WHOLE else "by each process its part of that"
        said.append(f"async_save: {size(checkpoint['copied'])} of main memory are taken {whose}, for the copy "
                    "from which a checkpoint is written; the time to copy isn't counted")
    if chosen.pace.bound == "memory":
        said.append("a step is bound by the GPU's memory, not by its products: more rows a step would be nearly free")
    return said


def warnings(this: Case, chosen: Way) -> list[str]:
    """What stands in the way of the run."""
    said = []
    if not chosen.fits:
        said.append(f"{chosen.strategy}: {chosen.held.total / 1e9:,.1f} GB a GPU are needed, and "
                    f"{chosen.room / 1e9:,.1f} of a {this.cluster.gpu.name}'s {this.cluster.gpu.memory / 1e9:g} can be "
                    "planned with")
    if chosen.pace.traffic.exposed > 0.1 * chosen.pace.seconds:
        said.append(f"a step waits {chosen.pace.traffic.exposed / chosen.pace.seconds:.0%} of its time for other GPUs: "
                    "a larger global_batch_size, or a faster network, hides more")
    return said
