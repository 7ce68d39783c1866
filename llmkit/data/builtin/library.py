"""The library of this Python, parsed once: the docstrings of its modules, and its language reference."""

import ast
import hashlib
import inspect
import json
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmkit.system import cache
from llmkit.system.errors import DataError

KNOWN_AS = {"_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime", "_collections_abc": "collections.abc",
            "posixpath": "os.path", "genericpath": "os.path", "pathlib._local": "pathlib", "pathlib._abc": "pathlib"}
"""Modules of the library that people know by another name."""
# Tests, other people's code, and what a distribution adds to the folder of the library.
_SKIP = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "ensurepip", "site-packages",
         "dist-packages", "__pycache__", "lib-dynload"}
_UNDERLINED = re.compile(r"^(?=\S)(.+)\n(?:\*{3,}|={3,}|-{3,}|~{3,})$", re.MULTILINE)


class Docstring(NamedTuple):
    """A text about something of the library, and what it is about."""

    module: str
    name: str
    """Dotted within the module; empty for the module itself, a heading for the reference."""
    kind: str
    """reference | module | class | function | method"""
    text: str
    code: str = ""
    """Of a short function, what it does: its source without the docstring."""


def modules() -> list[tuple[str, Path]]:
    """The library's own modules as (path within it, path), in one order on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    found = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return sorted((short.as_posix(), path) for short, path in found
                  if not _SKIP & set(short.parts) and not short.parts[0].startswith(("config-", "_sysconfigdata")))


def _definitions(tree: ast.Module) -> Iterator[tuple[str, str, str, str]]:
    """(dotted name, kind, docstring, code) of a module and all it defines; expressions aren't walked: half the time."""
    waiting: list[tuple[ast.AST, str, bool]] = [(tree, "", False)]
    while waiting:
        node, name, in_class = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if not isinstance(node, ast.Module):
                name = f"{name}.{node.name}" if name else node.name
            kind = ("module" if isinstance(node, ast.Module) else "class" if isinstance(node, ast.ClassDef)
                    else "method" if in_class else "function")
            in_class = kind == "class"
            if text is not None:
                yield name, kind, inspect.cleandoc(text), _code(node)
        below = [getattr(node, part, []) for part in ("body", "handlers", "orelse", "finalbody")]
        waiting.extend((child, name, in_class) for child in reversed([node for part in below for node in part])
                       if isinstance(child, ast.stmt | ast.ExceptHandler))


def _code(node: ast.AST) -> str:
    """The source of a function of at most 30 lines, as Python itself writes it: no docstring, comment or decorator."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (node.end_lineno or 0) - node.lineno > 30:
        return ""
    body = node.body[1:]
    if not body or (len(body) == 1 and isinstance(body[0], ast.Pass | ast.Raise | ast.Expr)):
        return ""  # it is left to others what it does
    parts = dict(ast.iter_fields(node)) | {"body": body, "decorator_list": []}
    return ast.unparse(ast.fix_missing_locations(type(node)(**parts)))


def _reference() -> Iterator[Docstring]:
    """The language reference, a document a section, headings without the line of stars under them."""
    from pydoc_data import topics

    for topic in sorted(topics.topics):
        pieces = _UNDERLINED.split(topics.topics[topic])
        heads = ["", *pieces[1::2]]
        for head, body in zip(heads, pieces[::2], strict=True):
            if body.strip():
                text = f"{head}\n\n{body.strip()}" if head else body.strip()
                yield Docstring(f"pydoc_data.topics.{topic}", head, "reference", text)


def _parsed() -> Iterator[Docstring]:
    yield from _reference()
    for short, path in modules():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings are the library's business
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # a template of some distribution, and no module: it has no docstrings
        module = short.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name, kind, text, code in _definitions(tree):
            if text:
                yield Docstring(module, name, kind, text, code)


def docstrings() -> Iterator[Docstring]:
    """All of it, parsed once for this Python and kept; exact duplicates are left out."""
    listing = [(short, path.stat().st_size) for short, path in modules()]
    if not listing:
        raise DataError(f"this Python has no sources of its library in {sysconfig.get_path('stdlib')}.")
    parser = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    about = json.dumps([sys.version, sys.implementation.name, listing, parser])

    def make(folder: Path) -> None:
        seen: set[str] = set()
        with (folder / "docstrings.jsonl").open("w", encoding="utf-8") as file:
            for doc in _parsed():
                if doc.text not in seen:
                    seen.add(doc.text)
                    file.write(json.dumps(doc) + "\n")

    folder = cache.once("builtin", hashlib.sha256(about.encode()).hexdigest(), make)
    with (folder / "docstrings.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield Docstring(*json.loads(line))


