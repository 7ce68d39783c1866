"""Before a run: every `auto` becomes a value, and what can't work is refused before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import models, recipe
from llmkit.backbones.base import Family
from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import Reader, open_source
from llmkit.models import layout
from llmkit.objectives.base import Setup
from llmkit.planning import choices
from llmkit.planning.choices import Size
from llmkit.prompting.base import Around, Kit
from llmkit.recipe import Recipe, registry
from llmkit.recipe.seams import Learning, PromptMode
from llmkit.system import machine
from llmkit.system.errors import RequestError, nearest
from llmkit.tasks.base import Task
from llmkit.tasks.shared import named_metrics
from llmkit.tuning.base import Setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

SCHEDULES_WITHOUT_END = ("constant", "constant_with_warmup", "inverse_sqrt")


@dataclass(frozen=True)
class Settled:
    """A recipe in which nothing is left open, and what it was settled with."""

    recipe: Recipe
    family: type[Family]
    train: Sequence[Reader]
    validation: Sequence[Reader] | float | None
    base: Path | None
    """The pretrained model's folder."""
    size: Size
    """What the model takes, by its config."""
    chosen: Mapping[str, str]
    """Of the training fields that were auto: why they became what they are."""

    @property
    def head(self) -> str:
        """The auto class of the model."""
        return self.recipe.learning.head_for(self.family)

    @property
    def readers(self) -> list[Reader]:
        """All sources of the run."""
        return [*self.train, *(self.validation if isinstance(self.validation, Sequence) else [])]


def settle(asked: Recipe, processes: int = 1, of_any_size: bool = False) -> Settled:
    """Fill in every `auto` of a recipe for this machine and number of processes.

    Raises RequestError where parts don't fit together, or where the weights alone are more than the machine's memory,
    but for `of_any_size`; DataError where a source isn't there.
    """
    asked = prompted(asked)
    spec, training = asked.backbone, asked.training
    # sources first: a missing file is told before a model is downloaded
    how, held = (asked.data.document, asked.data.on_bad_row == "skip"), asked.data.validation
    train = [open_source(source, *how) for source in asked.data.train]
    validation = [open_source(source, *how) for source in held] if isinstance(held, list) else held
    base = None if spec.pretrained is None else models.resolve(spec.pretrained)
    if base is not None and (base / layout.ADAPTER).is_file():
        raise RequestError(f"backbone.pretrained: {spec.pretrained} holds an adapter, not a model; "
                           "name the model that it was trained on.")
    if base is not None:
        models.check_weights(base)
    name = family_of(base) if spec.family is None and base is not None else str(spec.family)
    family = family_named(name, base)
    recipe.fit_together(asked.learning, name, family)
    if not asked.learning.adapters and not asked.tuning.whole:
        raise RequestError(f"tuning: {registry.name_of(asked.learning)} trains two networks whole; it takes full.")
    head = asked.learning.head_for(family)
    family.check_config(spec.config)
    asked.tuning.check(family, head)
    config = _config(family, spec, base)
    empty = _built(config, head)
    if base is None and not of_any_size:
        _fits_memory(empty)
    size = choices.size(empty, family, _words(asked), "chunked_loss" in training.shortcuts)
    asked.tuning.check_parts(lambda: empty, Setting(family, head))
    limit, virtual = family.position_limit(config), asked.tuning.virtual_tokens
    if limit is not None and limit - virtual < 2:
        raise RequestError(
            f"tuning: {virtual} virtual tokens leave no room for a text in the {limit} positions of this {name}; use "
            "fewer." if virtual else
            f"backbone.config.{family.positions}: {limit} positions leave no room for a text; make them more.")
    length = asked.data.max_length or min(128, (limit or 128) - virtual)
    if limit is not None and length + virtual > limit:
        with_virtual = f" and {virtual} virtual tokens" if virtual else ""
        raise RequestError(f"data.max_length: {length} tokens{with_virtual} need more than the {limit} positions of "
                           f"this {name}; make it {limit - virtual} or less, or set "
                           f"backbone.config.{family.positions}.")
    if training.global_batch_size % processes:
        raise RequestError(f"training.global_batch_size: {training.global_batch_size} can't be shared by {processes} "
                           "processes.")
    share, chosen = training.global_batch_size // processes, {}
    micro, precision, compiled = training.micro_batch_size, training.precision, training.compile
    if micro == "auto":
        micro, chosen["micro_batch_size"] = choices.micro_batch_size(
            share, length, size, asked.tuning.adapter, machine.memory_each())
    elif share % micro:
        raise RequestError(f"training.micro_batch_size: {micro} does not divide the {share} rows of each process "
                           f"(global_batch_size {training.global_batch_size}, {processes} processes).")
    if precision == "auto":
        precision, chosen["precision"] = choices.precision(size.width)
    choices.check_precision(precision, family)
    if compiled == "auto":
        compiled, chosen["compile"] = choices.compiled(training, family)
    choices.check_compiled(compiled, family)
    _schedule(training)
    for metric in training.metrics:
        if asked.task is None:
            raise RequestError("training.metrics: an objective predicts no answers; these metrics are of tasks.")
        named_metrics.metric(metric)
    cuts = {reader.document for reader in train if reader.document is not None}
    document: Any = cuts.pop() if len(cuts) == 1 and cuts <= {"line", "paragraph", "file"} else asked.data.document
    spoken = asked.tokenizer
    if spoken is not None and spoken.train is not None:
        kind: Any = spoken.train.kind or family.tokenizer
        lower = kind == "wordpiece" if spoken.train.lowercase is None else spoken.train.lowercase
        spoken = replace(spoken, train=replace(spoken.train, kind=kind, lowercase=lower))
    done = replace(
        asked, tokenizer=spoken, backbone=replace(spec, family=name),
        data=replace(asked.data, max_length=length, packing=_packing(asked, family, name), document=document),
        training=replace(training, micro_batch_size=micro, precision=precision, compile=compiled,
                         learning_rate=usual_rate(asked), head_learning_rate=_head_rate(asked),
                         metric_for_best_model=training.metric_for_best_model or _best(asked)),
        output_dir=str(asked.folder))
    return Settled(done, family, train, validation, base, size, chosen)


