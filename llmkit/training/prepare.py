"""All that a run needs before its first step: tokenizer, rows, model, optimizer, and what a checkpoint had of these."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from llmkit import recipe as recipes
from llmkit.backbones.kernels import norms, shortcuts
from llmkit.backbones.kernels.compiling import compile_layers
from llmkit.backbones.kernels.frozen import Frozen, lowest
from llmkit.backbones.kernels.unpadded import unpad
from llmkit.backbones.shared.routers import Routers
from llmkit.data.batches import order_of
from llmkit.models import layout
from llmkit.models.quantizing import numbers_in
from llmkit.models.run import Run
from llmkit.objectives.base import Sets, Setup
from llmkit.planning import quantized
from llmkit.planning.choices import model_rate, usual_here
from llmkit.planning.network import Network, network
from llmkit.planning.settle import Settled, with_prompt
from llmkit.planning.unheeded import unheeded
from llmkit.planning.vocabulary import speak
from llmkit.recipe import registry
from llmkit.recipe.seams import Learning
from llmkit.system import machine
from llmkit.system.errors import RequestError, nearest
from llmkit.system.plural import are, many
from llmkit.system.signals import Stopping
from llmkit.system.terminal import visible
from llmkit.tasks.base import Encoded, Task
from llmkit.tasks.shared.figures import FLOOR_ROWS
from llmkit.training.callbacks import Callback
from llmkit.training.evaluate import refer_all
from llmkit.training.finish import under_way
from llmkit.training.folder.belonging import check_foundation, check_optimizer, data_of, foundation
from llmkit.training.folder.resume import kept, restored, tell_of_rounding
from llmkit.training.folder.run_folder import Checkpoint, RunFolder
from llmkit.training.learner import Learner
from llmkit.training.looking import collapse
from llmkit.training.optimizer import learned
from llmkit.training.schedule import Length, weights
from llmkit.training.session import Session
from llmkit.training.spread.agreeing import idle_gpus
from llmkit.training.spread.alike import check_data
from llmkit.training.spread.meeting import Meeting
from llmkit.training.spread.processes import shared, unheard
from llmkit.training.spread.ways import spread_of
from llmkit.training.state import State
from llmkit.training.teaching.kept import kept_answers
from llmkit.training.teaching.opening import open_tutor, pupil
from llmkit.training.teaching.pupil import Tutor
from llmkit.training.teaching.states import keep_states
from llmkit.tuning.base import Setting
from llmkit.tuning.shared.parts import below as below_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

FAR = 5
"""A rate that is so many times more or less than the usual one is worth a word."""


@dataclass(frozen=True)
class Material:
    """What a run learns from, before there is a model: all of it is read, tokenized and cached."""

    setup: Setup
    sets: Sets
    data: Mapping[str, str]
    """Fingerprints of the sources, by what the recipe calls them."""


def material(settled: Settled, meeting: Meeting) -> Material:
    """Read and tokenize what a run learns from, at whatever pace: the processes aren't connected yet.

    What is cached is made once on each machine, by the process that comes first; the others wait for it. DataError
    where a process reads other data than the first one, or where a file changes meanwhile.
    """
    check_data(meeting, settled.readers)  # from here on their files must stay as they are
    setup, sets = rows(settled)
    data = data_of(settled.readers)
    for reader in settled.readers:
        reader.unchanged()
    return Material(setup, sets, data)


def ready(
    settled: Settled, material: Material, meeting: Meeting, accelerator: Accelerator, run: RunFolder, stop: Stopping,
    began: float, start: Checkpoint | None = None, refers: bool = True, callbacks: Sequence[Callback] = (),
) -> Session:
    """All that a run needs before its first step: model, optimizer, and what `start` had of these.

    `began` is when the run began, on the monotonic clock. Caches are filled; in the run's folder nothing is written
    but the model that an adapter goes on, where no other folder holds it. `refers`: whether what may take long is done
    too, as a run needs it: the untuned model is asked about each row, where the task needs that, and a base is hashed.
    """
    recipe, spread = settled.recipe, spread_of(accelerator, settled.recipe.training)
    setup, sets, data = material.setup, material.sets, material.data
    below = shared(accelerator, lambda: foundation(settled, setup.tokenizer)) if refers else {}
    state = State()
    if start is not None:
        check_optimizer(start, recipe)
        state = restored(start, data, accelerator.num_processes)
        check_foundation(start, below, recipe)
        tell_of_rounding(start, recipe.training.shortcuts)
    torch.manual_seed(recipe.seed)
    learner = learn(settled, accelerator, sets, setup, run, below, refers)
    meeting.everyone("learner")  # one may have asked a teacher about all rows meanwhile
    wrapped, optimizer = spread.prepare(
        learner, lambda: recipe.rule.make(learned(learner, recipe.training, recipe.tuning)))
    best = None
    if start is not None:
        best = spread.load(start, learner, optimizer)
        recipe.tuning.restore(learner.tuned, kept(start))
    return Session(accelerator, spread, settled, run, sets, setup, learner, wrapped, optimizer, data, stop, state,
                   began - state.wall, best, callbacks, below)


def rows(settled: Settled) -> tuple[Setup, Sets]:
    """The tokenizer and all that rows are made with, and the rows."""
    recipe = settled.recipe
    setup = Setup(speak(settled), settled.family, recipe.data.max_length or 0, recipe.data.packing, recipe.seed,
                  metrics=tuple(recipe.training.metrics), shots=recipe.data.shots,
                  plain=recipe.data.control_tokens == "split")
    setup = with_prompt(setup, recipe.prompting, recipe.learning)
    sets = recipe.learning.prepare(settled.train, settled.validation, setup)
    labels = tuple(sets.facts["labels"]) if "labels" in sets.facts else None
    return replace(setup, labels=labels, problem=sets.facts.get("problem")), sets


def with_floors(sets: Sets, learning: Learning, setup: Setup) -> Sets:
    """The sets, and among their facts what the validation rows' metrics are without a language model."""
    if not isinstance(learning, Task) or not sets.validation:
        return sets
    learned, held = ([row for part in parts if isinstance(part, Encoded) for row in part.rows]
                     for parts in (sets.train, sets.validation))
    floors = learning.floors(learning.seen(learned[:FLOOR_ROWS], setup), learning.seen(held, setup))
    return replace(sets, facts={**sets.facts, "floors": floors})


