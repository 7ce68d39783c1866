"""LoRA: beside each chosen layer, a product of two thin matrices trains (Hu et al. 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.errors import RequestError, nearest
from llmkit.registry import OPTIONS
from llmkit.tuning.base import TASK_TYPES, Setting, Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel
CALLED_AS_IT_IS = ("AutoModelForMaskedLM", "AutoModelForQuestionAnswering")
"""Auto classes that go without a task type: peft has none for one, and its own for the other drops token types."""


@dataclass(config=OPTIONS)
class Lora(Tuning):
    """peft's LoRA; it starts as the base model itself, for one of the two matrices is 0."""

    learning_rate = 1e-3

    r: Annotated[int, Field(ge=1)] = 8
    """Rank: the inner size of the product."""
    lora_alpha: Annotated[int, Field(ge=1)] = 16
    """What the product is scaled by, over r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the product."""
    target_modules: list[str] | str | None = None
    """Names of layers, a regular expression that matches whole dotted names, or `all-linear`; else peft's choice."""
    use_rslora: bool = False
    """Scale by the root of r instead of r."""
    use_dora: bool = False
    """Train the length of each weight vector apart from its direction (Liu et al. 2024)."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train too."""

    def check(self, family: type[Family], head: str) -> None:
        """Where peft knows no layers for a family, they have to be named."""
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        if self.target_modules is None and family.model_type not in KNOWN and not family.projections:
            raise RequestError(
                f"tuning.target_modules: peft has no default for {family.model_type}; name layers, or say all-linear.")
        if self.target_modules in ([], ""):
            raise RequestError("tuning.target_modules: nothing is named; name layers, say all-linear, or leave it out.")

    def describe(self) -> str:
        """`rank 8 on q_proj, v_proj`."""
        where = ", ".join(self.target_modules) if isinstance(self.target_modules, list) else self.target_modules
        return f"rank {self.r}" + (f" on {where}" if where else "")

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """A PeftModel around the model: the product, the parts that are new, and the heads peft knows train."""
        from peft import LoraConfig, get_peft_model
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN
        from transformers.pytorch_utils import Conv1D

        self._check_targets(model)
        targets = self.target_modules
        if targets is None and setting.family.model_type not in KNOWN:
            targets = list(setting.family.projections)
        config = LoraConfig(
            task_type=None if setting.head in CALLED_AS_IT_IS else TASK_TYPES.get(setting.head),
            r=self.r, lora_alpha=self.lora_alpha, lora_dropout=self.lora_dropout, target_modules=targets,
            # a head that trains whole can't have a product beside it as well
            exclude_modules=list(setting.new) if self.target_modules == "all-linear" and setting.new else None,
            fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),  # GPT-2 stores weights transposed
            use_rslora=self.use_rslora, use_dora=self.use_dora, bias=self.bias,
            modules_to_save=list(setting.new) or None)
        tuned = get_peft_model(model, config)
        config.base_model_name_or_path = setting.base
        if config.modules_to_save is not None:  # peft adds the heads that it knows, several times
            config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
        return tuned  # type: ignore[return-value]

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter that peft opens."""
        model.save_pretrained(str(folder), save_embedding_layers=False)

    def _check_targets(self, model: PreTrainedModel) -> None:
        """Raise RequestError for any name that no layer has: peft is content when one of several matches."""
        import re

        names = [name for name, _ in model.named_modules() if name]
        leaves = dict.fromkeys(name.rpartition(".")[2] for name, part in model.named_modules() if part._parameters)
        known = [leaf for leaf in leaves if leaf]
        if isinstance(self.target_modules, list):
            for target in self.target_modules:
                if not any(name == target or name.endswith(f".{target}") for name in names):
                    raise RequestError(
                        f"tuning.target_modules: no layer of {type(model).__name__} is called {target!r}."
                        f"{nearest(target, known)}")
        elif self.target_modules is not None and self.target_modules != "all-linear":
            try:
                matches = any(re.fullmatch(self.target_modules, name) for name in names)
            except re.error as error:
                raise RequestError(
                    f"tuning.target_modules: {self.target_modules!r} is no regular expression: {error}.") from error
            if not matches:
                raise RequestError(
                    f"tuning.target_modules: {self.target_modules!r} matches the whole name of no layer of "
                    f"{type(model).__name__}.{nearest(self.target_modules, known)}")