def prompted(asked: Recipe) -> Recipe:
    """A recipe whose prompt is written out: its examples in it, its task turned round where it asks for the input."""
    mode, task = asked.prompting, asked.task
    if mode is None:
        return asked
    if mode.untrained:
        raise RequestError(f"prompting: {mode.untrained}.")
    if mode.turns and task is not None:
        task = task.turned_round()
    return replace(asked, task=task, prompting=mode.settled(Kit(None)))


def with_prompt(setup: Setup, mode: PromptMode | None, task: Learning) -> Setup:
    """A setup whose texts stand in a recipe's prompt, as long as the task has room for."""
    if mode is None:
        return setup
    assert isinstance(task, Task)  # the recipe was checked for it
    # only a decoder that goes on with plain text has to be told where its answer starts
    goes_on = task.writes and setup.tokenizer.chat_template is None
    kit = Kit(setup.tokenizer, setup.family.shape if goes_on else "encoder", room=task.room(setup), cuts=True)
    return replace(setup, prompt=Around(mode, kit))


def family_of(base: Path) -> str:
    """Which family a pretrained model is of, by its config's model_type."""
    kind = models.read_json(base / "config.json").get("model_type")
    known = {registry.find("backbones", name).model_type: name for name in registry.names("backbones")}
    if kind not in known:
        raise RequestError(f"backbone.family: the model in {base} is a {kind!r}, which llmkit has no file for; "
                           "say family: auto to read what is needed from its config.")
    return known[kind]


def family_named(name: str, base: Path | None) -> type[Family]:
    """A family by its name; auto is what the pretrained model's config makes of it."""
    family: type[Family] = registry.find("backbones", name)
    if name != "auto":
        return family
    assert base is not None  # the recipe was checked for it
    made: type[Family] = family.like(models.config_of(base))  # type: ignore[attr-defined]
    return made


def _config(family: type[Family], spec: recipe.Backbone, base: Path | None) -> PretrainedConfig:
    from transformers import AutoConfig

    if base is not None:
        config = models.config_of(base, **spec.config)
        if config.model_type != family.model_type:
            raise RequestError(f"backbone.family: {base} is a {config.model_type}, not a {family.model_type}.")
        return config
    sizes = family.sizes[spec.size] if spec.size is not None else {}
    return AutoConfig.for_model(family.model_type, **{**sizes, **spec.config})


def _words(asked: Recipe) -> int | None:
    """How many tokens a tokenizer that isn't there yet is asked to have."""
    new = asked.tokenizer is not None and asked.tokenizer.train is not None and asked.backbone.pretrained is None
    return asked.tokenizer.train.vocab_size if new else None  # type: ignore[union-attr]