def idles(settled: Settled) -> bool:
    """Whether some trained weights may have no part in a step's loss."""
    return bool(settled.recipe.learning.idle or (settled.recipe.task is not None and settled.family.idle))


def learn(
    settled: Settled, accelerator: Accelerator, sets: Sets, setup: Setup, run: RunFolder,
    below: Mapping[str, Any], refers: bool = True,
) -> Learner:
    """The model as the recipe wants it tuned, with its objective, and the teacher beside it where there is one."""
    recipe, tuning, tokenizer = settled.recipe, settled.recipe.tuning, setup.tokenizer
    net = network(settled, tokenizer, dict(sets.facts))
    if refers and accelerator.is_main_process:
        collapse.before_tuning(settled, net.model, sets.train)
    order = order_of(sets.train, weights(recipe), recipe.seed, recipe.data.shuffle)
    steps = Length(recipe.training, order.epoch_rows).steps
    if isinstance(recipe.learning, Task) and recipe.learning.reference and refers:
        untuned = Learner(net.model, recipe.learning, settled.family).to(accelerator.device)
        refer_all(accelerator, untuned, sets, setup, recipe.training, order, steps)
    if tuning.adapter and tuning.trains_model:  # its base isn't there before the run's end
        base: str | None = str((run.folder / layout.MODEL / layout.BASE).resolve())
    else:
        base = base_of(net, tokenizer, run, accelerator.is_main_process) if tuning.adapter else net.base
    if recipe.training.gradient_checkpointing:
        net.model.gradient_checkpointing_enable(  # type: ignore[no-untyped-call]
            gradient_checkpointing_kwargs={"use_reentrant": False})
    # layers that are computed anew in the backward pass wouldn't find the batch that they are of
    flat = shortcuts.on("unpadded") and not looked_into(recipe) and not recipe.training.cache_frozen
    way = recipe.backbone.attn_implementation
    unpadded = (flat and settled.family.unpads and not recipe.training.gradient_checkpointing
                and (way == "sdpa" or (way == "flash_attention_2" and recipe.data.packing != "documents")))
    setting = Setting(
        settled.family, settled.head, net.new, base or "", recipe.training.gradient_checkpointing, unpadded=unpadded,
        packed=recipe.data.packing == "documents" or recipe.learning.masks, steps=steps,
        epoch=order.epoch_rows / recipe.training.global_batch_size, tokenizer=tokenizer,
        learning_rate=recipe.training.learning_rate or 0.0, model_learning_rate=model_rate(recipe))
    tuned = tuning.apply(net.model, setting)
    unpadding = unpad(net.model, settled.family, bool(recipe.training.compile)) if unpadded else None
    compiled = compile_layers(net.model, settled.family, unpadding) if recipe.training.compile else None
    tutor = None
    if settled.teacher is not None:
        tutor = open_tutor(settled, settled.teacher, setup, accelerator.device, flat)
        if refers:
            seen = None if steps is None else steps * recipe.training.global_batch_size / order.epoch_rows
            kept_answers(settled, tutor, below["teacher"], sets, setup, accelerator, seen)
    learner = paced(settled, net.model, tuned, setting, tokenizer, tutor)
    learner.compiled = compiled
    if recipe.training.cache_frozen and refers:
        still = lowest(net.model, settled.family, below_layers(net.model, settled.family))
        learner.frozen = Frozen(still)
        keep_states(settled, learner.to(accelerator.device), learner.frozen, len(still), below["base"], sets, setup,
                    accelerator, order, steps)
    if not learner.trained:
        raise RequestError(f"tuning: {registry.name_of(tuning)} leaves nothing to train: no parameter has "
                           "requires_grad.")
    last = max(learner.wakes.values(), default=0)
    if accelerator.is_main_process and steps is not None and last >= steps:
        log.warning("the last part would begin to train after step %d; the run ends after step %d", last, steps)
    return learner


