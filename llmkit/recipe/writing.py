"""Writing a recipe: as YAML that can be run again, as a JSON Schema, and what differs between two."""

import re
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import yaml
from pydantic import TypeAdapter

from llmkit.recipe import registry
from llmkit.recipe.fields import BLOCKS, Recipe
from llmkit.recipe.reading import Loader
from llmkit.system.addresses import masked

DATALESS = ("name", "output_dir", "data.num_proc")
DOTTED = r"^[^\W\d]\w*(\.[^\W\d]\w*)+$"
"""A module's name, as a plug-in of somebody's own has it."""
FREE = ("logging_steps", "save_steps", "async_save", "save_total_limit", "report_to", "dataloader_num_workers",
        "ddp_timeout", "distributed", "figures")


def tree_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, plug-ins with their names: what `load` reads back.

    Addresses are without the passwords and signatures that open them: who runs it again gives these anew.
    """
    tree = _said(recipe, set(BLOCKS))
    for name in BLOCKS:
        if getattr(recipe, name) is not None:
            tree[name] = block(name, getattr(recipe, name))
    order = ("name", "seed", "backbone", "tokenizer", "data", "objective", "task", "prompting", "tuning",
             "optimizer", "teacher", "training", "output_dir")
    for part in ("train", "validation"):
        for source in sources if isinstance(sources := tree["data"].get(part), list) else []:
            source["source"] = masked(source["source"])
    return {key: tree[key] for key in order if tree.get(key) is not None}


def block(name: str, plugin: Any) -> dict[str, Any]:
    """A plug-in as the block of a recipe that makes it."""
    return {BLOCKS[name][1]: registry.name_of(plugin), **_said(plugin)}


def _said(options: Any, leave: set[str] | None = None) -> dict[str, Any]:
    """A dataclass as plain data, without what is null where null is the default anyway."""

    def shorter(value: Any, of: Any) -> Any:
        if is_dataclass(of):
            usual = {option.name: option.default for option in fields(of)}
            return {key: shorter(below, getattr(of, key)) for key, below in value.items()
                    if below is not None or usual[key] is not None}
        return [shorter(*pair) for pair in zip(value, of, strict=True)] if isinstance(value, list) else value

    plain = shorter(TypeAdapter(type(options)).dump_python(options, mode="json", exclude=leave), options)
    return dict(plain)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or the loader above would read as something else: `no`, `1e5`."""

    _old, _new = yaml.SafeDumper.yaml_implicit_resolvers, Loader.yaml_implicit_resolvers
    yaml_implicit_resolvers = {}
    for _first in {**_old, **_new}:
        yaml_implicit_resolvers[_first] = [*_old.get(_first, []), *_new.get(_first, [])]

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Between single quotes, the line breaks of Unicode would come back as spaces."""
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    def ignore_aliases(self, data: Any) -> bool:
        """Write a list twice that stands in two places."""
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


def dump(recipe: Recipe) -> str:
    """A recipe as YAML, with every default written out."""
    return yaml.dump(tree_of(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """{"training": {"max_steps": 5}}  ->  {"training.max_steps": 5}"""
    if isinstance(value, dict):
        return {k: v for key, below in value.items() for k, v in flat(below, f"{path}.{key}").items()}
    return {path[1:]: value}


def defaults(options: Any, path: str = "") -> dict[str, Any]:
    """The default of each field of a recipe that has one, by its name: {"training.warmup_steps": 0}."""
    found: dict[str, Any] = {}
    for option in fields(options):
        value, name = getattr(options, option.name), f"{path}{option.name}"
        if is_dataclass(value):
            found |= defaults(value, f"{name}.")
        elif option.default is not MISSING:
            found[name] = list(option.default) if isinstance(option.default, tuple) else option.default
        elif option.default_factory is not MISSING:
            found[name] = option.default_factory()
    return found


def differences(ours: Recipe, theirs: Recipe) -> dict[str, tuple[Any, Any]]:
    """What differs between two recipes, but for name, folder, logging, saving and trackers: (ours, theirs) by field."""
    a, b = flat(tree_of(ours)), flat(tree_of(theirs))
    free = {*DATALESS, *(f"training.{name}" for name in FREE)}
    return {key: (a.get(key), b.get(key)) for key in {**a, **b}
            if a.get(key) != b.get(key) and key not in free and not key.startswith("training.distributed.")}


def options_schema(cls: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a plug-in's options, inherited ones with their help too, which pydantic leaves out."""
    whole = TypeAdapter(cls).json_schema()
    for base in cls.__mro__[1:]:
        if is_dataclass(base):
            for name, about in TypeAdapter(base).json_schema().get("properties", {}).items():
                if "description" in about and name in whole["properties"]:
                    whole["properties"][name].setdefault("description", about["description"])
    return whole


def _theirs(kind: registry.Kind) -> dict[str, Any]:
    """What a plug-in of somebody's own may be called: a module, `my.objective`, or a name of an installed package."""
    return {"anyOf": [{"type": "string", "pattern": DOTTED, "description": "A module of your own."},
                      *([{"enum": list(there)}] if (there := registry.installed(kind)) else [])]}


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, with every plug-in's options, for editors. Those of modules of people's own, which
    aren't imported for it, may be anything.
    """
    whole = TypeAdapter(Recipe).json_schema()
    definitions = whole.setdefault("$defs", {})
    for block, (kind, key) in BLOCKS.items():
        choices = []
        for name in registry.names(kind):
            part = options_schema(registry.find(kind, name))
            definitions.update(part.pop("$defs", {}))
            part["properties"] = {key: {"const": name, "type": "string"}, **part.get("properties", {})}
            part["required"] = [key, *part.get("required", [])]
            choices.append(part)
        described = {k: v for k, v in whole["properties"][block].items() if k == "description"}
        theirs = _theirs(kind)
        choices.append({"type": "object", "properties": {key: theirs}, "required": [key]})  # only its module has more
        whole["properties"][block] = {**described, "anyOf": [{"enum": list(registry.names(kind))}, theirs, *choices]}
    source = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Source"}]}
    listed = {"anyOf": [*source["anyOf"], {"type": "array", "items": source}]}
    data = definitions["Data"]["properties"]
    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    count = {"type": "integer", "minimum": 1}
    for name, others in (("train", []), ("validation", [share, count])):
        described = {k: v for k, v in data[name].items() if k == "description"}
        data[name] = {**described, "anyOf": [*listed["anyOf"], *others]}
    for block in ("backbone", "tokenizer"):
        whole["properties"][block] = {"anyOf": [{"type": "string"}, {"$ref": f"#/$defs/{block.capitalize()}"}]}
    teacher = whole["properties"]["teacher"]
    teacher["anyOf"] = [{"type": "string"}, *teacher["anyOf"]]
    family = definitions["Backbone"]["properties"]["family"]
    family["anyOf"] = [{"enum": list(registry.names("backbones"))}, {"type": "string"}, {"type": "null"}]
    data_needed = {"required": definitions["Data"].pop("required")}
    needed = {"required": whole.pop("required"), "properties": {"data": data_needed}}
    whole["anyOf"] = [{"required": ["base"]}, needed]
    whole["properties"]["base"] = {
        "type": "string", "description": "The recipe that this one stands on: a packaged one's name, or a file beside "
                                         "this one. What stands here goes over it."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "title": "llmkit recipe"}
