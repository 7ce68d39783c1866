"""Before a run: every `auto` becomes a value, and what can't work is refused before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmkit import models, recipe
from llmkit.backbones.base import Family
from llmkit.backbones.kernels import liger
from llmkit.data.sources import Reader, open_source
from llmkit.data.swapping.pairs import read_swaps
from llmkit.models.base import Base
from llmkit.models.families import family_named, family_of
from llmkit.objectives.base import Setup
from llmkit.objectives.shared import text_head
from llmkit.planning import attention, choices, known_sets, quantized, sharding
from llmkit.planning.choices import Size
from llmkit.planning.cutting import fewer
from llmkit.planning.teaching import teacher_of
from llmkit.prompting.base import Around, Kit
from llmkit.recipe import Recipe, registry
from llmkit.recipe.seams import Learning, PromptMode
from llmkit.system import machine
from llmkit.system.environment import switched_on
from llmkit.system.errors import NothingThereError, RequestError, nearest
from llmkit.tasks.base import Task
from llmkit.tasks.classification import Classification
from llmkit.tasks.shared import named_metrics
from llmkit.tuning.base import Setting

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger("llmkit")

MANY = 10_000
"""Files of a source from which on it is said how many there are: to open them takes longer than to read them."""
SCHEDULES_WITHOUT_END = ("constant", "constant_with_warmup", "inverse_sqrt")


@dataclass(frozen=True)
class Settled:
    """A recipe in which nothing is left open, and what it was settled with."""

    recipe: Recipe
    family: type[Family]
    train: Sequence[Reader]
    validation: Sequence[Reader] | float | None
    base: Base | None
    """The pretrained model that it starts from."""
    size: Size
    """What the model takes, by its config."""
    chosen: Mapping[str, str]
    """Of the training fields that were auto: why they became what they are."""
    teacher: Base | None = None
    """The model that it learns from, beside the labels."""
    moved_by: str = ""
    """Why the optimizer is the one that it is, where the recipe names none."""
    idle: int = 0
    """Parameters that aren't at work for a token: of the experts that it doesn't go through."""

    @property
    def head(self) -> str:
        """The auto class of the model."""
        return self.recipe.learning.head_for(self.family)

    @property
    def readers(self) -> list[Reader]:
        """All sources of the run."""
        return [*self.train, *(self.validation if isinstance(self.validation, Sequence) else [])]


def settle(
    request: Recipe, processes: int = 1, of_any_size: bool = False, memory: Mapping[str, Reader] | None = None,
) -> Settled:
    """Fill in every `auto` of a recipe for this machine and number of processes.

    `memory` has the sources that are rows of the program that calls, by what the recipe calls them.

    Raises RequestError where parts don't fit together, or where the weights alone are more than the machine's memory,
    but for `of_any_size`; DataError where a source isn't there.
    """
    from llmkit.backbones.shared.routers import Routers

    request, moved_by = recipe.with_optimizer(prompted(request))
    request.rule.check()
    tables = reads_tables(request.learning)
    train = _opened(request.data, request.data.train, memory or {}, tables, "data.train")  # told before a download
    train = swapping(train, request.data.augment)
    request = known_sets.suited(request, train)
    validation: Any = request.data.validation
    if isinstance(validation, list):
        validation = _opened(request.data, validation, memory or {}, tables, "data.validation")
    base = _base(request.backbone)
    quantized.check_base(request, base)
    name, family = _family(request, base)
    request = replace(request, backbone=replace(request.backbone, config=family.numbers(request.backbone.config)))
    config = _config(family, request.backbone, base)
    empty = _empty(request, family, config)
    routers = Routers.of(empty)
    if base is None and not of_any_size:
        _fits_memory(empty)
    size = choices.size(
        empty, family, _words(request), "chunked_loss" in request.training.shortcuts, request.rule.states)
    size = quantized.sized(size, empty, family, request.backbone)
    if not of_any_size:
        _fits_gpu(request, size)
    choices.check_frozen(request, family, base is not None)
    request.tuning.check_parts(lambda: empty, Setting(family, request.learning.head_for(family)))
    length = _length(request, family, name, family.position_limit(config))
    training, chosen = _training(
        request, family, size, length, processes, sum(one.size for one in train), routers is not None)
    packing = _packing(request, family, name)
    backbone = quantized.settled(replace(
        request.backbone, family=name,
        attn_implementation=attention.settled(request, family, empty, packing, training.precision)), training.precision)
    _known_schedule(training)
    _known_metrics(request)
    settled = replace(
        request, objective=None if request.objective is None else request.objective.suited(train),
        tokenizer=_tokenizer(request.tokenizer, family), backbone=backbone,
        data=replace(request.data, max_length=length, packing=packing,
                     document=_document(request.data, train)),
        training=training, output_dir=str(request.folder))
    sharding.check(settled, processes)
    teacher = None if request.teacher is None else teacher_of(settled, request.teacher, family)
    return Settled(settled, family, train, validation, base, size, chosen, teacher, moved_by,
                   0 if routers is None else routers.idle(empty))


# ---- what there is to learn from ----


def _opened(
    data: recipe.Data, sources: Sequence[recipe.Source], memory: Mapping[str, Reader], tables: bool, at: str,
) -> list[Reader]:
    spares = data.on_bad_row == "skip"

    def opened(number: int, source: recipe.Source) -> Reader:
        if source.source in memory:
            return replace(memory[source.source], spares=spares, num_proc=data.num_proc)
        field: tuple[str | int, ...] = (*at.split("."), *([number] if len(sources) > 1 else []))
        try:
            reader = open_source(source, data.document, spares, tables=tables, at=".".join(map(str, field)))
        except NothingThereError as error:
            raise type(error)(error.message, field) from error
        if len(reader.files) >= MANY:
            log.info("%s: %s files, %s: each is opened and hashed before it is read, which takes a while", reader.label,
                     f"{len(reader.files):,}", machine.size(reader.size))
        return replace(reader, num_proc=data.num_proc)

    return [opened(number, source) for number, source in enumerate(sources)]


def swapping(train: Sequence[Reader], block: recipe.Augment | None) -> list[Reader]:
    """Training sources whose words are swapped as the recipe says; as they are where it says nothing of it."""
    if block is None:
        return list(train)
    swaps = read_swaps(block.swap, block.mode)
    return [replace(reader, swaps=swaps) for reader in train]


def reads_tables(learning: Learning) -> bool:
    """Whether a text file that is a table is read as one: by a task that has no form of its own for text files."""
    return isinstance(learning, Task) and learning.tables


def _document(data: recipe.Data, train: Sequence[Reader]) -> Any:
    """How text is cut into documents: as all sources are, where they agree."""
    cuts = {reader.document for reader in train if reader.document is not None}
    return cuts.pop() if len(cuts) == 1 and cuts <= {"line", "paragraph", "file"} else data.document


def _packing(request: Recipe, family: type[Family], name: str) -> Any:
    packing, can = request.data.packing, request.learning.packings
    if packing == "auto":
        return next(way for way in can
                    if way != "documents" or (not family.mixes and request.tuning.packs(family)
                                              and attention.keeps_apart(request.backbone.attn_implementation, family)))
    if packing not in can:
        raise RequestError(f"data.packing: {registry.name_of(request.learning)} makes its own rows; it can't do "
                           f"{packing!r}, only {' or '.join(can)}.")
    if packing == "documents" and family.mixes:
        raise RequestError(f"data.packing: {name} can't keep documents in a row apart: {family.mixes}; use blocks or "
                           "none.")
    if packing == "documents" and not request.tuning.packs(family):
        raise RequestError(f"data.packing: with {registry.name_of(request.tuning)}, documents that share a row of a "
                           f"{name} would share what is learned between them; use blocks or none.")
    return packing


def _tokenizer(tokenizer: recipe.Tokenizer | None, family: type[Family]) -> recipe.Tokenizer | None:
    """The tokenizer that is to be trained, with its kind and case; one from elsewhere as it is."""
    if tokenizer is None or tokenizer.train is None:
        return tokenizer
    kind: Any = tokenizer.train.kind or family.tokenizer
    lower = kind == "wordpiece" if tokenizer.train.lowercase is None else tokenizer.train.lowercase
    return replace(tokenizer, train=replace(tokenizer.train, kind=kind, lowercase=lower))


# ---- the model, before it is made ----


def _base(spec: recipe.Backbone) -> Base | None:
    """The pretrained model that a run starts from, with its weights where they belong."""
    if spec.pretrained is None:
        return None
    base = Base.open(spec.pretrained, spec.revision)
    if base.commit is not None:
        log.info("backbone.pretrained %s: commit %s", spec.pretrained, base.commit)
    if base.is_adapter:
        raise RequestError(f"backbone.pretrained: {spec.pretrained} holds an adapter, not a model; name the model "
                           f"that it was trained on, which is {base.below.folder}.")
    base.check_weights()
    return base


def _family(request: Recipe, base: Base | None) -> tuple[str, type[Family]]:
    """(name, family) of a recipe; RequestError where it can't do what is to be learned, or be tuned so."""
    spec = request.backbone
    name = family_of(base) if spec.family is None and base is not None else str(spec.family)
    family = family_named(name, base)
    recipe.fit_together(request.learning, name, family)
    recipe.check_whole(request.learning, request.tuning, "tuning")
    head = request.learning.head_for(family)
    family.check_config(spec.config)
    if isinstance(request.task, Classification):
        text_head.check(family, request.task.pooling, spec.config)
    request.tuning.check(family, head)
    return name, family


