"""What a program asks for: a recipe by its path, its name, its fields or as it was loaded, and rows of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmkit import recipe as recipes
from llmkit.data.memory import Given, memory_reader
from llmkit.data.sources import Reader
from llmkit.recipe import Recipe
from llmkit.system.errors import DataError, RequestError

Request = str | Path | Mapping[str, Any] | Recipe
"""A recipe's path, the name of a packaged one, its fields, or what `load_recipe` returns."""


def read(request: Request, train: Given | None, validation: Given | None) -> tuple[Recipe, dict[str, Reader]]:
    """The recipe of a request with the program's rows as its sources, and these by what the recipe calls them.

    Where the rows have the columns that the recipe names in `fields` of its own source, these are meant.
    RequestError, with file and line, where it is no recipe.
    """
    if train is None and validation is None and isinstance(request, Mapping):
        data = request.get("data")
        given = data.get("train") if isinstance(data, Mapping) else None
        if isinstance(given, list) and given and isinstance(given[0], Mapping) and "source" not in given[0]:
            raise RequestError("data.train: these are rows, not sources; give them beside the recipe: "
                               "llmkit.fit(recipe, train=rows, validation=…).")
    if train is None and validation is None:
        return recipe_from(request), {}
    data = _data_of(request)
    spares, names = data.get("on_bad_row") == "skip", _fields_of(data.get("train"))
    rows: dict[str, Reader] = {}
    for name, given in (("train", train), ("validation", validation)):
        if given is not None:
            reader = memory_reader(given, f"memory:{name}", spares=spares)
            there = _columns(reader) if names else {}
            fields = {field: column for field, column in names.items() if column in there}
            rows[name] = replace(reader, source=replace(reader.source, fields=dict(fields)))
    recipe = recipe_from(request, {f"data.{name}": [asdict(reader.source)] for name, reader in rows.items()})
    return recipe, {reader.source.source: reader for reader in rows.values()}


def _data_of(request: Request) -> Mapping[str, Any]:
    """What a request says of its data, before it is checked."""
    if isinstance(request, Recipe):
        return {"on_bad_row": request.data.on_bad_row, "train": [asdict(one) for one in request.data.train]}
    if isinstance(request, str | Path):
        found = recipes.read(recipes.find(request)).root.get("data")
    else:
        found = request.get("data") if isinstance(request, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _columns(reader: Reader) -> Mapping[str, Any]:
    """The first row, which says what rows have; what is wrong with it is told when it is read."""
    try:
        return next(row for row, _ in replace(reader, bad={}, notes=[]).rows())
    except DataError:
        return {}


def _fields_of(train: Any) -> dict[str, str]:
    """The names of columns in the first source that a recipe names: the program's rows may go by them, too."""
    first = train[0] if isinstance(train, list) and train else train
    fields = first.get("fields") if isinstance(first, Mapping) else None
    return {field: column for field, column in fields.items() if isinstance(column, str)} if isinstance(
        fields, Mapping) else {}


def recipe_from(request: Request, fields: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a request, with some fields set."""
    if isinstance(request, Recipe):
        return recipes.load(recipes.tree_of(request), fields=fields) if fields else request
    if not isinstance(request, str | Path | Mapping):
        raise RequestError("recipe: a path, a packaged name, a dict or a Recipe is needed, not "
                           f"a {type(request).__name__}.")
    return recipes.load(request, fields=fields)
