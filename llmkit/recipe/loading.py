"""From a file, a packaged name or a dict to a recipe: what is said over it, then the dataclasses, then the checks."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmkit.recipe import registry
from llmkit.recipe.checking import check
from llmkit.recipe.complaints import explain
from llmkit.recipe.fields import BLOCKS, LENGTHS, Data, Recipe
from llmkit.recipe.inheriting import NAMED, inherited
from llmkit.recipe.reading import Keys, Tree, read, value
from llmkit.recipe.variables import filled
from llmkit.recipe.watching import Told, foreign
from llmkit.system.addresses import at_home
from llmkit.system.errors import NothingThereError, RequestError, nearest

log = logging.getLogger("llmkit")

SECTIONS = ("backbone", "data", "training")
"""Blocks that have defaults of their own: one with nothing below it is one that isn't there."""
OPTIONS = {"data.train": "--data", "data.validation": "--validation", "backbone": "--model"}
"""Options of finetune that aren't called as the field that they give."""
READ = ("train", "on_bad_row")
"""What of `data` says how rows are read."""


def packaged() -> dict[str, Path]:
    """The recipes that llmkit brings, by name."""
    inside = Path(str(files("llmkit"))) / "recipes"
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(recipe: str | Path) -> Path:
    """A recipe's file: a path, or a packaged one as `NAME` or `recipes/NAME.yaml`, where no such file is here.

    RequestError where there is none. Any other path is somebody's own, and never stands for a packaged recipe.
    """
    path, known = Path(recipe), packaged()
    try:
        if path.is_file():
            return path
    except OSError as error:  # its folder is somebody else's
        raise RequestError(f"{recipe}: {error.strerror}.") from error
    for name in (name for name in known if str(recipe) in (name, f"recipes/{name}.yaml")):
        return known[name]
    if path.is_dir():
        raise RequestError(f"{recipe}: is a folder; a recipe is a file of YAML.")
    if path.stem in known:
        raise RequestError(f"no recipe at {str(recipe)!r}. Did you mean {path.stem!r}, which llmkit brings?")
    raise RequestError(f"no recipe at {str(recipe)!r}, and none is called that.{nearest(path.stem, known)}")


def located(recipe: str | Path) -> Path:
    """A recipe's file, as `find` has it; one that isn't the user's own is said."""
    path = find(recipe)
    if path != Path(recipe):
        log.info("recipe %s: the packaged one; `llmkit recipes show %s` prints it", path.stem, path.stem)
    return path


def _base(name: str, folder: Path) -> tuple[Path, Tree]:
    """The recipe that another stands on: a file beside that one, or a packaged recipe."""
    beside = folder / at_home(name)
    whole = beside.with_name(f"{beside.name}.yaml")  # `base: small` is small.yaml beside it, where none is packaged so
    named = whole if whole.is_file() and name not in packaged() else None
    path = beside if beside.is_file() else named or find(name)
    return path, read(path)


def override(tree: Tree, settings: Iterable[str]) -> None:
    """Apply `section.key=value`, each value read as YAML."""
    given: list[str] = []
    for item in settings:
        dotted, equals, text = item.partition("=")
        keys = dotted.strip().split(".")
        if keys[0] == "base":
            raise RequestError(f"--set {item!r}: name the recipe itself in this one's place, or write base "
                               "into its file.")
        if not equals or not all(keys):
            raise RequestError(f"--set {item!r}: write section.key=value, as training.max_steps=100.")
        try:
            found = value(text, f"--set {dotted}")
        except RequestError as error:
            if text.lstrip().startswith(("[", "{")):
                raise RequestError(f"--set {item!r}: the value isn't YAML.") from error
            found = text  # `*.txt` is a glob here, not an alias
        put(tree, tuple(keys), found, f"--set {dotted}")
        if len(keys) == 2 and keys[0] == "training" and keys[1] in LENGTHS and found is not None:
            given.append(keys[1])
    if len(set(given)) > 1:
        raise RequestError(f"--set training.{given[0]} and --set training.{given[1]}: only one length can hold.")


def put(tree: Tree, path: Sequence[str], value: Any, origin: str) -> None:
    """Set one field from outside the file; a length replaces the file's length."""
    node: Any = tree.root
    for depth, key in enumerate(path[:-1]):
        below = tuple(path[: depth + 1])
        if isinstance(node, list):
            key_: Any = _index(node, key, tree, path)
            node = node[key_]
            continue
        if node.get(key) is None:
            node[key] = {}
            tree.origin[below] = origin
        elif isinstance(node[key], str) and below in {(block,) for block in NAMED}:
            node[key] = {NAMED[key][0]: node[key]}
        node = node[key]
        if not isinstance(node, dict | list):
            raise RequestError(f"{origin}: {'.'.join(below)} is {node!r}, it has no fields.")
    if isinstance(node, list):
        node[_index(node, path[-1], tree, path)] = value
    else:
        node[path[-1]] = value
        if len(path) == 2 and path[0] == "training" and path[1] in LENGTHS and value is not None:
            for other in LENGTHS:
                if other != path[1]:
                    node.pop(other, None)
    for known in [p for p in tree.origin if p[: len(path)] == tuple(path)]:
        del tree.origin[known]
    tree.origin[tuple(path)] = origin