def base_of(net: Network, tokenizer: PreTrainedTokenizerBase, run: RunFolder, main: bool) -> str:
    """Where an adapter finds its base again; one that no folder holds is left in the run's own."""
    if net.base is not None:
        return net.base
    base = str((run.folder / layout.BASE).resolve())
    if main:
        run.check()
        net.model.save_pretrained(base)
        tokenizer.save_pretrained(base)
    return base


def looked_into(recipe: recipes.Recipe) -> bool:
    """Whether what layers give is compared with a teacher's: then they see rows as they are, padding included."""
    return recipe.teacher is not None and recipe.teacher.hidden is not None


def paced(
    settled: Settled, model: PreTrainedModel, tuned: PreTrainedModel, setting: Setting,
    tokenizer: PreTrainedTokenizerBase, tutor: Tutor | None = None,
) -> Learner:
    """The learner of a tuned model, with the rate of each parameter and the step from which it trains."""
    tuning, objective = settled.recipe.tuning, settled.recipe.learning
    rates, wakes = tuning.rates(tuned, setting), tuning.wakes(tuned, setting)
    tensors = dict(tuned.named_parameters())
    if unknown := [name for name in (*rates, *wakes) if name not in tensors]:
        raise RequestError(f"tuning: {registry.name_of(tuning)} has a rate or a first step for {unknown[0]!r}, and the "
                           f"tuned model has no such parameter.{nearest(unknown[0], [*tensors][:20])}")
    whole = assembled(settled, tuned, tokenizer)
    learner = (Learner(whole, objective, settled.family, setting.new) if tutor is None
               else pupil(settled, whole, model, setting.new, tutor))
    if shortcuts.on("fused_gelu"):
        shortcuts.fuse(learner)
    if shortcuts.on("fused_norms") and not settled.recipe.training.compile:  # a compiler fuses them itself
        norms.quicken(learner)
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    learner.rates = {names[id(tensors[name])]: rate for name, rate in rates.items()}
    learner.wakes = {names[id(tensors[name])]: step for name, step in wakes.items()}
    return learner


