"""What pydantic says of a recipe, as one line: place, field, value, and what would do."""

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from pydantic import ValidationError

from llmkit.recipe.aliases import elsewhere
from llmkit.recipe.fields import Training
from llmkit.recipe.reading import Keys, Tree
from llmkit.system.errors import nearest


def explain(error: ValidationError, cls: type[Any], tree: Tree, path: Keys, plugin: tuple[str, str] | None) -> str:
    """The first complaint as one line: place, field, value, and what would do."""
    errors = error.errors(include_url=False)
    details = sorted(errors, key=lambda e: e["type"] != "unexpected_keyword_argument")[0]
    raw: Any = tree.root
    spelled: list[str | int] = [*path]
    for key in path:
        raw = raw[key]
    node: Any = raw
    for key in details["loc"]:  # leave out the parts of the location that name a member of a union
        if (isinstance(node, dict) and key in node) or (isinstance(node, list) and isinstance(key, int)):
            node = node[key]  # type: ignore[index]
            spelled.append(key)
        elif details["type"] in ("missing", "missing_argument") and key == details["loc"][-1]:
            spelled.append(key)
    where = tree.where(tuple(spelled))
    kind = details["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = _owner(cls, [key for key in spelled[len(path) : -1] if isinstance(key, str)])
        known = [f.name for f in fields(owner)] if owner is not None else []
        of = f" of {plugin[1]}" if plugin else ""
        last = {"lr": "learning_rate"}.get(str(spelled[-1]), str(spelled[-1]))
        if plugin and last in {f.name for f in fields(Training)} and last not in known:
            return f"{where}: no such field{of}; it is training.{last}."
        return f"{where}: no such field{of}.{elsewhere(str(spelled[-1])) or nearest(str(spelled[-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"{where}: this field is needed."
    shown = json.dumps(node, ensure_ascii=False, default=str)[:80]
    if kind == "value_error":  # what a plug-in says of its options together
        return f"{where}: {details['msg'].removeprefix('Value error, ')}: {shown}."
    if isinstance(node, bool) and kind in ("less_than", "less_than_equal", "greater_than", "greater_than_equal"):
        return f"{where}: {shown} is no number."
    message = re.sub("^(Input|String) ", "", details["msg"])
    if kind == "dataclass_type":
        message = "should be a mapping of fields"
    words = [e["ctx"]["expected"] for e in errors if e["type"] == "literal_error" and e["input"] == node] \
        if isinstance(node, str) else []
    if words and kind != "literal_error":
        message += f"; or {words[0]}"
    hint = nearest(node, words[0].replace(" or ", ", ").replace("'", "").split(", ")) if words else ""
    return f"{where}: {shown} {message}.{hint}"


def _owner(cls: Any, keys: Sequence[str]) -> Any:
    """The dataclass of a nested block."""
    for key in keys:
        kinds = {f.name: f.type for f in fields(cls)}
        options = [kinds.get(key), *get_args(kinds.get(key))]
        options += [arg for option in options for arg in get_args(option)]
        cls = next((option for option in options if is_dataclass(option)), None)
        if cls is None:
            return None
    return cls
