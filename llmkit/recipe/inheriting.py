"""A recipe that stands on another: `base: bert_mlm`, and what differs from it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmkit.recipe.fields import BLOCKS, LENGTHS
from llmkit.recipe.reading import Keys, Tree
from llmkit.recipe.variables import path_of
from llmkit.system.errors import RequestError

OWN = ("name", "output_dir")
"""What a recipe doesn't take from its base: two recipes would write into one folder."""
WHOLE = (("data", "train"), ("data", "validation"))
"""Fields that are taken as they stand, for a mapping there is one of a list."""
NAMED = {**{block: (key,) for block, (_, key) in BLOCKS.items()}, "backbone": ("pretrained", "family"),
         "tokenizer": ("pretrained", "train"), "teacher": ("model",)}
"""Blocks that stand for something by its name: what a name alone means, and the other fields that say which it is."""
DEEPEST_BASE = 20
"""Recipes that stand on one another."""


def inherited(tree: Tree, path: Path | None, find: Callable[[str, Path], tuple[Path, Tree]]) -> Tree:
    """A recipe with what it says over what its base says, and that over its own base.

    Mappings merge by field. Lists, data's sources, and blocks that name another plug-in, family, model or way to a
    tokenizer are replaced whole; so is a length by another, and an objective by a task, which packs its rows its own
    way. Null takes a mapping away, and is a value elsewhere. A recipe without a name has its file's.

        base: {training: {max_steps: 480, seed: 1}}   over it: {training: {num_train_epochs: 3}}
        ->    {training: {num_train_epochs: 3, seed: 1}}

    `find` gives the file and the tree of a base by its name and the folder of the recipe that names it. RequestError,
    with file and line, where there is no such recipe, or where one stands on itself.
    """
    over, files = [tree], [path]
    while "base" in over[-1].root:
        name, where = over[-1].root.pop("base"), over[-1].where(("base",))
        if not isinstance(name, str) or not name:
            raise RequestError(f"{where}: a base is one recipe: a packaged one's name, or a file beside this one.")
        name = path_of(name, where)
        here = files[-1].parent if files[-1] is not None else Path()
        try:
            found, below = find(name, here)
        except RequestError as error:
            raise RequestError(f"{where}: {error}" if str(error).startswith("no recipe") else str(error)) from error
        known = [file.resolve() for file in files if file is not None]
        if found.resolve() in known:
            circle = " -> ".join(file.name for file in [*known[known.index(found.resolve()):], found])
            raise RequestError(f"{where}: a recipe can't stand on itself: {circle}.")
        if len(files) > DEEPEST_BASE:
            raise RequestError(f"{where}: more than {DEEPEST_BASE} recipes stand on one another.")
        over.append(below)
        files.append(found)
    if len(over) == 1:
        return tree
    made = over.pop()
    for name in OWN:
        made.root.pop(name, None)
    while over:
        made = _over(made, over.pop(), own=not over)
    if "name" not in made.root and path is not None and re.fullmatch(r"\w[\w.+-]{0,99}", path.stem):
        made.root["name"] = path.stem
    return made


def _over(base: Tree, tree: Tree, own: bool) -> Tree:
    """What one recipe says over another, whose tree it goes into."""
    root, origin = base.root, base.origin
    for one, other in (("task", "objective"), ("objective", "task")):
        if tree.root.get(one) is not None and tree.root.get(other) is None and root.get(other) is not None:
            _drop(root, origin, (other,))
            _drop(root, origin, ("data", "packing"))  # what the one can, the other may not
    training = tree.root.get("training")
    if isinstance(training, dict) and any(training.get(name) is not None for name in LENGTHS):
        for name in LENGTHS:
            _drop(root, origin, ("training", name))
    for key, value in tree.root.items():
        if key not in OWN or own:
            _put(root, origin, tree, (key,), value)
    origin[()] = tree.origin.get((), origin.get((), "recipe"))
    return Tree(root, origin)


def _put(root: dict[str, Any], origin: dict[Keys, str], tree: Tree, path: Keys, value: Any) -> None:
    """Take one field, field by field where both are mappings of the same thing."""
    node: Any = root
    for key in path[:-1]:
        node = node[key]
    last = path[-1]
    below = node.get(last)
    if len(path) == 1 and last in NAMED:
        short, *names = NAMED[str(last)]
        below, value = ({short: given} if isinstance(given, str) else given for given in (below, value))
        if isinstance(below, dict) and isinstance(value, dict) and any(
                name in value and value[name] != below.get(name) for name in (short, *names)):
            below = None
    if isinstance(below, dict) and isinstance(value, dict) and path not in WHOLE:
        node[last] = below
        for key, given in value.items():
            _put(root, origin, tree, (*path, key), given)
    elif value is None and isinstance(below, dict):
        _drop(root, origin, path)
    else:
        _drop(root, origin, path)
        node[last] = value
        origin.update({place: said for place, said in tree.origin.items() if place[: len(path)] == path})
    if path in tree.origin:
        origin[path] = tree.origin[path]


def _drop(root: dict[str, Any], origin: dict[Keys, str], path: Keys) -> None:
    """Take away a field, and where it was said."""
    node: Any = root
    for key in path[:-1]:
        node = node.get(key)
        if not isinstance(node, dict):
            return
    node.pop(path[-1], None)
    for place in [place for place in origin if place[: len(path)] == path]:
        del origin[place]
