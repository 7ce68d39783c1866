"""Embedding tuning: only the table of the input tokens trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.recipe.registry import OPTIONS
from llmkit.tuning.base import Setting, Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class Embeddings(Tuning):
    """The layers stay: a model learns new words in a language that it knows (Artetxe et al. 2020, §2)."""

    adapter = False
    learning_rate = 1e-3

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with its table, and what is new, to train."""
        table = model.get_input_embeddings().weight
        for name, parameter in model.named_parameters():
            new = any(name.startswith(f"{part}.") for part in setting.new)
            parameter.requires_grad_(parameter is table or new)
        return model
