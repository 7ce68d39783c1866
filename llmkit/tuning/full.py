"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.registry import OPTIONS
from llmkit.tuning.base import Setting, Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class Full(Tuning):
    """All weights train, and all are saved."""

    adapter = False
    learning_rate = 5e-5

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model as it is."""
        return model.requires_grad_(True)
