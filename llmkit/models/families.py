"""Which family a model is of: by the name that a recipe gives it, or by its config."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llmkit.backbones.auto import Auto
from llmkit.data.tokenizer_files import has_tokenizer
from llmkit.models.files import untyped
from llmkit.recipe import registry

log = logging.getLogger("llmkit")

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from llmkit.backbones.base import Family
    from llmkit.models.base import Base


def file_for(model_type: str | None) -> str | None:
    """The name of the family that has a file for a config's model_type; None where none has."""
    return next((name for name in registry.names("backbones")
                 if registry.find("backbones", name).model_type == model_type), None)


def family_of(base: Base) -> str:
    """The name of a pretrained model's family, by its config's model_type; auto where llmkit has no file for it."""
    kind = base.said.get("model_type")
    if not isinstance(kind, str):
        raise untyped(base.folder)
    name = file_for(kind)
    if name is None:
        log.info("backbone.family auto: llmkit has no file for %s, so its parts are read from the model's config", kind)
    return name or "auto"


def family_named(name: str, base: Base | None) -> type[Family]:
    """A family by its name; auto is what the pretrained model's config makes of it."""
    family = registry.find("backbones", name)
    if name == "auto":
        assert base is not None  # the recipe was checked for it
        family = made_for(base.config())
    return family if base is None else started(family, base)


def started(family: type[Family], base: Base) -> type[Family]:
    """A family whose decoder starts from the token that a pretrained model's config names, in whatever vocabulary.

    T5's starts from its padding token, UER's Chinese T5 from [CLS]. Nothing changes where the config names none.
    """
    start = base.said.get("decoder_start_token_id")
    if family.shape != "encoder-decoder" or type(start) is not int:
        return family

    def decoder_start(cls: type[Family], tokenizer: PreTrainedTokenizerBase) -> int:
        if not has_tokenizer(base.folder):
            return start
        words = {number: word for word, number in base.tokenizer.get_vocab().items()}
        return int(tokenizer.get_vocab().get(words.get(start, ""), family.decoder_start(tokenizer)))

    return type(family.__name__, (family,), {"decoder_start": classmethod(decoder_start)})


def family_for(config: PretrainedConfig) -> type[Family]:
    """The family of a config; where llmkit has no file for it, what can be read from the config itself."""
    name = file_for(config.model_type)
    if name is None:
        return made_for(config)
    return registry.find("backbones", name)


def made_for(config: PretrainedConfig) -> type[Family]:
    """What can be read of a family from a config; RequestError where that is no language model's."""
    return Auto.like(config)
