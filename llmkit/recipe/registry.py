"""Find a plug-in by name: `llmkit/<kind>/<name>.py` holds exactly one public class.

A name with a dot is an import path, so a plug-in can live in the user's own package. An installed package may give one
of its modules a short name by an entry point; llmkit's own names can't be taken by one, and listing imports none.
"""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from pydantic import ConfigDict

from llmkit.recipe.aliases import near
from llmkit.recipe.watching import Told
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from llmkit.recipe.seams import Answering, Learning, Method, PromptMode, Shaped, UpdateRule

Kind: TypeAlias = Literal["backbones", "objectives", "tasks", "tuning", "prompting", "optimizers"]
"""The folders of plug-ins."""
BASES: dict[Kind, str] = {"backbones": "Family", "objectives": "Objective", "tasks": "Task", "tuning": "Tuning",
                          "prompting": "Prompting", "optimizers": "Optimizer"}
"""The class in `llmkit/<kind>/base.py` that a plug-in is made from."""
KINDS: dict[Kind, str] = {"backbones": "backbone family", "objectives": "objective", "tasks": "task",
                          "tuning": "tuning method", "prompting": "prompt mode", "optimizers": "optimizer"}
GROUPS: dict[Kind, str] = {kind: "llmkit.families" if kind == "backbones" else f"llmkit.{kind}" for kind in KINDS}
"""The group of entry points by which an installed package names its plug-ins of a kind."""
AROUND: dict[Kind, str] = {"optimizers": "llmkit.optimizers.shared.named"}
"""Kinds that other libraries have classes of, and the module whose `around` makes a plug-in of such a class."""

OPTIONS = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
"""The pydantic settings of every block of a recipe: unknown fields are errors, docstrings are help."""


def names(kind: Kind) -> tuple[str, ...]:
    """List the plug-ins of a kind by listing its folder; nothing is imported."""
    return _listed(kind)


@cache  # a decorated function takes whatever can be hashed, for type checkers: `names` says what it takes
def _listed(kind: Kind) -> tuple[str, ...]:
    folder = Path(__file__).parents[1] / kind
    stems = (path.stem for path in folder.glob("*.py"))
    return tuple(sorted(stem for stem in stems if stem != "base" and not stem.startswith("_")))


@overload
def find(kind: Literal["backbones"], name: str) -> Shaped: ...
@overload
def find(kind: Literal["objectives"], name: str) -> type[Learning]: ...
@overload
def find(kind: Literal["tasks"], name: str) -> type[Answering]: ...
@overload
def find(kind: Literal["tuning"], name: str) -> type[Method]: ...
@overload
def find(kind: Literal["prompting"], name: str) -> type[PromptMode]: ...
@overload
def find(kind: Literal["optimizers"], name: str) -> type[UpdateRule]: ...
@overload
def find(kind: Kind, name: str) -> type[Any]: ...
def find(kind: Kind, name: str) -> type[Any]:
    """Import the one module that `name` stands for and return its class.

    >>> find("objectives", "masked_lm").__name__
    'MaskedLM'
    """
    dotted, known_as = "." in name and all(part.isidentifier() for part in name.split(".")), name
    if not dotted and name not in names(kind):
        name, dotted = _installed_module(kind, name), True
    if dotted and kind in AROUND and (known := _class(name)) is not None:
        adopted: type[Any] = import_module(AROUND[kind]).around(known, name)
        return adopted
    module = _own(kind, name, known_as) if dotted else import_module(f"llmkit.{kind}.{name}")
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


def installed(kind: Kind) -> dict[str, tuple[EntryPoint, ...]]:
    """The plug-ins that installed packages have of a kind, by name; nothing of them is imported.

    One name may be of several packages; a name of llmkit's own is none of theirs.

        [project.entry-points."llmkit.objectives"]
        backward_lm = "llmkit_backward.objective"          ->  {"backward_lm": (EntryPoint(…),)}
    """
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUPS[kind]):
        if point.name not in names(kind) and point.value not in {one.value for one in found.get(point.name, ())}:
            found[point.name] = (*found.get(point.name, ()), point)
    return dict(sorted(found.items()))


def package_of(point: EntryPoint) -> str:
    """`llmkit-backward 0.1.0`, which an entry point is of."""
    return "a package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _installed_module(kind: Kind, name: str) -> str:
    """The module that an installed package means by a name; RequestError where none does, or several do."""
    there = installed(kind)
    if name not in there:
        raise RequestError(f"no {KINDS[kind]} is called {name!r}.{near(kind, name, [*names(kind), *there])}")
    if len(there[name]) > 1:
        each = " or ".join(f"{point.value} ({package_of(point)})" for point in there[name])
        raise RequestError(f"{name!r} is the {KINDS[kind]} of several packages; write its module: {each}.")
    (point,) = there[name]
    if point.attr:
        raise RequestError(f"{package_of(point)} says that its {KINDS[kind]} {name!r} is {point.value}; an entry point "
                           f"of {GROUPS[kind]} names a module, {point.module}, which has one public class.")
    return point.module


def _own(kind: Kind, name: str, known_as: str) -> ModuleType:
    """A module of somebody's own; RequestError where it can't be imported."""
    with Told(f"{name}, imported for the {KINDS[kind]},", ""):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if name.startswith(str(error.name)):
                raise RequestError(f"no module {error.name!r} can be imported for the {KINDS[kind]} {known_as!r}; it "
                                   "must be installed, or its folder be on PYTHONPATH.") from error
            if str(error.name).startswith("llmkit."):
                raise RequestError(f"{name} imports {error.name}, which isn't there any more: modules moved (errors "
                                   "are in llmkit.system.errors); CHANGELOG.md says which names stayed.") from error
            raise


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


def about(kind: Kind, name: str) -> str:
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