def _built(config: PretrainedConfig, head: str) -> PreTrainedModel:
    """A model without weights; RequestError where none can be made of a config."""
    import torch
    import transformers

    try:
        with torch.device("meta"):
            model: PreTrainedModel = getattr(transformers, head).from_config(config, trust_remote_code=False)
    except models.UNREADABLE as error:
        raise RequestError(f"backbone.config: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    return model


def _fits_memory(model: PreTrainedModel) -> None:
    """RequestError where a model without weights would need more memory for them than the machine has."""
    needed = sum(tensor.numel() * max(4, tensor.element_size()) for tensor in (*model.parameters(), *model.buffers()))
    has = machine.main_memory()
    if needed > has:
        raise RequestError(f"backbone: the weights of this model alone take {machine.size(needed)}; this machine has "
                           f"{machine.size(has)} of memory. Choose a smaller backbone.size or backbone.config.")


def _packing(asked: Recipe, family: type[Family], name: str) -> Any:
    packing, can = asked.data.packing, asked.learning.packings
    if packing == "auto":
        return next(way for way in can
                    if way != "documents" or (not family.mixes and asked.tuning.packs(family)))
    if packing not in can:
        raise RequestError(f"data.packing: {registry.name_of(asked.learning)} makes its own rows; it can't do "
                           f"{packing!r}, only {' or '.join(can)}.")
    if packing == "documents" and family.mixes:
        raise RequestError(f"data.packing: {name} can't keep documents in a row apart: {family.mixes}; use blocks or "
                           "none.")
    if packing == "documents" and not asked.tuning.packs(family):
        raise RequestError(f"data.packing: with {registry.name_of(asked.tuning)}, documents that share a row of a "
                           f"{name} would share what is learned between them; use blocks or none.")
    return packing


def usual_rate(asked: Recipe) -> float:
    """The recipe's learning rate, or the method's usual one; from scratch, ten times what pretrained weights bear."""
    if asked.training.learning_rate is not None:
        return asked.training.learning_rate
    rate = asked.tuning.learning_rate
    return 10 * rate if asked.backbone.pretrained is None and not asked.tuning.adapter else rate


def _head_rate(asked: Recipe) -> float:
    """A new head bears less than a prefix does, whose numbers have far to go."""
    if asked.training.head_learning_rate is not None:
        return asked.training.head_learning_rate
    return min(usual_rate(asked), 1e-3) if asked.tuning.adapter else usual_rate(asked)


def _best(asked: Recipe) -> str | None:
    """What decides which weights are kept where the recipe doesn't say: the objective's own; `loss` to stop early."""
    if asked.data.validation is None:
        return None
    return asked.learning.best or ("loss" if asked.training.early_stopping_patience else None)


def _schedule(training: recipe.Training) -> None:
    from transformers import SchedulerType

    known = [kind.value for kind in SchedulerType if kind.value not in ("reduce_lr_on_plateau", "greedy")]
    if training.lr_scheduler_type not in known:
        raise RequestError(f"training.lr_scheduler_type: no schedule is called {training.lr_scheduler_type!r}."
                           f"{nearest(training.lr_scheduler_type, known)}")


def speak(settled: Settled) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: trained on its text, taken from elsewhere, or the pretrained model's own."""
    asked = settled.recipe.tokenizer
    if asked is None:
        assert settled.base is not None
        tokenizer = tokenizers.load(settled.base)
    elif asked.pretrained is not None:
        tokenizer = tokenizers.load(models.resolve(asked.pretrained))
    else:
        tokenizer = _trained(settled, 0)
        if (extra := missing(tokenizer, settled)):  # the tokens that an objective adds are part of vocab_size
            tokenizer = _trained(settled, extra)
    if missing(tokenizer, settled):
        tokenizer.add_special_tokens(settled.recipe.learning.missing(tokenizer))
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # for positions that nothing attends to or learns from
    return tokenizer


def missing(tokenizer: PreTrainedTokenizerBase, settled: Settled) -> int:
    """How many special tokens the objective needs that the tokenizer lacks."""
    found = settled.recipe.learning.missing(tokenizer)
    return sum(len(tokens) if isinstance(tokens, list) else 1 for tokens in found.values())


def _trained(settled: Settled, less: int) -> PreTrainedTokenizerBase:
    """The tokenizer trained on the run's text, with room for some more tokens."""
    asked = settled.recipe.tokenizer
    assert asked is not None
    assert asked.train is not None
    assert asked.train.kind is not None
    tokenizer, _ = tokenizers.trained(
        [reader.fingerprint() for reader in settled.train],
        lambda: (text for reader in settled.train for text in settled.recipe.learning.texts(reader)),
        asked.train.kind, asked.train.vocab_size - less, asked.train.lowercase, settled.family.special)
    return tokenizer


@dataclass(frozen=True)
class Network:
    """A model as it is before tuning."""

    model: PreTrainedModel
    new: tuple[str, ...]
    """Parts that start from random weights though the rest is pretrained."""
    base: str | None
    """Where an adapter finds it again: a folder or hub id; None where no folder holds it as it is."""


def network(settled: Settled, tokenizer: PreTrainedTokenizerBase, facts: dict[str, Any]) -> Network:
    """The model with the head that the objective asks for: pretrained, or random from the family's config."""
    import torch
    import transformers
    from safetensors import SafetensorError

    spec, family, head = settled.recipe.backbone, settled.family, settled.head
    auto = getattr(transformers, head)
    extra = {**settled.recipe.learning.config(facts), **spec.config}
    common: dict[str, Any] = {"attn_implementation": family.attention, "dtype": torch.float32}
    if settled.base is None:
        config = family.config(spec.size, extra, tokenizer)
        if config.vocab_size < len(tokenizer):
            raise RequestError(f"backbone.config.vocab_size: {config.vocab_size} is less than the tokenizer's "
                               f"{len(tokenizer)} tokens.")
        model = auto.from_config(config, **common)
        return Network(model, (family.heads[head],) if settled.recipe.task and head in family.heads else (), None)
    config = models.config_of(settled.base, **extra)
    try:
        model, info = auto.from_pretrained(
            settled.base, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **models.NO_CODE,
            **common)
    except (*models.UNREADABLE, SafetensorError) as error:
        raise RequestError(f"backbone.pretrained: {settled.base}: {' '.join(str(error).split())[:300]}") from error
    other = [key for key, *_ in info["mismatched_keys"]]  # a head for other labels is made anew, nothing else is
    if strange := [key for key in other if not key.startswith(family.heads.get(head, " "))]:
        raise RequestError(f"backbone.config: {strange[0]} of {settled.base} has another shape; a pretrained model "
                           "keeps its own.")
    if 2 * len(info["missing_keys"]) > len(model.state_dict()):  # LlamaForQuestionAnswering calls its body otherwise
        raise RequestError(f"backbone.pretrained: {type(model).__name__} takes no weights from {settled.base}: it has "
                           "other names for them, so it would start from random ones.")
    new = {key.rpartition(".")[0] for key in (*info["missing_keys"], *other)}
    if family.heads.get(head) in new:
        new |= {name for name in family.poolers if any(full == name for full, _ in model.named_modules())}
    if new:
        log.info("new weights: %s", ", ".join(sorted(new)))
    if settled.recipe.task and (off := without_dropout(config, spec.config)):
        log.info("dropout: 0 in the pretrained model's config, and small data may need it: %s",
                 " ".join(f"--set backbone.config.{name}={rate:g}" for name, rate in off.items()))
    if model.config.get_text_config().pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    known = spec.pretrained if Path(str(spec.pretrained)).exists() is False else None
    entry = models.CATALOGUE.get(str(spec.pretrained))
    place = entry.hub if entry is not None else known or str(settled.base.resolve())
    old = tokenizers.load(settled.base)
    if old.get_vocab() == tokenizer.get_vocab():
        if len(tokenizer) > (rows := model.get_input_embeddings().num_embeddings):
            raise RequestError(f"backbone.pretrained: {spec.pretrained} has {rows} embeddings, its tokenizer "
                               f"{len(tokenizer)} tokens.")
        return Network(model, tuple(sorted(new)), place)
    respell(model, old, tokenizer)
    return Network(model, tuple(sorted(new)), None)


def without_dropout(config: PretrainedConfig, said: Mapping[str, Any]) -> dict[str, float]:
    """Dropouts that are 0 here and not in others of the config's kind, unless said so: name -> what is usual.

    A model that was pretrained for long on much text has its use for it again when little text follows.
    """
    usual = {name: getattr(type(config), name, None) for name in config.to_dict() if "drop" in name}
    return {name: rate for name, rate in usual.items()
            if isinstance(rate, float) and rate > 0 and getattr(config, name) == 0 and name not in said}


def respell(model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    """Give a pretrained model another tokenizer: rows of tokens known to both stay, new ones start from the mean."""
    import torch

    before, after = old.get_vocab(), new.get_vocab()
    kept = [(row, before[word]) for word, row in after.items() if word in before]
    saved = [table.detach().clone() for table in _tables(model)]
    model.resize_token_embeddings(len(new), mean_resizing=False)
    with torch.no_grad():
        for was, table in zip(saved, _tables(model), strict=True):
            table[:] = was.mean(0)
            ours, theirs = zip(*((row, place) for row, place in kept if place < len(was)), strict=True)
            table[list(ours)] = was[list(theirs)]
    model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id = (
        new.pad_token_id, new.bos_token_id, new.eos_token_id)
    log.info("another tokenizer: %s of its %s tokens keep their embeddings, the others start from the mean",
             f"{len(kept):,}", f"{len(new):,}")


def _tables(model: Any) -> list[Tensor]:
    """A model's input and output embeddings; one where they are tied."""
    found = (model.get_input_embeddings(), model.get_output_embeddings())
    both = [table.weight for table in found if table is not None]
    return both[:1] if len(both) == 2 and both[0] is both[1] else both
