"""A linear probe: the model stays as it is, only its head trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class Head(Tuning):
    """A new head trains alone, with the pooler that only it reads: how much do the model's features tell as they are?

    Where no head is new, the one that the model has trains, but for an output table that is tied to the embeddings;
    refused where that leaves nothing. The learning rate is that of Peters et al. (2019) for features that stay fixed.
    """

    adapter = False
    learning_rate = 1e-3

    def check(self, family: type[Family], head: str) -> None:
        """A model without a head has nothing to train."""
        if head == "AutoModel":
            raise RequestError("tuning.method: head trains the head alone, and this objective's model has none. "
                               "Use full, layers, feed_forward, bias or lora instead.")

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """A model whose head is its embeddings has nothing to train either."""
        self.apply(make(), setting)

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with its head to train."""
        names = parts.head(model, setting)
        if not names:
            raise RequestError(
                f"tuning.method: head can't train a {type(model).__name__}, whose head is its table of embeddings. "
                "Use layers, feed_forward or lora instead.")
        return parts.only(model, setting, names)
