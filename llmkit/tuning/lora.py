"""LoRA: beside each chosen layer, a product of two thin matrices trains (Hu et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.models.layout import ADAPTER_WEIGHTS
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError, nearest
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

STARTS = ("gaussian", "orthogonal", "mica", "pissa", "pissa_niter_16", "olora")
"""Ways to start that need nothing but the weights."""
NEEDS = {
    "eva": "a pass over the training data before the first step",
    "corda": "a pass over the training data before the first step",
    "lora_ga": "gradients of the training data before the first step",
    "loftq": "quantized weights",
}
"""Ways to start that peft has and llmkit hasn't, and what each would need."""
TRANSPOSED = ("gpt2", "openai-gpt", "ctrl", "imagegpt", "decision_transformer")
"""Model types that store weights as (in, out), which peft's olora takes for (out, in)."""


@dataclass(config=OPTIONS)
class Lora(Tuning):
    """peft's LoRA; it starts as the base model itself, for one of the two matrices is 0.

    pissa and olora start from a part of the weights, which the base loses while training; what is saved is the
    difference to the start, a product of twice the rank beside the base as it was.
    """

    learning_rate = 1e-3

    r: Annotated[int, Field(ge=1)] = 8
    """Rank: the inner size of the product."""
    lora_alpha: Annotated[int, Field(ge=1)] = 16
    """What the product is scaled by, over r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the product."""
    target_modules: list[str] | str | None = None
    """Names of layers, a regular expression that matches whole dotted names, or `all-linear`; else peft's choice."""
    init_lora_weights: bool | str = True
    """true, gaussian, orthogonal, mica, pissa, pissa_niter_<iterations>, olora; false: not as the base model."""
    use_rslora: bool = False
    """Scale by the root of r instead of r."""
    use_dora: bool = False
    """Train the length of each weight vector apart from its direction (Liu et al. 2024)."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train too."""

    @property
    def moves_base(self) -> bool:
        """Whether the base loses what the product starts from: pissa (Meng et al. 2024), olora (Büyükakyüz 2024)."""
        return str(self.init_lora_weights).startswith(("pissa", "olora"))

    @property
    def unquantized(self) -> str:
        """A start that is taken out of the weights needs them whole."""
        return "" if not self.moves_base and self.init_lora_weights != "mica" else (
            f"init_lora_weights: {self.init_lora_weights} starts from the weights as they are; true starts from any")

    def check(self, family: type[Family], head: str) -> None:
        """Where peft knows no layers for a family, they have to be named; not every start works everywhere."""
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        adapter.check(self.target_modules, family, KNOWN)
        start = self.init_lora_weights
        if isinstance(start, bool):
            return
        if start in NEEDS:
            raise RequestError(f"tuning.init_lora_weights: {start} needs {NEEDS[start]}, which llmkit doesn't do. "
                               f"There is: true, {', '.join(STARTS)}.")
        if start not in STARTS and not re.fullmatch(r"pissa_niter_\d+", start):
            raise RequestError(f"tuning.init_lora_weights: no start is called {start!r}.{nearest(start, STARTS)}")
        if start == "orthogonal" and self.r % 2:
            raise RequestError(f"tuning.r: {self.r} is odd; init_lora_weights: orthogonal needs an even rank.")
        if start == "mica" and self.use_dora:
            raise RequestError("tuning.use_dora: peft has no DoRA that starts by mica; use pissa or true instead.")
        if start == "olora" and family.model_type in TRANSPOSED:
            raise RequestError(f"tuning.init_lora_weights: {start} takes the weights of {family.model_type}, which are "
                               "stored transposed, for something else. Use pissa or true instead.")

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """The layers that are named are there."""
        adapter.check_named(self.target_modules, make, setting.family)

    def describe(self) -> str:
        """`rank 8 on q_proj, v_proj`."""
        start = "" if self.init_lora_weights is True else f", starting by {self.init_lora_weights}"
        return f"rank {self.r}{adapter.where(self.target_modules)}{start}"

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """A PeftModel around the model: the product, the parts that are new, and the heads peft knows train."""
        from peft import LoraConfig
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        start: Any = self.init_lora_weights
        tuned: Any = adapter.wrap(model, LoraConfig(
            r=self.r, lora_alpha=self.lora_alpha, lora_dropout=self.lora_dropout,
            target_modules=adapter.targets(model, self.target_modules, setting.family, KNOWN),
            init_lora_weights=start, fan_in_fan_out=adapter.transposed(model),
            use_rslora=self.use_rslora, use_dora=self.use_dora, bias=self.bias), setting)
        if self.moves_base:
            tuned.llmkit_start = {name: tensor.detach().clone() for name, tensor in products(tuned).items()}
        return tuned  # type: ignore[no-any-return]

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter that peft opens."""
        if self.moves_base:
            save_difference(model, folder)
        else:
            adapter.save(model, folder)


def products(model: Any) -> dict[str, Tensor]:
    """The matrices of all products, by the names that an adapter is saved with."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor for name, tensor in state.items() if ".lora_A." in name or ".lora_B." in name}


def save_difference(model: Any, folder: Path) -> None:
    """Write what training added to the start, beside the base as it was before the start was taken out of it.

    W - B0 A0 + B A  =  W + [B, -B0] [A; A0]
    """
    from copy import deepcopy

    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, first in model.llmkit_start.items():
        if ".lora_A." in name:
            state[name] = torch.cat([state[name], first.to(state[name].device)], 0)
        else:
            state[name] = torch.cat([state[name], -first.to(state[name].device)], 1)
    config = deepcopy(model.peft_config["default"])
    config.lora_alpha *= 2**0.5 if config.use_rslora else 2
    config.r, config.init_lora_weights, config.inference_mode = 2 * config.r, True, True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    adapter.in_order(folder)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
              folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