def assembled(settled: Settled, tuned: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """The model and the networks that learn beside it: those of the run that it goes on from, else new ones."""
    objective, base = settled.recipe.learning, settled.base
    if base is None:
        return objective.assemble(tuned, settled.family, tokenizer, None)
    run = Run.open(base.folder)
    # a run's other network may be a model to start from too; what is beside it isn't its partner
    origin = run.folder if run is not None and run.model.resolve() == base.folder.resolve() else None
    whole = objective.assemble(tuned, settled.family, tokenizer, origin)
    for name in objective.others(whole):
        there = origin / name if origin is not None and (origin / name).is_dir() else None
        log.info("%s: %s", name, f"starts from random weights, for {base.name} has none beside it" if there is None
                 else f"goes on from {there}")
    return whole


def announce(session: Session, start: Checkpoint | None) -> None:
    """What the main process does before the first step: look for room, say what will be done, and open the folder."""
    run, recipe = session.run, session.recipe
    run.free(session.objective.others(session.learner.model), recipe.training.figures)
    enough_room(run, session.learner, session.length, session.state, recipe)
    describe(session.settled, session.sets, session.learner, start)
    for said in unheeded(recipe, session.length.steps, session.accelerator.num_processes):
        log.warning("%s", said)
    list_bad_rows(session.settled, run)
    session.sets = with_floors(session.sets, recipe.learning, session.setup)
    session.earlier = Run(run.folder).ended
    session.resumed = resumed(run, start)
    under_way(session)  # first: a summary that says `completed` is of the recipe and of the model that stand there
    if not session.over and run.model.is_dir():
        run.set_aside()
        log.info("model/ stands as %s/ until the new one is there", layout.BEFORE)
    run.rewind(session.state.step if start is not None else -1, session.state.due)
    run.write_recipe(recipe)


def resumed(run: RunFolder, start: Checkpoint | None) -> list[dict[str, Any]]:
    """After which steps the folder's run went on, and when, this time among them; [{"step": 500, "at": …}]."""
    if start is None:
        return []
    said = Run(run.folder).readable.get("resumed")
    before = [one for one in said if isinstance(one, dict) and isinstance(one.get("step"), int) and (
        one["step"] <= start.step)] if isinstance(said, list) else []
    return [*before, {"step": start.step, "at": datetime.now(UTC).isoformat(timespec="seconds")}]


def enough_room(
    run: RunFolder, learner: Learner, length: Length, state: State, recipe: recipes.Recipe,
) -> None:
    """PlaceError where the disk can't hold the checkpoints that are to come, and the model."""
    plan, adapter = recipe.training, recipe.tuning.adapter
    trained = sum(p.numel() * p.element_size() for p in learner.trained.values())
    whole = trained if adapter else sum(p.numel() * p.element_size() for p in learner.parameters())
    best = 0 if plan.metric_for_best_model is None else 1
    size = int(trained * (1 + recipe.rule.states + best))  # with what the optimizer keeps, and the best weights
    saves = None if length.steps is None else math.ceil((length.steps - state.step) / plan.save_steps)
    run.room(size, whole, saves, plan.save_total_limit)


def list_bad_rows(settled: Settled, run: RunFolder) -> None:
    """Say how many rows were left out, and list all of them in bad_rows.txt."""
    bad = [what for reader in settled.readers for what in reader.bad]
    if bad:
        log.warning("%s %s left out, and listed in %s; the first: %s", many(len(bad), "bad row"), are(len(bad)),
                    run.folder / layout.BAD_ROWS, bad[0])
        run.write(layout.BAD_ROWS, "".join(f"{visible(what)}\n" for what in bad))


def describe(settled: Settled, sets: Sets, learner: Learner, start: Checkpoint | None) -> None:
    """Say what became of every `auto`, how big the model is, and what it learns from."""
    recipe, plan = settled.recipe, settled.recipe.training
    whole = numbers_in(learner.parameters())
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    log.info("%s: %s with %s, %s of %s parameters train%s", recipe.name, registry.name_of(recipe.learning),
             registry.name_of(recipe.tuning), f"{trained:,}", f"{whole:,}",
             f" ({recipe.tuning.describe()})" if recipe.tuning.describe() else "")
    for said in routed(learner, recipe):
        log.info("%s", said)
    log.info("%s", moved(settled, learner))
    if base := quantized.in_words(settled.size, recipe.backbone):
        log.info("%s", base)
    for note in (*(note for reader in settled.readers for note in reader.notes), *sets.notes):
        log.info("%s", note)
    log.info("packing %s, rows of %s tokens, %s a step in micro-batches of %s, %s", recipe.data.packing,
             recipe.data.max_length, many(plan.global_batch_size, "row"), plan.micro_batch_size, plan.precision)
    for name, why in settled.chosen.items():
        log.info("%s %s: %s", name, str(getattr(plan, name)).lower(), why)
    for said in (idle_gpus(), machine.unused_device(), *unheard(plan.precision)):
        if said:
            log.warning("%s", said)
    if start is not None:
        log.info("resumed after step %d", start.step)


def routed(learner: Learner, recipe: recipes.Recipe) -> Iterator[str]:
    """What there is to say of a mixture of experts."""
    routers = learner.routers
    if routers is None:
        if Routers.of(recipe.learning.kept(learner.model)) is not None:
            yield (f"experts: {registry.name_of(recipe.learning)} is learned without the load-balancing loss of the "
                   "routers, and their loads aren't counted")
        return
    whole = sum(parameter.numel() for parameter in learner.parameters())
    yield f"experts: {routers.describe()}; {whole - routers.idle(learner):,} parameters at work for a token"
    still = [parameter for parameter in routers.tables(learner).values() if not parameter.requires_grad]
    if still:
        yield (f"experts: {registry.name_of(recipe.tuning)} leaves {sum(p.numel() for p in still):,} parameters of the "
               "experts as they are")


def moved(settled: Settled, learner: Learner) -> str:
    """`optimizer adamw_rms, learning rate 0.02: the usual one of a t5 from scratch`."""
    recipe = settled.recipe
    rate, usual = recipe.training.learning_rate or 0.0, usual_here(recipe)
    how = recipe.rule.describe(learned(learner, recipe.training, recipe.tuning))
    far = f"; its usual rate here is {usual:g}" if not usual / FAR < rate < usual * FAR else ""
    if recipe.tuning.adapter and recipe.tuning.trains_model:
        far += f"; the model's own weights at {rate * min(learner.rates.values(), default=1.0):g}"
    return (f"optimizer {registry.name_of(recipe.rule)}{f' ({how})' if how else ''}, learning rate {rate:g}"
            f"{f': {settled.moved_by}' if settled.moved_by else ''}{far}")
