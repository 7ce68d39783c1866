"""What a program asks for: a recipe by its path, its name, its fields or as it was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmkit import recipe as recipes
from llmkit.recipe import Recipe
from llmkit.system.errors import RequestError


def recipe_from(request: str | Path | Mapping[str, Any] | Recipe) -> Recipe:
    """The recipe of a request; RequestError, with file and line, where it is none."""
    if isinstance(request, Recipe):
        return request
    if not isinstance(request, str | Path | Mapping):
        raise RequestError(f"recipe: a path, a packaged name, a dict or a Recipe is needed, not "
                           f"a {type(request).__name__}.")
    return recipes.load(request)