def _config(family: type[Family], spec: recipe.Backbone, base: Base | None) -> PretrainedConfig:
    from transformers import AutoConfig

    if base is not None:
        config = base.config(**spec.config)
        if spec.layers is not None:
            config = fewer(config, family, spec.layers)
        if config.model_type != family.model_type:
            raise RequestError(f"backbone.family: {base.folder} is a {config.model_type}, not a {family.model_type}.")
        return config
    sizes = family.sizes[spec.size] if spec.size is not None else {}
    return AutoConfig.for_model(family.model_type, **{**sizes, **spec.config})


def _empty(request: Recipe, family: type[Family], config: PretrainedConfig) -> PreTrainedModel:
    """The model without weights; RequestError where none can be made of its config."""
    import torch
    import transformers

    head = request.learning.head_for(family)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = getattr(transformers, head).from_config(config, trust_remote_code=False)
    except models.UNREADABLE as error:
        raise RequestError(f"backbone.config: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    return model


def weightless(settled: Settled, vocabulary: int | None = None) -> PreTrainedModel:
    """The model of a settled recipe on torch's meta device: all its shapes, and no numbers.

    `vocabulary` is that of a tokenizer from elsewhere; one that is to be trained has as many tokens as it is asked for.
    """
    recipe, count = settled.recipe, _words(settled.recipe) or vocabulary
    if count is not None and settled.base is None:
        ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)  # the usual ones may be beyond it
        config = {"vocab_size": count, **ids, **recipe.backbone.config}
        recipe = replace(recipe, backbone=replace(recipe.backbone, config=config))
    return _empty(recipe, settled.family, _config(settled.family, recipe.backbone, settled.base))


