"""What a shell offers at Tab: names of recipes, models and plug-ins, without a library being loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmkit.recipe.registry import Kind


def recipes(incomplete: str) -> list[str]:
    """Packaged recipes; of anything else the shell offers files."""
    from llmkit.recipe.loading import packaged

    return _starting(packaged(), incomplete)


def models(incomplete: str) -> list[str]:
    """Names of the catalogue; of anything else the shell offers files."""
    from llmkit.models.catalogue import CATALOGUE

    return _starting(CATALOGUE, incomplete)


def methods(incomplete: str) -> list[str]:
    """Tuning methods."""
    return _plugins("tuning", incomplete)


def tasks(incomplete: str) -> list[str]:
    """Tasks."""
    return _plugins("tasks", incomplete)


def objectives(incomplete: str) -> list[str]:
    """Objectives."""
    return _plugins("objectives", incomplete)


def modes(incomplete: str) -> list[str]:
    """Prompt modes."""
    return _plugins("prompting", incomplete)


def several_methods(incomplete: str) -> list[str]:
    """The last of several tuning methods: full,lo -> full,lora."""
    return _last_of("tuning", incomplete)


def several_models(incomplete: str) -> list[str]:
    """The last of several models: minilm-l6,smo -> minilm-l6,smollm2-135m."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in models(last)]


def several_modes(incomplete: str) -> list[str]:
    """The last of several prompt modes."""
    return _last_of("prompting", incomplete)


def _plugins(kind: Kind, incomplete: str) -> list[str]:
    from llmkit.recipe.registry import installed, names

    return _starting([*names(kind), *installed(kind)], incomplete)


def _last_of(kind: Kind, incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _plugins(kind, last)]


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
