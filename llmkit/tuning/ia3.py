"""(IA)³: keys, values and the inside of feed-forward layers are each scaled by a learned vector (Liu et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEYS = {"query": "key", "q": "k", "q_proj": "k_proj"}
"""Low-rank products go to queries and values, these vectors to keys and values."""


@dataclass(config=OPTIONS)
class IA3(Tuning):
    """peft's (IA)³: every vector starts at 1, so it starts as the base model.

    Where peft knows a family its choice of layers is taken, which isn't always the paper's (BART: queries); elsewhere
    it is the paper's: keys, values, and what the last layer of a feed-forward part reads.
    """

    learning_rate = 3e-3
    undecayed = ("ia3_l",)

    target_modules: list[str] | str | None = None
    """Names of layers, or a regular expression that matches whole dotted names; else peft's choice, or the family's."""
    feedforward_modules: list[str] | str | None = None
    """Those of them whose input is scaled, where it is the output of the others; else those of the usual ones."""

    def check(self, family: type[Family], head: str) -> None:
        """Where peft knows no layers for a family, they have to be named."""
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        adapter.check(self.target_modules, family, KNOWN, everywhere=False)
        if self.target_modules == "all-linear":
            raise RequestError("tuning.target_modules: ia3 has no all-linear; name layers, or leave it out.")
        if self.target_modules is None and self.feedforward_modules is not None:
            raise RequestError("tuning.feedforward_modules: they are some of the target_modules; name those too.")
        if isinstance(self.target_modules, list) and isinstance(self.feedforward_modules, list):
            for name in self.feedforward_modules:
                if name not in self.target_modules:
                    raise RequestError(f"tuning.feedforward_modules: {name!r} must be one of the target_modules "
                                       f"({', '.join(self.target_modules)}).")

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """The layers that are named are there."""
        adapter.check_named(self.target_modules, make, setting.family)

    def describe(self) -> str:
        """`scales k_proj, v_proj`; nothing where the choice isn't the recipe's."""
        return "scales" + adapter.where(self.target_modules).removeprefix(" on") if self.target_modules else ""

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """A PeftModel around the model: the vectors, the parts that are new, and the heads peft knows train."""
        from peft import IA3Config

        inside: Any = self.feedforward_modules
        layers: Any = self.target_modules
        usual, usually_inside = usual_layers(model, setting.family)
        if layers is None:
            layers, inside = usual, usually_inside
        else:
            layers = adapter.targets(model, layers, setting.family, ())
            if inside is None:
                inside = [name for name in usually_inside if name in layers] if isinstance(layers, list) else []
        return adapter.wrap(model, IA3Config(
            target_modules=layers, feedforward_modules=inside, fan_in_fan_out=adapter.transposed(model)), setting)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter that peft opens."""
        adapter.save(model, folder)


def usual_layers(model: PreTrainedModel, family: type[Family]) -> tuple[list[str], list[str]]:
    """(all, those whose input is scaled): peft's for the family, else keys, values and the ends of feed-forward parts.

    ELECTRA  ->  key, value, electra.encoder.layer.0.output.dense …
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as INSIDE
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

    if family.model_type in KNOWN:
        return list(KNOWN[family.model_type]), list(INSIDE[family.model_type])
    ends = feed_forward_ends(model, family)
    return [*(KEYS.get(name, name) for name in adapter.projections(family)), *ends], ends


def feed_forward_ends(model: PreTrainedModel, family: type[Family]) -> list[str]:
    """The last linear layer of each layer's feed-forward part, by its dotted name."""
    from torch import nn

    if not family.feed_forward:
        return []
    inside = re.compile(rf"(.*\.)?(\d+)\.(?:{'|'.join(family.feed_forward)})(\..*)?")
    ends: dict[str, str] = {}
    for name, part in model.named_modules():
        found = inside.fullmatch(name)
        if found and isinstance(part, nn.Linear):
            ends[f"{found[1]}{found[2]}"] = name
    return list(ends.values())