def _fits_memory(model: PreTrainedModel) -> None:
    """RequestError where a model without weights would need more memory for them than the machine has."""
    needed = sum(tensor.numel() * max(4, tensor.element_size()) for tensor in (*model.parameters(), *model.buffers()))
    has = machine.main_memory()
    if needed > has:
        raise RequestError(f"backbone: the weights of this model alone take {machine.size(needed)}; this machine has "
                           f"{machine.size(has)} of memory. Choose a smaller backbone.size or backbone.config.")


def _fits_gpu(request: Recipe, size: Size) -> None:
    """RequestError where what stays in a GPU's memory all the time is more than it has; LLMKIT_ANY_SIZE=1 tries it."""
    has = machine.gpu_memory()
    needed = size.state if request.tuning.whole else size.weights
    if has is None or needed <= has or switched_on("LLMKIT_ANY_SIZE"):
        return
    parts = "weights, gradients and optimizer" if request.tuning.whole else "the weights"
    raise RequestError(f"backbone: {parts} of this model alone take {machine.size(needed)}, and this GPU has "
                       f"{machine.size(has)}. {_smaller(request, size, has)} LLMKIT_ANY_SIZE=1 tries it as it is.")


def _smaller(request: Recipe, size: Size, has: int) -> str:
    """What of the same model would fit into so many bytes: `tuning: {method: lora} takes 5 GB.`"""
    ways = list[tuple[str, int]]()
    pretrained = request.backbone.pretrained is not None
    if request.tuning.whole:
        ways.append(("optimizer: adamw_8bit", int(size.state - 4 * (request.rule.states - 0.51) * size.parameters)))
        if pretrained:
            ways.append(("tuning: {method: lora}", 4 * size.parameters))
    if pretrained and size.quantized is None:
        quarter = size.parameters * 5 // 8  # 4 bits, with their scales
        ways.append(("lora over backbone.quantization_config: {load_in_4bit: true}", quarter))
    fit = [f"{way} takes about {machine.size(takes)}" for way, takes in ways if takes <= 0.9 * has]
    return f"{', '.join(fit)}." if fit else "Choose a smaller model."


def _words(request: Recipe) -> int | None:
    """How many tokens a tokenizer that isn't there yet is asked to have."""
    new = request.tokenizer is not None and request.tokenizer.train is not None and request.backbone.pretrained is None
    return request.tokenizer.train.vocab_size if new else None  # type: ignore[union-attr]


