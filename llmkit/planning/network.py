"""The model as it is before tuning: pretrained, or random from the family's config, with the objective's head."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import models
from llmkit.data.tokenizer_files import has_tokenizer, rows_for
from llmkit.models import quantizing
from llmkit.models.base import Base
from llmkit.models.changing.respelling import respell
from llmkit.models.edges import tell
from llmkit.planning.cutting import cut_down, fewer
from llmkit.planning.settle import Settled
from llmkit.system.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("llmkit")


@dataclass(frozen=True)
class Network:
    """A model as it is before tuning."""

    model: PreTrainedModel
    new: tuple[str, ...]
    """Parts that start from random weights though the rest is pretrained."""
    base: str | None
    """Where an adapter finds it again: a folder or hub id; None where no folder holds it as it is."""


def network(settled: Settled, tokenizer: PreTrainedTokenizerBase, facts: Mapping[str, Any]) -> Network:
    """The model with the head that the objective asks for: pretrained, or random from the family's config.

    `facts` of the data go into its config: how many labels there are. RequestError where the config can't have the
    tokenizer's words, or the pretrained weights don't fit; CheckpointError where its folder lacks some of them.
    """
    fields = {**settled.recipe.learning.config(dict(facts)), **settled.recipe.backbone.config}
    if settled.base is None:
        return _random(settled, tokenizer, fields)
    return _pretrained(settled, settled.base, tokenizer, fields)


def _random(settled: Settled, tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any]) -> Network:
    family, head = settled.family, settled.head
    config = family.config(settled.recipe.backbone.size, fields, tokenizer)
    if config.vocab_size < rows_for(tokenizer):
        raise RequestError(f"backbone.config.vocab_size: {config.vocab_size} is less than the tokenizer's "
                           f"{rows_for(tokenizer)} tokens.")
    model = _auto(head).from_config(config, **_common(settled))
    return Network(model, (family.heads[head],) if settled.recipe.task and head in family.heads else (), None)


def _pretrained(
    settled: Settled, base: Base, tokenizer: PreTrainedTokenizerBase, fields: Mapping[str, Any],
) -> Network:
    spec = settled.recipe.backbone
    config = base.config(**fields)
    model, new = _loaded(settled, base, config)
    if spec.layers is not None:
        small = _auto(settled.head).from_config(fewer(config, settled.family, spec.layers), **_common(settled))
        model = cut_down(model, small, settled.family, spec.layers)
        log.info("layers %s of %s, numbered from 0, are the student's %d", ", ".join(map(str, spec.layers)),
                 spec.pretrained, len(spec.layers))
    if new:
        log.info("new weights: %s", ", ".join(new))
    if settled.recipe.task and (off := without_dropout(config, spec.config)):
        log.info("dropout: 0 in the pretrained model's config, and small data may need it: %s",
                 " ".join(f"--set backbone.config.{name}={rate:g}" for name, rate in off.items()))
    if model.config.get_text_config().pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    own = has_tokenizer(base.folder)
    if own and base.tokenizer.get_vocab() != tokenizer.get_vocab():
        if spec.quantization_config is not None:
            raise RequestError(f"tokenizer: it isn't that of {spec.pretrained}, and a quantised base keeps its own; "
                               "leave tokenizer out.")
        respell(model, base.tokenizer, tokenizer)
        return Network(model, new, None)
    if (needed := rows_for(tokenizer)) > (rows := _rows(model)):
        raise RequestError(f"backbone.pretrained: {spec.pretrained} has {rows} embeddings, "
                           f"{'its' if own else 'the'} tokenizer {needed} tokens.")
    if not own:
        log.info("%s has no tokenizer of its own: the one that is named is taken for it, with %s tokens for %s "
                 "embeddings", base.folder, f"{needed:,}", f"{rows:,}")
    given = not own or base.tokenizer.eos_token_id != tokenizer.eos_token_id
    if given and settled.family.shape != "encoder":
        tell(model, tokenizer)
    return Network(model, new, found_again(base) if spec.layers is None else None)


def _loaded(settled: Settled, base: Base, config: PretrainedConfig) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model with its pretrained weights, and the names of the parts that these lack."""
    from safetensors import SafetensorError

    family, head = settled.family, settled.head
    try:
        model, info = _auto(head).from_pretrained(
            base.folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **models.NO_CODE,
            **_common(settled), **_quantized(settled, config))
    except (*models.UNREADABLE, SafetensorError) as error:
        raise RequestError(f"backbone.pretrained: {base.folder}: {' '.join(str(error).split())[:300]}") from error
    quantizing.prepared(model)
    other = [key for key, *_ in info["mismatched_keys"]]  # a head for other labels is made anew, nothing else is
    if strange := [key for key in other if not key.startswith(family.heads.get(head, " "))]:
        raise RequestError(f"backbone.config: {strange[0]} of {base.folder} has another shape; a pretrained model "
                           "keeps its own.")
    if 2 * len(info["missing_keys"]) > len(model.state_dict()):  # LlamaForQuestionAnswering calls its body otherwise
        raise RequestError(f"backbone.pretrained: {type(model).__name__} takes no weights from {base.folder}: it has "
                           "other names for them, so it would start from random ones.")
    if not settled.recipe.backbone.config and (lost := _of_the_body(model, info["missing_keys"])):
        raise CheckpointError(f"backbone.pretrained: {base.folder}: weights of its body are missing ({len(lost)}, "
                              f"{lost[0]} first): the file is damaged or half copied; get it anew.")
    new = {key.rpartition(".")[0] for key in (*info["missing_keys"], *other)}
    if family.heads.get(head) in new:
        new |= {name for name in family.poolers if any(full == name for full, _ in model.named_modules())}
    return model, tuple(sorted(new))


