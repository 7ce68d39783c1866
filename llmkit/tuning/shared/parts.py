"""Where a model's parts are: its layers, what stands below and above them, its head, and what is new."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from llmkit.backbones.base import Family, place, stacks_of
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmkit.tuning.base import Setting


def only(model: PreTrainedModel, setting: Setting, names: Collection[str]) -> PreTrainedModel:
    """The model with nothing to train but some parameters, and what is new."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names or within(name, setting.new))
    return model


def within(name: str, parts: Iterable[str]) -> bool:
    """Whether a parameter is of one of some parts: `classifier.dense.bias` is of `classifier`."""
    return any(name.startswith(f"{part}.") for part in parts)


def of(model: PreTrainedModel, layer: str) -> list[str]:
    """The parameters of a layer."""
    return [name for name, _ in model.named_parameters() if within(name, [layer])]


def below(model: PreTrainedModel, family: type[Family]) -> set[str]:
    """The parameters that stand below the layers: tables, and what is done to what they hold."""
    from torch import nn

    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    inputs = [name for path in family.inputs if (name := place(model, path)) is not None]
    layers = [layer for stack in stacks_of(model, family) for layer in stack]
    return {name for name, parameter in model.named_parameters()
            if not within(name, layers) and (id(parameter) in tables or "emb" in name or within(name, inputs))}


def head(model: PreTrainedModel, setting: Setting) -> set[str]:
    """The parameters of the head: of a new one, or of the one that the model has, without tables tied to embeddings."""
    if setting.new:
        return {name for name, _ in model.named_parameters() if within(name, setting.new)}
    table = model.get_input_embeddings().weight
    base = {id(parameter) for parameter in model.base_model.parameters()} if model.base_model is not model else set()
    parts = [name for path in (setting.family.heads.get(setting.head), *setting.family.poolers)
             if path is not None and (name := place(model, path)) is not None]
    return {name for name, parameter in model.named_parameters() if parameter is not table
            and (within(name, parts) or (bool(base) and id(parameter) not in base))}


def norms(model: PreTrainedModel) -> set[str]:
    """The parameters of the normalisations, by what their classes are called: LayerNorm, T5LayerNorm, Qwen3RMSNorm."""
    return {f"{name}.{leaf}" for name, part in model.named_modules() if "norm" in type(part).__name__.lower()
            for leaf, _ in part.named_parameters(recurse=False)}


def feed_forward(model: PreTrainedModel, family: type[Family]) -> set[str]:
    """The parameters of the layers' feed-forward parts, anchored: BERT's `attention.output` isn't one, `output` is."""
    parts = "|".join(family.feed_forward)
    layers = [layer for stack in stacks_of(model, family) for layer in stack]
    inside = [re.compile(rf"{re.escape(layer)}\.(?:{parts})\.") for layer in layers]
    return {name for name, _ in model.named_parameters() if any(pattern.match(name) for pattern in inside)}


def layers_known(family: type[Family], method: str) -> None:
    """RequestError where llmkit doesn't know a family's layers."""
    if not family.layers:
        raise RequestError(f"tuning.method: {method} needs to know the layers of a {family.model_type}, which family: "
                           "auto doesn't. Use full, bias, layer_norm or lora instead.")

