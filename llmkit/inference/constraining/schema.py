"""A JSON schema that answers can be held to: checked, bounded, and named by its path where something is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

from llmkit.system.errors import RequestError

LEVELS = 64
"""Levels of a schema at most; people's have about ten."""
CHARACTERS = 65_536
"""Characters of a schema's JSON at most."""
OPTIONAL = 300
"""Properties of one object that may be left out, at most: each is four rules that a matcher has to follow at once."""
SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is spaced, as Python's json.dumps does it: a model that could write spaces might write nothing else."""
OBJECT = '{"type": "object"}'
"""The schema of any object."""


def needed(what: str) -> None:
    """RequestError where the extra isn't installed; `what` is what needs it."""
    for name in ("llguidance", "jsonschema"):
        if find_spec(name) is None:
            raise RequestError(f"{what}: to hold a text to JSON needs {name}: pip install 'llmkit-train[json]'. "
                               "Without it, ask for JSON in words, or give a tool.")


def checked(given: str | bool | Mapping[str, Any], name: str = "json_schema") -> str:
    """A schema as JSON text; RequestError with the path of what is wrong, or can't be held to.

    >>> checked({"type": "object", "properties": {"n": {"type": "intger"}}})     # doctest: +SKIP
    llmkit.system.errors.RequestError: json_schema.properties.n.type: 'intger' is not valid …

    `name` is what the schema is called in errors. Schemas are those of JSON Schema, draft 2020-12; what llguidance
    can't hold a text to (`not`, `if`, `uniqueItems` …) is refused by its name, and so is a `$ref` to another document.
    """
    needed(name)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{name}: it isn't JSON: {error}.") from error
    if given is False or not isinstance(given, Mapping | bool):
        raise RequestError(f"{name}: must be an object, as {OBJECT}, not {json.dumps(given)[:60]}.")
    schema: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    for path, one, depth in _within(schema, name):
        if depth > LEVELS:
            raise RequestError(f"{name}: the schema has more than {LEVELS} levels, at {path[:120]}…; use $ref for what "
                               "repeats.")
        if (count := optional(one)) > OPTIONAL:
            raise RequestError(f"{path}.properties: {count:,} of them may be left out, and a text can be held to at "
                               f"most {OPTIONAL} such ones; list some under required, or put them into objects of "
                               "their own.")
        reference = one.get("$ref") if isinstance(one, Mapping) else None
        if isinstance(reference, str) and not reference.startswith("#"):
            raise RequestError(f"{path}.$ref: {reference!r:.200} is another document, and none is fetched; put it "
                               "under $defs and write #/$defs/NAME.")
    schema = _encoded(schema)
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > CHARACTERS:
        raise RequestError(f"{name}: the schema has {len(text):,} characters; at most {CHARACTERS:,} are taken.")
    _valid(schema, name)
    if wrong := _unheld(schema):
        where, _ = _deepest(schema, name, wrong)
        raise RequestError(f"{where}: no text can be held to that: {in_words(wrong)}.")
    if not _begins(text):
        raise RequestError(f"{name}: no text can be held to that: it refers to itself (`$ref`) before anything is "
                           "written, so none would ever end; put the reference into a property or into items.")
    return text


def optional(schema: Any) -> int:
    """How many properties of an object may be left out: {"properties": {"a": …, "b": …}, "required": ["a"]}  ->  1"""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return 0
    needs = schema.get("required")
    return len(set(properties) - {one for one in needs if isinstance(one, str)} if isinstance(needs, list)
               else properties)


def in_words(wrong: str) -> str:
    """What llguidance says of a schema, as a person would: which way out there is."""
    if "oneOf" in wrong:
        return ("the alternatives of this oneOf may fit one text at once, and that can't be seen while it is written; "
                "write anyOf")
    if keys := re.search(r"Unimplemented keys: \[(.*)\]", wrong):
        return f"{keys[1].replace(chr(34), '`')} can't be looked after while a text is written; leave it out"
    return " ".join(wrong.split())[:300]


def grammar_of(schema: str) -> str:
    """The grammar of a schema's JSON, as llguidance reads it.

    `no_forcing`: where only one text can follow, any of the tokens that it begins with may come, as everywhere.
    """
    inside = json.dumps({**json.loads(schema), "x-guidance": SPACES}, ensure_ascii=False)
    return f'%llguidance {{"no_forcing": true}}\nstart: %json {inside}'


def _encoded(value: Any) -> Any:
    """A schema whose references are URIs: `#/$defs/点` is `#/$defs/%E7%82%B9` there (RFC 6901, section 6)."""
    if isinstance(value, Mapping):
        return {name: quote(one, safe="#/%$~!&'()*+,;=:@?") if name == "$ref" and isinstance(one, str)
                else _encoded(one) for name, one in value.items()}
    return [_encoded(one) for one in value] if isinstance(value, list) else value


def _valid(schema: Mapping[str, Any], name: str) -> None:
    """RequestError where it is no JSON schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    wrong = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    if wrong is not None:
        path = "".join(_step(step) for step in wrong.absolute_path)
        raise RequestError(f"{name}{path}: {wrong.message[:300]}.")


def _unheld(schema: Mapping[str, Any]) -> str:
    """Why no text can be held to a schema; empty where one can."""
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema({**schema, "x-guidance": SPACES})
    except ValueError as error:  # numbers beyond 64 bits, half a surrogate pair
        return f"it can't be written as JSON: {' '.join(str(error).split())[:200]}"
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return str(messages[0]) if failed else ""


def _begins(schema: str) -> bool:
    """Whether a text can begin so: a schema that only refers to itself lets none."""
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    from llmkit.inference.constraining.tokens import ByteTokens

    letters = ByteTokens([*(bytes([one]) for one in range(256)), b""], [256], 256)
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(letters), eos_token=256), grammar_of(schema), log_level=0)
    return any(matcher.compute_bitmask()[:32])  # of the 256 bytes; a bit more is for the end


def _deepest(schema: Mapping[str, Any], name: str, wrong: str) -> tuple[str, int]:
    """The path of the innermost part of a schema that fails in the same way, and its level."""
    found = (name, 0)
    for path, one, depth in _within(schema, name):
        if depth > found[1] and isinstance(one, Mapping) and "$ref" not in one and _unheld(one) == wrong:
            found = (path, depth)
    return found


def _within(value: Any, path: str) -> Iterator[tuple[str, Any, int]]:
    """(path, value, level) of a value and of all below it, without recursion."""
    waiting = [(path, value, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        yield path, value, depth
        if isinstance(value, Mapping):
            waiting += [(path + _step(name), one, depth + 1) for name, one in value.items()]
        elif isinstance(value, list):
            waiting += [(path + _step(i), one, depth + 1) for i, one in enumerate(value)]


def _step(step: Any) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"