def _index(node: list[Any], key: str, tree: Tree, path: Sequence[str]) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise RequestError(f"--set {'.'.join(path)}: {key!r} is no place in a list of {len(node)}.")
    return int(key)


def build(tree: Tree) -> Recipe:
    """Turn a tree into a recipe; every field is checked, the first error is raised with its place."""
    tree = filled(tree)
    root = dict(tree.root)
    plugins = {block: _plugin(tree, block, root.pop(block)) for block in BLOCKS if root.get(block) is not None}
    root = {key: value for key, value in root.items()
            if key not in BLOCKS and not (value is None and key in SECTIONS)}
    data = root.get("data")
    if isinstance(data, dict):
        root["data"] = data = dict(data)
        for part in ("train", "validation"):
            if isinstance(data.get(part), str | dict | list):
                data[part] = _sources(data[part])
    if isinstance(root.get("tokenizer"), str):
        root["tokenizer"] = {"pretrained": root["tokenizer"]}
    if isinstance(root.get("backbone"), str):
        root["backbone"] = {"pretrained": root["backbone"]}
    if isinstance(root.get("teacher"), str):
        root["teacher"] = {"model": root["teacher"]}
    root = _as_the_teacher_reads(root)
    recipe: Recipe = _checked(Recipe, root, tree, ())
    if (plugins.get("objective") is None) == (plugins.get("task") is None):
        both = "both objective and task are given" if "task" in plugins else "neither objective nor task is given"
        where = tree.where(("task",) if "task" in plugins else ())
        raise RequestError(f"{where}: {both}; a recipe has one: objective to pretrain, task to fine-tune.")
    if "tuning" not in plugins:
        plugins["tuning"] = registry.find("tuning", "full")()
    lengths = [name for name in LENGTHS if getattr(recipe.training, name) is not None]
    if len(lengths) > 1:
        raise RequestError(f"{tree.where(('training', lengths[1]))}: a run has one length; {lengths[0]} is given too.")
    if not lengths:
        recipe = replace(recipe, training=replace(recipe.training, num_train_epochs=3.0))
    recipe = replace(recipe, **plugins)
    check(recipe, tree)
    return recipe


def _as_the_teacher_reads(root: dict[str, Any]) -> dict[str, Any]:
    """A recipe's fields, with its teacher's tokenizer where a student from scratch has none of its own."""
    teacher, backbone = root.get("teacher"), root.get("backbone")
    new = isinstance(backbone, dict) and backbone.get("pretrained") is None
    if not new or root.get("tokenizer") is not None or not isinstance(teacher, dict):
        return root
    if not isinstance(teacher.get("model"), str):
        return root
    log.info("tokenizer: the teacher's, %s", teacher["model"])
    return {**root, "tokenizer": {"pretrained": teacher["model"]}}


