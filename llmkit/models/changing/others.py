"""The other network of a run that trained two: opened again, beside the model that goes on with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.data import tokenizer_files
from llmkit.models.changing.respelling import respell
from llmkit.models.opening import beside

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def take_up(
    auto: Any, folder: Path, tokenizer: PreTrainedTokenizerBase, wanted: PretrainedConfig, **options: Any,
) -> PreTrainedModel:
    """A network that a run left in a folder, in this tokenizer's words; CheckpointError where it can't be read.

    It keeps its size, whatever is wanted now: where these differ, that is said.
    """
    network: PreTrainedModel = beside(auto, folder, **options)
    if tokenizer_files.has_tokenizer(folder):
        old = tokenizer_files.load(folder)
        if old.get_vocab() != tokenizer.get_vocab():
            respell(network, old, tokenizer)
    has = {name: (getattr(network.config, name, None), getattr(wanted, name, None)) for name in SIZES}
    if other := [f"{name} {own}, not {asked}" for name, (own, asked) in has.items() if own != asked]:
        log.warning("%s: keeps its own size: %s", folder, ", ".join(other))
    return network
