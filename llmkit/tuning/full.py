"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family, stacks_of
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class Full(Tuning):
    """All weights train, and all are saved."""

    adapter = False
    whole = True
    learning_rate = 5e-5

    layer_learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What each layer's learning rate is of that of the layer above it (ELECTRA's and BEiT's layer-wise decay).

    The top layer, and what stands above it, have the full rate; embeddings, and an output table tied to them, the
    lowest. In an encoder-decoder each stack is counted from its own top. ELECTRA takes 0.8, or 0.9 where it is large.
    """

    def check(self, family: type[Family], head: str) -> None:
        """Rates by layer need layers that are known and have weights of their own."""
        if self.layer_learning_rate_decay == 1:
            return
        parts.layers_known(family, "layer_learning_rate_decay")
        if family.shares:
            raise RequestError(f"tuning.layer_learning_rate_decay: {self.layer_learning_rate_decay} doesn't fit "
                               f"{family.model_type}, whose layers share their weights; leave it at 1.")

    def describe(self) -> str:
        """`each layer at 0.8 of the rate of the one above`."""
        decay = self.layer_learning_rate_decay
        return "" if decay == 1 else f"each layer at {decay:g} of the rate of the one above"

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model as it is: sinusoidal positions stay what they are."""
        return model

    def rates(self, model: PreTrainedModel, setting: Setting) -> Mapping[str, float]:
        """A layer's factor is the decay to the power of how many layers stand above it (Clark et al. 2020)."""
        if self.layer_learning_rate_decay == 1:
            return {}
        stacks = stacks_of(model, setting.family)
        above = dict.fromkeys(parts.below(model, setting.family), max(map(len, stacks)))
        for stack in stacks:
            for count, layer in enumerate(reversed(stack)):
                above |= dict.fromkeys(parts.of(model, layer), count)
        return {name: self.layer_learning_rate_decay**count for name, count in above.items()}
