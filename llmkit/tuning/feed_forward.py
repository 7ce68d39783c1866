"""Feed-forward tuning: in every layer, only the feed-forward part trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.recipe.registry import OPTIONS
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class FeedForward(Tuning):
    """Each layer's feed-forward part trains, with a new head; attention, embeddings and the old head stay as they are.

    It is where a Transformer's layers keep most of their weights and, by Geva et al. (2021), what they remember. The
    part is the family's own module: with its normalisation where that stands inside (BERT, XLNet), else without it.
    """

    adapter = False
    learning_rate = 5e-5

    def check(self, family: type[Family], head: str) -> None:
        """The family's feed-forward parts must be known."""
        parts.layers_known(family, "feed_forward")

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with its feed-forward parts, and what is new, to train."""
        return parts.only(model, setting, parts.feed_forward(model, setting.family))
