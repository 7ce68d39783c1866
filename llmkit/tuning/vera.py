"""VeRA: all layers share two fixed random matrices; two vectors a layer train (Kopiczko et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.recipe.registry import OPTIONS
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class Vera(Tuning):
    """peft's VeRA; it starts as the base model itself, for one of the two vectors is 0."""

    learning_rate = 4e-3

    r: Annotated[int, Field(ge=1)] = 256
    """Rank: the inner size of the shared product. It costs little: r and the layer's width are all that trains."""
    d_initial: float = 0.1
    """What the inner vector starts with."""
    vera_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the product."""
    target_modules: list[str] | str | None = None
    """Names of layers, a regular expression that matches whole dotted names, or `all-linear`; else peft's choice."""
    projection_prng_key: Annotated[int, Field(ge=0)] = 0
    """The seed that the random matrices are drawn from."""
    save_projection: bool = True
    """Save the random matrices; without them the adapter is small, and needs a torch that draws the same again."""
    bias: Literal["none", "all", "vera_only"] = "none"
    """Which biases train too."""

    @property
    def unquantized(self) -> str:
        """Its layers in peft are never over bitsandbytes'."""
        return "peft has no VeRA over quantised layers; lora, adalora and ia3 it has"

    def check(self, family: type[Family], head: str) -> None:
        """Where peft knows no layers for a family, they have to be named."""
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING as KNOWN

        adapter.check(self.target_modules, family, KNOWN)

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """The layers that are named are there."""
        adapter.check_named(self.target_modules, make, setting.family)

    def describe(self) -> str:
        """`rank 256 on q_proj, v_proj`."""
        return f"rank {self.r}{adapter.where(self.target_modules)}"

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """A PeftModel around the model: the vectors, the parts that are new, and the heads peft knows train."""
        from peft import VeraConfig
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING as KNOWN

        return adapter.wrap(model, VeraConfig(
            r=self.r, d_initial=self.d_initial, vera_dropout=self.vera_dropout,
            target_modules=adapter.targets(model, self.target_modules, setting.family, KNOWN),
            projection_prng_key=self.projection_prng_key, save_projection=self.save_projection, bias=self.bias,
            fan_in_fan_out=adapter.transposed(model)), setting)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter that peft opens."""
        adapter.save(model, folder)
