"""Find a plug-in by name: `llmkit/<kind>/<name>.py` holds exactly one public class.

A name with a dot is an import path, so a plug-in can live in the user's own package.
"""

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from llmkit.recipe.aliases import near
from llmkit.system.errors import RequestError

BASES = {"backbones": "Family", "objectives": "Objective", "tasks": "Task", "tuning": "Tuning",
         "prompting": "Prompting", "optimizers": "Optimizer"}
"""The class in `llmkit/<kind>/base.py` that a plug-in is made from."""
KINDS = {"backbones": "backbone family", "objectives": "objective", "tasks": "task", "tuning": "tuning method",
         "prompting": "prompt mode", "optimizers": "optimizer"}

AROUND = {"optimizers": "llmkit.optimizers.shared.named"}
"""Kinds that other libraries have classes of, and the module whose `around` makes a plug-in of such a class."""

OPTIONS = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
"""The pydantic settings of every block of a recipe: unknown fields are errors, docstrings are help."""


@cache
def names(kind: str) -> tuple[str, ...]:
    """List the plug-ins of a kind by listing its folder; nothing is imported."""
    folder = Path(__file__).parents[1] / kind
    stems = (path.stem for path in folder.glob("*.py"))
    return tuple(sorted(stem for stem in stems if stem != "base" and not stem.startswith("_")))


def find(kind: str, name: str) -> type[Any]:
    """Import the one module that `name` stands for and return its class.

    >>> find("objectives", "masked_lm").__name__
    'MaskedLM'
    """
    dotted = "." in name and all(part.isidentifier() for part in name.split("."))
    if not dotted and name not in names(kind):
        raise RequestError(f"no {KINDS[kind]} is called {name!r}.{near(kind, name, names(kind))}")
    if dotted and kind in AROUND and (known := _class(name)) is not None:
        adopted: type[Any] = import_module(AROUND[kind]).around(known, name)
        return adopted
    try:
        module = import_module(name if dotted else f"llmkit.{kind}.{name}")
    except ModuleNotFoundError as error:
        if dotted and name.startswith(str(error.name)):
            raise RequestError(f"no module {error.name!r} can be imported for the {KINDS[kind]} {name!r}; it must be "
                               "installed, or its folder be on PYTHONPATH.") from error
        if "." in name and str(error.name).startswith("llmkit."):
            raise RequestError(f"{name} imports {error.name}, which isn't there any more: modules moved (errors are in "
                               "llmkit.system.errors); CHANGELOG.md says which names stayed.") from error
        raise
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    public = [c for c in own if not c.__name__.startswith("_")]
    if len(public) != 1:
        raise RequestError(f"{module.__name__} must define one public class to be a {KINDS[kind]}; it has "
                           f"{len(public)}.")
    base = getattr(import_module(f"llmkit.{kind}.base"), BASES[kind])
    if kind in AROUND and not issubclass(public[0], base):
        alone: type[Any] = import_module(AROUND[kind]).around(public[0], name)
        return alone
    if not issubclass(public[0], base):
        raise RequestError(f"{module.__name__}.{public[0].__name__} must be made from "
                           f"{base.__module__}.{base.__name__} to be a {KINDS[kind]}.")
    return public[0]


def _class(name: str) -> type[Any] | None:
    """The class that a dotted name is of: `torch.optim.NAdam`; None where it is a module's, or nothing's."""
    package, _, last = name.rpartition(".")
    try:
        found = vars(import_module(package)).get(last)
    except ModuleNotFoundError as error:
        if package.startswith(str(error.name)):
            return None
        raise
    return found if inspect.isclass(found) else None


def about(kind: str, name: str) -> str:
    """What a plug-in is, in a sentence: the first line of its module."""
    return (inspect.getdoc(inspect.getmodule(find(kind, name))) or "").partition("\n")[0]


def module(name: str) -> Any:
    """A module of llmkit, or of a library, by its whole name: here alone, what is loaded is decided by a name."""
    return import_module(name)


def name_of(plugin: object) -> str:
    """The name that a recipe calls a plug-in by: `masked_lm` of `llmkit.objectives.masked_lm.MaskedLM`."""
    cls = plugin if inspect.isclass(plugin) else type(plugin)
    package, _, stem = cls.__module__.rpartition(".")
    return stem if package in {f"llmkit.{kind}" for kind in KINDS} else cls.__module__
