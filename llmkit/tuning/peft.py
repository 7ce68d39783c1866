"""Any other method of peft that changes layers, by its type and its config's own fields."""

from __future__ import annotations

from dataclasses import field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError, nearest
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OWN = {"LORA": "lora", "ADALORA": "adalora", "IA3": "ia3", "VERA": "vera", "PREFIX_TUNING": "prefix",
       "PROMPT_TUNING": "prompt", "P_TUNING": "p_tuning"}
"""Types that have a file here."""
UNFIT = {
    "ADAPTION_PROMPT": "it is a prompt inside the layers, not a change of them",
    "POLY": "each of its rows needs a task's number",
    "SHADOW": "it is a network beside a decoder's layers, not a change of them",
    "TRAINABLE_TOKENS": "it trains rows of the embeddings and nothing else, not even a new head",
    "XLORA": "it mixes adapters that were trained before",
}
"""Types that llmkit doesn't train, with the reason."""
CANDIDATES = ("HIRA", "PVERA", "RANDLORA", "ROAD")
"""Types that may have layers over bitsandbytes'."""
OURS = ("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping",
        "peft_version", "runtime_config")
"""Fields of a config that llmkit fills in."""


@dataclass(config=OPTIONS)
class Peft(Tuning):
    """A tuning method by its name in peft: {peft_type: BOFT, config: {boft_block_size: 4}}.

    Most start as the base model; FOURIERFT and UNILORA start near it. Not every type can change the layers of GPT-2,
    which are stored transposed.
    """

    learning_rate = 1e-3

    peft_type: str = "HIRA"
    """HIRA (a product beside each weight, times the weight), LOHA, LOKR, BOFT, OFT, FOURIERFT, LN_TUNING …"""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of its config class in peft; target_modules is peft's choice, or the family's, where nothing is said."""

    def check(self, family: type[Family], head: str) -> None:
        """The type is one that changes layers, its config has the fields, and there are layers to change."""
        kind = self._kind()
        made = self._config()
        known = known_layers(kind)
        asked = self.config.get("target_modules")
        if kind == "LN_TUNING" and asked is None and family.model_type not in known:
            raise RequestError(f"tuning.config.target_modules: peft knows no norms of {family.model_type}; name them.")
        if "target_modules" in names_of(type(made)):
            adapter.check(asked, family, known)

    @property
    def unquantized(self) -> str:
        """Some types have layers over bitsandbytes' in peft; norms stay whole anyway."""
        kind = self.peft_type.upper()
        return "" if kind == "LN_TUNING" or over_bits(kind) else (
            f"peft has no {kind} over quantised layers; it has lora, adalora, ia3 and, here, "
            f"{', '.join(name for name in CANDIDATES if over_bits(name))}")

    def describe(self) -> str:
        """`BOFT, boft_block_size 4`."""
        return ", ".join([self._kind(), *(f"{name} {value}" for name, value in self.config.items())])

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """A PeftModel around the model: what the type adds, the parts that are new, and the heads peft knows train."""
        config = self._config()
        if "fan_in_fan_out" in names_of(type(config)) and "fan_in_fan_out" not in self.config:
            config.fan_in_fan_out = adapter.transposed(model)
        config.target_modules = adapter.targets(
            model, self.config.get("target_modules"), setting.family, known_layers(self._kind()))
        tuned = adapter.wrap(model, config, setting)
        if all(".modules_to_save." in name for name, weight in tuned.named_parameters() if weight.requires_grad):
            raise RequestError(f"tuning.peft_type: {self._kind()} finds nothing to train in {type(model).__name__}. "
                               "Use lora instead, or name other target_modules.")
        return tuned

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter that peft opens."""
        adapter.save(model, folder)

    def _kind(self) -> str:
        """The type as peft writes it; RequestError where it has none, or none that changes layers."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

        kind, types = self.peft_type.upper(), [kind.value for kind in CONFIGS]
        able = [name for name in types if name not in OWN and name not in UNFIT and changes_layers(name)]
        if kind not in types:
            raise RequestError(f"tuning.peft_type: peft has no type {self.peft_type!r}.{nearest(kind, able)}")
        if kind in OWN:
            raise RequestError(f"tuning.peft_type: {kind} is a method here: tuning: {{method: {OWN[kind]}}}.")
        if kind in UNFIT:
            raise RequestError(f"tuning.peft_type: llmkit doesn't train {kind}: {UNFIT[kind]}. "
                               f"There is: {', '.join(able)}.")
        if not changes_layers(kind):
            raise RequestError(f"tuning.peft_type: {kind} is a prompt, not a change of layers; use prompt, p_tuning or "
                               f"prefix. There is: {', '.join(able)}.")
        return kind

    def _config(self) -> Any:
        """The config in peft; RequestError for a field it hasn't, or a value it doesn't take."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

        kind = self._kind()
        make = CONFIGS[kind]  # type: ignore[index]
        known = [name for name in names_of(make) if name not in OURS]
        for name, value in self.config.items():
            if name in OURS:
                raise RequestError(f"tuning.config.{name}: llmkit fills it in.")
            if name not in known:
                raise RequestError(f"tuning.config.{name}: no such field of {make.__name__}.{nearest(name, known)}")
            if name == "use_asa" and value:
                raise RequestError("tuning.config.use_asa: llmkit doesn't allocate subspaces on the way; leave it out, "
                                   "or use the method adalora.")
        try:
            return make(**self.config)
        except (TypeError, ValueError) as error:
            raise RequestError(f"tuning.config: {' '.join(str(error).split())}") from error


def changes_layers(kind: str) -> bool:
    """Whether a type of peft changes layers, rather than putting virtual tokens before the text."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS
    from peft.tuners.tuners_utils import BaseTuner

    return issubclass(TUNERS[kind], BaseTuner)  # type: ignore[index]


def over_bits(kind: str) -> bool:
    """Whether peft brings layers of a type over those of bitsandbytes: a module beside the type's own."""
    return kind.isidentifier() and find_spec(f"peft.tuners.{kind.lower()}.bnb") is not None


def known_layers(kind: str) -> dict[str, Any]:
    """The layers that peft chooses for a type, by model type."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS

    return dict(TUNERS[kind].target_module_mapping)  # type: ignore[index]


def names_of(config: Any) -> list[str]:
    """The fields of a config."""
    return [one.name for one in fields(config)]
