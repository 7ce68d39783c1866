"""Reading a recipe's YAML: as YAML 1.2 has it, with the line of each field, and nothing that a recipe doesn't need."""

import re
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic.dataclasses import dataclass

from llmkit.system.errors import RequestError

DEEPEST = 50
"""Levels that a recipe may nest."""


class Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `3e-4` is a number, `no` is a word, `12:30` is no number.

    What YAML can do and a recipe doesn't need is refused where it is met: aliases, tags, deep nesting.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, Any]]] = {}

    def __init__(self, text: str, name: str) -> None:
        """`name` is the file's, for errors."""
        super().__init__(text)
        self.file, self.depth = name, 0

    def get_event(self) -> Any:
        """The next event, if a recipe may have it."""
        event = super().get_event()  # type: ignore[no-untyped-call]
        here = f"{self.file}:{event.start_mark.line + 1}" if event.start_mark is not None else self.file
        if isinstance(event, yaml.AliasEvent):
            raise RequestError(f"{here}: a recipe has no aliases (`*{event.anchor}`); a text that starts with `*` "
                               "needs quotes.")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise RequestError(f"{here}: a recipe has no tags (`{tag}`); a text that starts with `!` needs quotes.")
        self.depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self.depth > DEEPEST:
            raise RequestError(f"{here}: nested too deeply for a recipe: more than {DEEPEST} levels.")
        return event


def _scalar(tag: str, pattern: str, first: str) -> None:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


_scalar("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_scalar("null", "~|null|Null|NULL|", "~nN\0")
Loader.yaml_implicit_resolvers.setdefault("", []).extend(Loader.yaml_implicit_resolvers["~"])
_scalar("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789")
_scalar("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+0123456789.")
_scalar("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")
Keys: TypeAlias = tuple[str | int, ...]


@dataclass
class Tree:
    """A recipe as plain dicts and lists, and where each field of it was said."""

    root: dict[str, Any]
    origin: dict[Keys, str]

    def where(self, path: Keys) -> str:
        """`recipe.yaml:12: training.learning_rate`, or the option that said it."""
        dotted = ".".join(map(str, path))
        for end in range(len(path), -1, -1):
            if path[:end] in self.origin:
                place = self.origin[path[:end]]
                said = not dotted or (place.startswith("-") and end == len(path))  # an option names its field itself
                return place if said else f"{place}: {dotted}"
        return dotted or "recipe"


def read(path: Path) -> Tree:
    """Parse a YAML file, remembering lines; duplicate keys, aliases and tags are errors."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error
    if len(raw) > 1_000_000:
        raise RequestError(f"{path}: {len(raw):,} bytes is too long for a recipe.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RequestError(f"{path}:{line}: not UTF-8: byte 0x{raw[error.start]:02x}.") from error
    origin: dict[Keys, str] = {}
    root = _parse(text, str(path), origin)
    if not isinstance(root, dict):
        kind = "empty" if root is None else f"a {type(root).__name__}"
        raise RequestError(f"{path}: a recipe is a mapping of sections (backbone, data, …); this file is {kind}.")
    return Tree(root, origin)


def _parse(text: str, name: str, origin: dict[Keys, str]) -> Any:
    def read_node(node: yaml.Node, path: Keys) -> Any:
        here = f"{name}:{node.start_mark.line + 1}"
        origin.setdefault(path, here)
        if isinstance(node, yaml.MappingNode):
            out: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = key_node.start_mark.line + 1
                if not isinstance(key_node, yaml.ScalarNode):
                    raise RequestError(f"{name}:{line}: a field's name must be a word.")
                key = str(key_node.value)
                if key in out:
                    raise RequestError(f"{name}:{line}: {'.'.join(map(str, (*path, key)))} is given twice.")
                origin[(*path, key)] = f"{name}:{line}"
                out[key] = read_node(value_node, (*path, key))
            return out
        if isinstance(node, yaml.SequenceNode):
            return [read_node(item, (*path, i)) for i, item in enumerate(node.value)]
        try:
            return loader.construct_object(node)
        except ValueError as error:  # Python reads no number of thousands of digits
            raise RequestError(f"{here}: {str(node.value)[:40]!r} can't be read: {error}.") from error

    try:
        loader = Loader(text, name)
        node = loader.get_single_node()
        return None if node is None else read_node(node, ())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RequestError(f"{name}:{line}: not YAML: the character {text[error.position]!r} can't be here.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark is not None else ""
        raise RequestError(f"{name}{place}: not YAML: {getattr(error, 'problem', None) or error}.") from error


def value(text: str, where: str) -> Any:
    """What a text on the command line is as YAML; RequestError where it is none."""
    return _parse(text, where, {})

