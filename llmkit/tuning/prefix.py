"""Prefix tuning: learned keys and values that every attention sees before the text (Li & Liang 2021)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import TASK_TYPES, Setting, Tuning
from llmkit.tuning.prompt import fitted
from llmkit.tuning.shared.adapter import save as save_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

DROPS_TOKEN_TYPES = ("AutoModelForMaskedLM", "AutoModelForQuestionAnswering")
"""Auto classes whose forward in peft leaves out the batch's token types."""


@dataclass(config=OPTIONS)
class Prefix(Tuning):
    """The model stays as it is; a few keys and values for each attention train.

    Through peft where peft is right, else through transformers' attention interface: the same weights give the same
    outputs either way, positions included.
    """

    learning_rate = 1e-2

    attends = True

    num_virtual_tokens: Annotated[int, Field(ge=1)] = 20
    """Keys and values in front of each attention."""
    prefix_projection: bool = False
    """Whether they come out of a small network while training; what is saved is what came out of it."""
    encoder_hidden_size: Annotated[int, Field(ge=1)] | None = None
    """Hidden size of that network; by default the width of the keys."""

    prefix_init_text: str | None = None
    """A text, repeated or cut to fit, whose keys and values it starts from; noise where nothing is said."""

    @property
    def virtual_tokens(self) -> int:
        """The prefix takes the first positions of a model with numbered positions."""
        return self.num_virtual_tokens

    def check(self, family: type[Family], head: str) -> None:
        """Permuted models attend in a way of their own, which neither implementation reaches."""
        if family.attention == "eager" and family.shape == "encoder":
            raise RequestError(f"tuning.method: prefix doesn't fit {family.model_type}, whose attention doesn't go "
                               "through transformers' attention interface. Use lora or full instead.")
        if family.shape == "permuted":
            raise RequestError(
                f"tuning.method: prefix doesn't fit {family.model_type}, whose attention takes no keys and values from "
                "outside. Use lora or full instead.")
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise RequestError(
                f"tuning.encoder_hidden_size: {self.encoder_hidden_size} is the size of the projection; set "
                "prefix_projection: true too.")
        if self.prefix_init_text is not None and self.prefix_projection:
            raise RequestError("tuning.prefix_init_text: what a projection starts from comes out of its own weights; "
                               "leave out one of the two.")
        if self.prefix_init_text is not None and not self.prefix_init_text.strip():
            raise RequestError("tuning.prefix_init_text: there is no word in it.")

    def describe(self) -> str:
        """`20 virtual tokens`, and whether a network makes them."""
        return f"{self.num_virtual_tokens} virtual tokens" + (" out of a projection" if self.prefix_projection else "")

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with a prefix; only this and the parts that are new train."""
        import torch

        from llmkit.tuning.shared import attention_prefix as attention

        before = model.config._attn_implementation
        where = tuple(attention.places(model))
        reads = peft_reads(model, setting) and len({place.columns for place in where}) == 1
        reason = why_not_peft(model, setting) if reads else "peft's prefix doesn't reach all of its attention"
        width = where[0].heads * where[0].width
        hidden = (self.encoder_hidden_size or width) if self.prefix_projection else None
        columns = sum(place.columns for place in where)
        if self.prefix_init_text is None:
            state = attention.fresh(self.num_virtual_tokens, columns, width, hidden)
        else:
            ids = torch.tensor(fitted(self.prefix_init_text, setting.tokenizer, self.num_virtual_tokens))
            state = {"embedding.weight": attention.from_text(model, ids)}
        if reason:
            adapter = attention.PrefixAdapter(
                places=where, tokens=self.num_virtual_tokens, hidden=hidden, new=setting.new, plain=reads,
                task_type=TASK_TYPES.get(setting.head, "FEATURE_EXTRACTION"), base=setting.base)
            attention.attach(model, adapter, state)
            logging.getLogger("llmkit").info("prefix: through transformers' attention interface (%s).", reason)
            return model
        model.set_attn_implementation(before)
        tuned = self._with_peft(model, setting, hidden)
        tuned.prompt_encoder["default"].load_state_dict(state)
        logging.getLogger("llmkit").info("prefix: through peft.")
        return tuned  # type: ignore[return-value]

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter: one that peft opens wherever peft can give the same outputs, else one for `load`."""
        from peft import PeftModel

        from llmkit.tuning.shared import attention_prefix as attention

        if isinstance(model, PeftModel):
            save_adapter(model, folder)
        else:
            attention.save(model, folder)

    def _with_peft(self, model: PreTrainedModel, setting: Setting, hidden: int | None) -> PeftModel:
        from peft import PrefixTuningConfig, get_peft_model
        from peft.utils import ModulesToSaveWrapper

        config = PrefixTuningConfig(
            task_type=TASK_TYPES[setting.head], num_virtual_tokens=self.num_virtual_tokens,
            prefix_projection=self.prefix_projection, encoder_hidden_size=hidden,  # type: ignore[arg-type]
            modules_to_save=list(setting.new) or None)
        tuned = get_peft_model(model.requires_grad_(False), config)
        config.base_model_name_or_path = setting.base
        if config.modules_to_save is not None:  # peft adds the heads that it knows, several times
            config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
        for name, part in tuned.named_modules():
            if isinstance(part, ModulesToSaveWrapper) and not name.endswith(setting.new):
                part.requires_grad_(False)
        return tuned


def peft_reads(model: PreTrainedModel, setting: Setting) -> bool:
    """Whether peft's prefix tuning can give this model's outputs, with or without training through it."""
    import inspect

    if setting.family.shape == "encoder-decoder" or setting.head not in TASK_TYPES:
        return False
    if "past_key_values" in inspect.signature(model.forward).parameters:
        return True
    if "past_key_values" not in inspect.signature(model.base_model.forward).parameters:
        return False
    # an encoder: peft calls its body, then feeds the head itself, a classifier with what the pooler says
    return setting.head != "AutoModelForSequenceClassification" or "pooler" in dict(model.base_model.named_children())


def why_not_peft(model: PreTrainedModel, setting: Setting) -> str:
    """Why a model that peft can read still can't be trained through peft; empty where it can."""
    from llmkit.tuning.shared.attention_prefix import checkpoints

    if checkpoints(model) or setting.gradient_checkpointing:
        return "peft's prefix doesn't work with gradient checkpointing"
    if setting.unpadded:
        return "peft's prefix needs padded rows"
    if setting.packed:
        return "peft's prefix doesn't know the mask of packed rows"
    if setting.family.shape == "encoder" and setting.head in DROPS_TOKEN_TYPES:
        return "peft drops the token types that such a model may be given"
    return ""


def load(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put what `Prefix.save` wrote on a model like the one it was trained on; CheckpointError where it doesn't fit."""
    from llmkit.tuning.shared import attention_prefix as attention

    return attention.load(model, folder)