def _length(request: Recipe, family: type[Family], name: str, limit: int | None) -> int:
    """Tokens of a row; RequestError where the model's positions, without the virtual tokens, are fewer."""
    virtual = request.tuning.virtual_tokens
    if limit is not None and limit - virtual < 2:
        raise RequestError(
            f"tuning: {virtual} virtual tokens leave no room for a text in the {limit} positions of this {name}; use "
            "fewer." if virtual else
            f"backbone.config.{family.positions}: {limit} positions leave no room for a text; make them more.")
    length = request.data.max_length or min(128, (limit or 128) - virtual)
    if limit is not None and length + virtual > limit:
        with_virtual = f" and {virtual} virtual tokens" if virtual else ""
        raise RequestError(f"data.max_length: {length} tokens{with_virtual} need more than the {limit} positions of "
                           f"this {name}; make it {limit - virtual} or less, or set "
                           f"backbone.config.{family.positions}.")
    return length


# ---- how it is trained ----


def _training(
    request: Recipe, family: type[Family], size: Size, length: int, processes: int, text: int = 0,
    experts: bool = False,
) -> tuple[recipe.Training, dict[str, str]]:
    """(what training becomes, and of what was auto the reasons); RequestError where this machine can't have it."""
    plan, chosen = request.training, dict[str, str]()
    recipe.check_processes(plan, processes)
    share = plan.global_batch_size // processes
    micro, precision, compiled = plan.micro_batch_size, plan.precision, plan.compile
    if micro == "auto":
        micro, chosen["micro_batch_size"] = choices.micro_batch_size(
            share, length, size, not request.tuning.trains_model, machine.memory_each())
    elif share % micro:
        raise RequestError(f"training.micro_batch_size: {micro} does not divide the {share} rows of each process "
                           f"(global_batch_size {plan.global_batch_size}, {processes} processes).")
    if precision == "auto":
        precision, chosen["precision"] = choices.precision(size.width, family)
    choices.check_precision(precision, family)
    if compiled == "auto" and request.teacher is not None and request.teacher.hidden is not None:
        compiled, chosen["compile"] = False, "layers are looked into, as teacher.hidden asks"
    if compiled == "auto" and plan.cache_frozen:
        compiled, chosen["compile"] = False, "layers are passed over, as cache_frozen asks"
    if compiled == "auto":
        compiled, chosen["compile"] = choices.compiled(plan, family, text, experts)
        if compiled and request.backbone.quantization_config is not None:
            compiled, chosen["compile"] = False, quantized.UNCOMPILED
    workers = plan.dataloader_num_workers
    if workers == "auto":
        workers, why = choices.workers()
        chosen |= {"dataloader_num_workers": why} if workers else {}
    liger.check(plan)
    quantized.check_compiled(compiled, request.backbone)
    choices.check_compiled(compiled, family, experts)
    return replace(plan, micro_batch_size=micro, precision=precision, compile=compiled, dataloader_num_workers=workers,
                   learning_rate=choices.usual_rate(request), head_learning_rate=choices.head_rate(request),
                   metric_for_best_model=plan.metric_for_best_model or choices.best(request)), chosen


def _known_schedule(training: recipe.Training) -> None:
    from transformers import SchedulerType

    known = [kind.value for kind in SchedulerType if kind.value not in ("reduce_lr_on_plateau", "greedy")]
    if training.lr_scheduler_type not in known:
        raise RequestError(f"training.lr_scheduler_type: no schedule is called {training.lr_scheduler_type!r}."
                           f"{nearest(training.lr_scheduler_type, known)}")


def _known_metrics(request: Recipe) -> None:
    """Raise RequestError where a metric isn't there, or there is no task for it."""
    for metric in request.training.metrics:
        if request.task is None:
            raise RequestError("training.metrics: an objective predicts no answers; these metrics are of tasks.")
        named_metrics.metric(metric)


# ---- prompts ----


def prompted(request: Recipe) -> Recipe:
    """A recipe whose prompt is written out: its examples in it, its task turned round where it asks for the input."""
    mode, task = request.prompting, request.task
    if mode is None:
        return request
    if mode.untrained:
        raise RequestError(f"prompting: {mode.untrained}.")
    if mode.turns and task is not None:
        task = task.turned_round()
    return replace(request, task=task, prompting=mode.settled(Kit(None)))


def with_prompt(setup: Setup, mode: PromptMode | None, task: Learning) -> Setup:
    """A setup whose texts stand in a recipe's prompt, as long as the task has room for."""
    if mode is None:
        return setup
    assert isinstance(task, Task)  # the recipe was checked for it
    # only a decoder that goes on with plain text has to be told where its answer starts
    goes_on = task.writes and setup.tokenizer.chat_template is None
    kit = Kit(setup.tokenizer, setup.family.shape if goes_on else "encoder", room=task.room(setup), cuts=True)
    return replace(setup, prompt=Around(mode, kit))