def _of_the_body(model: PreTrainedModel, missing: Iterable[str]) -> list[str]:
    """Those of the missing weights that a head doesn't bring: `bert.encoder.layer.0.output.dense.weight`, sorted.

    A pooler may be new: many encoders are saved without theirs. T5ForQuestionAnswering and others have no part for
    the body: there, what has a number is of a layer of it.
    """
    prefix = model.base_model_prefix
    body = f"{re.escape(prefix)}\\." if prefix and hasattr(model, prefix) else r".*\.\d+\."
    return sorted(name for name in missing if re.match(body, name) and "pooler" not in name)


def _quantized(settled: Settled, config: PretrainedConfig) -> dict[str, Any]:
    """How the base is held, where it isn't whole: what a new head or pooler is, stays so."""
    import torch

    chosen = settled.recipe.backbone.quantization_config
    if chosen is None:
        return {}
    with torch.device("meta"):
        empty = _auto(settled.head).from_config(deepcopy(config), trust_remote_code=False)
    return quantizing.options(chosen, quantizing.kept_whole(empty, settled.family))


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().num_embeddings)


def _auto(head: str) -> Any:
    import transformers

    return getattr(transformers, head)


def _common(settled: Settled) -> dict[str, Any]:
    """How every model of a run is made."""
    import torch

    return {"attn_implementation": settled.recipe.backbone.attn_implementation, "dtype": torch.float32}


def found_again(base: Base) -> str:
    """What an adapter calls its base: a hub id where it has one, else its folder."""
    if Path(base.name).exists():  # before the catalogue: a folder of the same name goes before it
        return str(base.folder.resolve())
    entry = models.CATALOGUE.get(base.name)
    return base.name if entry is None else entry.hub


def without_dropout(config: PretrainedConfig, said: Mapping[str, Any]) -> dict[str, float]:
    """Dropouts that are 0 here and not in others of the config's kind, unless said so: name -> what is usual.

    A model that was pretrained for long on much text has its use for it again when little text follows.
    """
    usual = {name: getattr(type(config), name, None) for name in config.to_dict() if "drop" in name}
    return {name: rate for name, rate in usual.items()
            if isinstance(rate, float) and rate > 0 and getattr(config, name) == 0 and name not in said}
