"""Lists that a table has as text, because a cell holds nothing else: as JSON, Python or numpy write them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from llmkit.data.sources import Place
from llmkit.system.errors import DataError

_QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+.\w]+)""")
"""A value in a list of numpy's, which has no commas."""
_COMMAS = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^'",])*,""")
_NUMPY = re.compile(r"array\((\[[^\]]*\])(?:,\s*dtype=[^)]*)?\)")
_KINDS = {"[": "]", "(": ")", "{": "}"}


def unwritten(text: str, bare: bool = False) -> Any | None:
    """The list (or object) that a text is; None where it is a text like any other.

    ['B-PER', 'O']   ["B-PER", "O"]   ('B-PER', 'O')   ['B-PER' 'O']   [1, 0]   [1 0]   array(['a', 'b'])

    ValueError, saying why, where it looks like one and can't be read: it is cut short, or a quote is missing. With
    `bare`, that is any text in brackets that has commas.
    """
    text = _NUMPY.sub(r"\1", text.strip())
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


def from_cell(value: Any, what: str, place: Place, bare: bool = False) -> Any:
    """What a cell holds: a list that is written as text as that list. DataError, of `what`, where it can't be read."""
    try:
        found = unwritten(value, bare) if isinstance(value, str) else None
    except ValueError as error:
        raise DataError(f"{place}: {what} is a list written as text, and {error}: {value[:60]!r}.") from error
    return value if found is None else found


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
