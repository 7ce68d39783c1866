"""Formats of files: a module of this folder each, found by listing it, so that a new format is one new file."""

import inspect
from functools import cache
from pathlib import Path

from llmkit.data.files import suffix_of
from llmkit.data.formats.base import Format
from llmkit.recipe import registry


@cache
def formats() -> dict[str, Format]:
    """Every format by its name, that of its module; those that are usual first."""
    stems = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    opened = {stem: _only_format(stem) for stem in stems if stem != "base" and not stem.startswith("_")}
    return dict(sorted(opened.items(), key=lambda item: item[1].rank))


def _only_format(stem: str) -> Format:
    module = registry.module(f"{__name__}.{stem}")
    kinds = [cls for cls in vars(module).values()
             if inspect.isclass(cls) and issubclass(cls, Format) and cls.__module__ == module.__name__]
    if len(kinds) != 1:
        raise TypeError(f"{module.__name__} must define one class made from Format; it has {len(kinds)}.")
    return kinds[0]()


@cache
def suffixes() -> dict[str, str]:
    """Which format each extension says: {".jsonl": "jsonl", ".ndjson": "jsonl", …}."""
    return {suffix: name for name, form in formats().items() for suffix in form.suffixes}


def format_of(path: Path) -> str:
    """What a file's extension says: csv, json, jsonl, parquet, tsv …, and text for any that is unknown."""
    return suffixes().get(suffix_of(path), "text")
