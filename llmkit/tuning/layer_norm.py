"""Normalisation tuning: only the gains and shifts of the normalisations train."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class LayerNorm(Tuning):
    """Every normalisation's weights train, RMS norms and those of queries and keys included, and a new head whole.

    Houlsby et al. (2019) measure it beside adapters; Zhao et al. (2024) tune models of images and text by it.
    """

    adapter = False
    learning_rate = 1e-3

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """There are models without normalisations, or with none that has weights."""
        self.apply(make(), setting)

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with its normalisations, and what is new, to train."""
        names = parts.norms(model)
        if not names:
            raise RequestError(f"tuning.method: layer_norm can't train a {type(model).__name__}, whose normalisations "
                               "have no weights. Use lora instead.")
        return parts.only(model, setting, names)
