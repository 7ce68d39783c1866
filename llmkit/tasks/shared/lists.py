"""Lists that a table has as text, because a cell holds nothing else: as JSON, Python or numpy write them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+.\w]+)""")
"""A value in a list of numpy's, which has no commas."""
_COMMAS = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^'",])*,""")
_NUMPY = re.compile(r"array\((\[.*\])(?:, dtype=[^)]*)?\)", re.DOTALL)
_KINDS = {"[": "]", "(": ")", "{": "}"}


def unwritten(text: str, bare: bool = False) -> Any | None:
    """The list (or object) that a text is; None where it is a text like any other.

    ['B-PER', 'O']   ["B-PER", "O"]   ('B-PER', 'O')   ['B-PER' 'O']   [1, 0]   [1 0]   array(['a', 'b'])

    ValueError, saying why, where it looks like one and can't be read: it is cut short, or a quote is missing. With
    `bare`, that is any text in brackets that has commas.
    """
    text = text.strip()
    if (array := _NUMPY.fullmatch(text)) is not None:
        text = array[1]
    if len(text) < 2 or _KINDS.get(text[0]) != text[-1]:
        if text.startswith(("['", '["')):
            raise ValueError("it breaks off, `]` is missing")
        return None
    inner = text[1:-1].strip()
    looks = inner[:1] in ("'", '"') or (bare and "," in inner)
    if looks and re.search(r"(^|[\s,])\.\.\.([\s,]|$)", inner):
        raise ValueError("it is cut short by `...`")
    if text[0] == "[" and inner and not _COMMAS.match(inner):
        return _without_commas(inner)
    try:
        return _plain(json.loads(text))
    except ValueError:
        pass
    try:
        return _plain(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if looks and text[0] == "[":
            raise ValueError("it is neither JSON nor Python") from None
        return None


def _plain(value: Any) -> Any:
    """A tuple or a set as a list; None for a value in brackets: (3) is none."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, list | dict) and ... not in value else None


def _without_commas(inner: str) -> Any | None:
    """The values between brackets where no comma stands: one, or numpy's; None where they have no quotes."""
    found, at = list[Any](), 0
    while at < len(inner):
        one = _QUOTED.match(inner, at)
        if one is None:
            break
        found.append(one[1])
        at = one.end()
    if inner[at:].strip() or not found:
        if inner[0] in "'\"":
            raise ValueError("a quote doesn't close")
        return None
    try:
        return _plain([ast.literal_eval(value) for value in found])
    except (ValueError, SyntaxError):  # words without quotes: [ 3 ] is a list, [ the cat ] is text
        return None
