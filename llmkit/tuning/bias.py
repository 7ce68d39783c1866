"""BitFit: only the biases train (Ben Zaken et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class Bias(Tuning):
    """Every bias trains, those of normalisations and of an old head included, and a new head whole.

    About a thousandth of the weights. The learning rate is in the range that the paper searches, ten times those
    of full fine-tuning. XLNet's `r_w_bias` and its kin are vectors that queries are compared by, and stay.
    """

    adapter = False
    learning_rate = 4e-4

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """Many later models (Llama, Qwen3, T5, ModernBERT) have no biases."""
        self.apply(make(), setting)

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with its biases, and what is new, to train."""
        names = {name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"}
        if names <= parts.head(model, replace(setting, new=())):
            raise RequestError(f"tuning.method: bias can't train this {model.config.model_type}, which has no biases. "
                               "Use layer_norm or lora instead.")
        return parts.only(model, setting, names)