def _sources(value: Any) -> Any:
    """A path, a mapping or a list of them, as a list of mappings."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return value  # a share in quotes
    items = value if isinstance(value, list) else [value]
    return [{"source": item} if isinstance(item, str) else item for item in items]


def data_of(source: str, settings: Iterable[str], target: str | None = None) -> Data:
    """What `--set data.…` says of rows that no recipe names: {"source": source}, with the fields that are given.

    RequestError for what isn't about how rows are read.
    """
    tree = Tree({"data": {"train": [{"source": source, **({"target": target} if target else {})}]}}, {})
    override(tree, settings)
    block = tree.root["data"]
    others = [*(name for name in tree.root if name != "data"), *(f"data.{name}" for name in block if name not in READ)]
    if others:
        raise RequestError(f"{tree.where(tuple(others[0].split('.')))}: here only how rows are read can be said: "
                           f"{' or '.join(f'data.{name}' for name in READ)}.")
    data: Data = _checked(Data, {**block, "train": _sources(block["train"])}, tree, ("data",))
    if len(data.train) != 1 or data.train[0].source not in (source, "stdin" if source == "-" else source):
        raise RequestError(f"{tree.where(('data', 'train'))}: names {', '.join(one.source for one in data.train)}, but "
                           f"what is read is {source}.")
    if data.train[0].weight is not None or data.train[0].split != "train":
        raise RequestError(f"{tree.where(('data', 'train'))}: weight and split are for a recipe.")
    return data


def key_of(kind: str) -> str:
    """The key that names a plug-in of a kind in its block."""
    return next(key for folder, key in BLOCKS.values() if folder == kind)


def plugin(block: str, value: Any, where: str) -> Any:
    """The plug-in that a block of a recipe names, given elsewhere: `where` is what errors call it, as `--prompt`."""
    return _plugin(_Elsewhere({block: value}, {(): where}), block, value)


class _Elsewhere(Tree):
    """A block that stands in no recipe: `--prompt example: k`."""

    def where(self, path: Keys) -> str:
        return f"{self.origin[()]}: {'.'.join(map(str, path[1:]))}" if path[1:] else self.origin[()]


def _plugin(tree: Tree, block: str, value: Any) -> Any:
    """Turn `{name: masked_lm, mlm_probability: 0.15}` into the plug-in it names."""
    kind, key = BLOCKS[block]
    options = {key: value} if isinstance(value, str) else value
    if not isinstance(options, dict):
        raise RequestError(f"{tree.where((block,))}: write {{{key}: …}} with its options, not {value!r}.")
    options = dict(options)
    name = options.pop(key, None)
    if name is None:
        raise RequestError(f"{tree.where((block,))}: {key} is missing.{nearest('', registry.names(kind))}")
    try:
        cls = registry.find(kind, str(name))
    except RequestError as error:
        raise RequestError(f"{tree.where((block, key))}: {error}") from error
    if not is_dataclass(cls):
        raise RequestError(f"{tree.where((block, key))}: {cls.__name__} of {name!r} must be a dataclass: its fields "
                           "are its options.")
    return _checked(cls, options, tree, (block,), plugin=(key, name))


def _checked(cls: type[Any], value: Any, tree: Tree, path: Keys, plugin: tuple[str, str] | None = None) -> Any:
    with Told(f"{cls.__module__}.{cls.__qualname__}, made of its options,", "") if foreign(cls) else nullcontext():
        try:
            built = TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            raise RequestError(explain(error, cls, tree, path, plugin)) from error
    _no_truths(value, built, tree, path)
    return built


def _no_truths(raw: Any, built: Any, tree: Tree, path: Keys) -> None:
    """`max_steps: true` is no number, though Python would count it as 1."""
    if isinstance(raw, bool) and not isinstance(built, bool):
        kind = "number" if isinstance(built, int | float) else "text"
        raise RequestError(f"{tree.where(path)}: {str(raw).lower()} is no {kind}.")
    if isinstance(raw, dict):
        made = built.values() if isinstance(built, dict) else [getattr(built, key) for key in raw]
        for (key, below), value in zip(raw.items(), made, strict=True):
            _no_truths(below, value, tree, (*path, key))
    if isinstance(raw, list):
        for i, (below, made) in enumerate(zip(raw, built, strict=True)):
            _no_truths(below, made, tree, (*path, i))


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """A dict as YAML would give it; RequestError for rows of a program, or functions, where a value should be."""
    _refuse_objects(recipe, ())
    tree: dict[str, Any] = json.loads(json.dumps(recipe, default=str))
    return tree


def _refuse_objects(value: Any, path: Keys) -> None:
    """What can be gone through or called is no value of a recipe; its text would be taken for the name of a file."""
    if isinstance(value, dict):
        for key, below in value.items():
            _refuse_objects(below, (*path, key))
    elif isinstance(value, list | tuple):
        for i, below in enumerate(value):
            _refuse_objects(below, (*path, i))
    elif callable(value) or (isinstance(value, Iterable) and not isinstance(value, str)):
        way = ("give rows beside it: llmkit.fit(recipe, train=…, validation=…)" if path[:1] == ("data",)
               else "write numbers, texts, lists or dicts")
        raise RequestError(f"{'.'.join(map(str, path))}: a recipe can't hold a {type(value).__name__}; {way}.")


def load(
    recipe: str | Path | Mapping[str, Any],
    settings: Iterable[str] = (),
    *,
    method: str | None = None,
    task: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe from a path, a packaged name or a dict, and apply what the command line says over it.

    `method` and `task` replace their whole block, `fields` maps dotted names to values, and `settings` are
    `section.key=value` texts; each goes over the one before. Raises RequestError with file and line.
    """
    if not isinstance(recipe, Mapping):
        recipe = located(recipe)
    return build(asked(recipe, settings, method, task, fields))


def asked(
    recipe: str | Path | Mapping[str, Any], settings: Iterable[str], method: str | None, task: str | None,
    fields: Mapping[str, Any] | None,
) -> Tree:
    """What `load` makes a recipe of: all that is said, and where."""
    if isinstance(recipe, Mapping):
        tree = inherited(Tree(_plain(dict(recipe)), {}), None, _base)
    else:
        path = find(recipe)
        tree = inherited(read(path), path, _base)
    settings = list(settings)
    if task is not None:
        put(tree, ("task",), {}, f"--task {task}")
        put(tree, ("task", "name"), task, f"--task {task}")
        tree.root.pop("objective", None)
    if method is not None:
        put(tree, ("tuning",), {}, f"--method {method}")
        put(tree, ("tuning", "method"), method, f"--method {method}")
    for dotted, given in (fields or {}).items():
        put(tree, dotted.split("."), given, OPTIONS.get(dotted) or f"--{dotted.rpartition('.')[2].replace('_', '-')}")
    override(tree, settings)
    return tree


@contextmanager
def placed(
    recipe: str | Path, settings: Iterable[str] = (), *, method: str | None = None, task: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """What isn't where `load(recipe, …)` says is told with the line, or the option, that says so, while the block runs.

    r.yaml:4: data.train: corpora/a.txt: no such file or folder.
    """
    try:
        yield
    except NothingThereError as error:
        if not error.field:
            raise
        where = asked(recipe, list(settings), method, task, fields).where(error.field)
        raise NothingThereError(f"{where}: {error.message}") from error
