"""What a program asks for: a recipe by its path, its name, its fields or as it was loaded, and rows of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmkit import recipe as recipes
from llmkit.data.memory import Given, memory_reader
from llmkit.data.sources import Reader
from llmkit.recipe import Recipe
from llmkit.system.errors import RequestError

Request = str | Path | Mapping[str, Any] | Recipe
"""A recipe's path, the name of a packaged one, its fields, or what `load_recipe` returns."""


def read(request: Request, train: Given | None, validation: Given | None) -> tuple[Recipe, dict[str, Reader]]:
    """The recipe of a request with the program's rows as its sources, and these by what the recipe calls them.

    RequestError, with file and line, where it is no recipe.
    """
    if train is None and validation is None and isinstance(request, Mapping):
        data = request.get("data")
        given = data.get("train") if isinstance(data, Mapping) else None
        if isinstance(given, list) and given and isinstance(given[0], Mapping) and "source" not in given[0]:
            raise RequestError("data.train: these are rows, not sources; give them beside the recipe: "
                               "llmkit.fit(recipe, train=rows, validation=…).")
    rows = {name: memory_reader(given, f"memory:{name}")
            for name, given in (("train", train), ("validation", validation)) if given is not None}
    recipe = recipe_from(request, {f"data.{name}": [asdict(reader.source)] for name, reader in rows.items()})
    return recipe, {reader.source.source: reader for reader in rows.values()}


def recipe_from(request: Request, fields: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a request, with some fields set."""
    if isinstance(request, Recipe):
        return recipes.load(recipes.tree_of(request), fields=fields) if fields else request
    if not isinstance(request, str | Path | Mapping):
        raise RequestError("recipe: a path, a packaged name, a dict or a Recipe is needed, not "
                           f"a {type(request).__name__}.")
    return recipes.load(request, fields=fields)
