"""Which family a model is of: by the name that a recipe gives it, or by its config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmkit.recipe import registry
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from llmkit.backbones.base import Family
    from llmkit.models.base import Base


def file_for(model_type: str | None) -> str | None:
    """The name of the family that has a file for a config's model_type; None where none has."""
    return next((name for name in registry.names("backbones")
                 if registry.find("backbones", name).model_type == model_type), None)


def family_of(base: Base) -> str:
    """The name of a pretrained model's family, by its config's model_type; RequestError where llmkit has no file."""
    kind = base.said.get("model_type")
    name = file_for(kind)
    if name is None:
        raise RequestError(f"backbone.family: the model in {base.folder} is a {kind!r}, which llmkit has no file for; "
                           "say family: auto to read what is needed from its config.")
    return name


def family_named(name: str, base: Base | None) -> type[Family]:
    """A family by its name; auto is what the pretrained model's config makes of it."""
    family: type[Family] = registry.find("backbones", name)
    if name != "auto":
        return family
    assert base is not None  # the recipe was checked for it
    return made_for(base.config())


def family_for(config: PretrainedConfig) -> type[Family]:
    """The family of a config; where llmkit has no file for it, what can be read from the config itself."""
    name = file_for(config.model_type)
    if name is None:
        return made_for(config)
    family: type[Family] = registry.find("backbones", name)
    return family


def made_for(config: PretrainedConfig) -> type[Family]:
    """What can be read of a family from a config; RequestError where that is no language model's."""
    made: type[Family] = registry.find("backbones", "auto").like(config)
    return made
