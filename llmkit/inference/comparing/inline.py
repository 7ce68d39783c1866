"""Names with options, as a command line has them: `full,lora(r=4)`, `example(k=4, file=shots.jsonl)`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmkit import recipe
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

NAME = re.compile(r"\s*([\w.][\w. -]*?)\s*(?:\((.*)\))?\s*", re.DOTALL)
"""Hyphens and spaces too: what others call `prefix-tuning` is led to its name here."""


@dataclass(frozen=True)
class Variant:
    """A plug-in with options of its own: `lora(r=4)`."""

    label: str
    """As it was written."""
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its options, read as YAML."""

    @property
    def slug(self) -> str:
        """Its label as a folder's name."""
        return re.sub(r"[^\w.+-]+", "-", self.label).strip("-")


def variants(text: str, kind: registry.Kind, option: str) -> list[Variant]:
    """`full,lora(r=4,use_dora=true),prefix` as variants; RequestError, at the option, for a name that there isn't."""
    out = [variant(part, kind, option) for part in split(text)]
    if twice := {one.label for one in out if sum(other.slug == one.slug for other in out) > 1}:
        raise RequestError(f"{option}: {', '.join(sorted(twice))} is there twice.")
    if not out:
        raise RequestError(f"{option}: name some, as {','.join(registry.names(kind)[:3])}.")
    return out


def variant(text: str, kind: registry.Kind, option: str) -> Variant:
    """One name with its options. A value may be a name with options itself: `normalize(of=cloze(k=4))`."""
    found = NAME.fullmatch(text)
    if found is None:
        raise RequestError(f"{option} {text.strip()}: write a name with its options, as name(key=value, key=value).")
    name, inside = found[1], found[2] or ""
    registry.find(kind, name)
    options: dict[str, Any] = {}
    for part in split(inside):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key.isidentifier():
            raise RequestError(f"{option} {text.strip()}: {part.strip()!r} is no option; write options as "
                               f"{name}(key=value), and a value with a comma in quotes.")
        if key in options:
            raise RequestError(f"{option} {text.strip()}: {key} is given twice.")
        options[key] = _value(value, kind, option)
    return Variant(text.strip(), name, options)


def plugin(text: str, block: str, option: str) -> Any:
    """The plug-in that a text names: `cloze(k=4)`, for the block of a recipe that it could stand in."""
    kind, key = recipe.BLOCKS[block]
    made = variant(text, kind, option)
    return recipe.plugin(block, {key: made.name, **made.options}, f"{option} {made.label}")


def _value(text: str, kind: registry.Kind, option: str) -> Any:
    """YAML on one line, or a text that is none: `{text} It was {mask}.`"""
    nested = NAME.fullmatch(text)
    if nested is not None and nested[2] is not None and nested[1] in registry.names(kind):
        inner = variant(text, kind, option)
        return {recipe.key_of(kind): inner.name, **inner.options}
    try:
        found = recipe.value(text, option)
    except RequestError:
        return text
    return text if isinstance(found, dict | list) and text[0] not in "[{" else found  # `Say it:` is no mapping here


def split(text: str) -> list[str]:
    """A text cut at its commas, but for those in brackets and quotes: `a(b=1,c="x, y"),d` -> `a(b=1,c="x, y")` `d`.

    A quote opens where a value starts, so that an apostrophe within words is one.
    """
    parts, start, depth, quote, before = [], 0, 0, "", ","
    for i, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote and (quote == "'" or text[i - 1] != "\\") else quote
        elif sign in "'\"" and before in "=,([{:":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif sign == "," and depth <= 0:
            parts.append(text[start:i])
            start = i + 1
        before = before if sign.isspace() else sign
    return [part for part in (*parts, text[start:]) if part.strip()]
