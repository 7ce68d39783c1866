"""Lines of Python cut into tokens, with what the names in them are: a call, a parameter, a module."""

import ast
import io
import tokenize
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

_Point = tuple[int, int]
"""A line from 1, and a column in bytes of UTF-8, as ast has them."""
_LAYOUT = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
_LONGEST = 30  # characters of a token: longer ones are texts or numbers


def tagged_lines(source: bytes) -> Iterator[dict[str, Any]]:
    """{tokens, tags} of each logical line that names something, in BIO; ASCII only, no f-strings, no long texts.

    return os.path.join(root, name)  ->  O B-CALL I-CALL I-CALL I-CALL I-CALL O O O O O

    CALL is what is called, ARGUMENT a keyword of a call, MODULE what is imported, CLASS and FUNCTION what is defined,
    PARAMETER what a function takes.
    """
    if not source.isascii():  # columns are then characters too
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings are the library's business
            named = dict(_named(ast.parse(source)))
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return
    starts = sorted(named)
    line: list[tokenize.TokenInfo] = []
    for token in tokens:
        if token.type == tokenize.NEWLINE:
            row = _row(line, named, starts)
            if row is not None:
                yield row
            line = []
        elif token.type not in _LAYOUT:
            line.append(token)


def _row(
    line: Sequence[tokenize.TokenInfo], named: dict[_Point, tuple[_Point, str]], starts: Sequence[_Point],
) -> dict[str, Any] | None:
    tokens = [token.string for token in line]
    if not 4 <= len(tokens) <= 60 or any(len(token) > _LONGEST or _is_formatted(token) for token in tokens):
        return None
    if any(tokenize.tok_name[token.type].startswith("FSTRING") for token in line):
        return None
    tags, opened = ["O"] * len(line), False
    for i, token in enumerate(line):
        nth = bisect_right(starts, token.start) - 1
        if nth < 0 or token.end > named[starts[nth]][0]:
            opened = False
            continue
        tags[i] = f"{'I' if opened and token.start != starts[nth] else 'B'}-{named[starts[nth]][1]}"
        opened = True
    return {"tokens": tokens, "tags": tags} if any(tag != "O" for tag in tags) else None


def _is_formatted(token: str) -> bool:
    quote = min((token.find(mark) for mark in "\"'" if mark in token), default=0)
    return "f" in token[:quote].lower()


def _named(tree: ast.AST) -> Iterator[tuple[_Point, tuple[_Point, str]]]:
    """Where names of a kind start, where they end, and the kind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _dotted(node.func):
            yield _span(node.func, "CALL")
        elif isinstance(node, ast.arg):
            start, _ = _span(node, "")
            yield start, ((start[0], start[1] + len(node.arg)), "PARAMETER")
        elif isinstance(node, ast.keyword) and node.arg is not None:
            start = (node.lineno, node.col_offset)
            yield start, ((start[0], start[1] + len(node.arg)), "ARGUMENT")
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            word = "class " if isinstance(node, ast.ClassDef) else "def "
            start = (node.lineno, node.col_offset + len(word))
            yield start, ((start[0], start[1] + len(node.name)), "CLASS" if word == "class " else "FUNCTION")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                start = (alias.lineno, alias.col_offset)
                yield start, ((start[0], start[1] + len(alias.name)), "MODULE")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            start = (node.lineno, node.col_offset + len("from "))
            yield start, ((start[0], start[1] + len(node.module)), "MODULE")


def _dotted(node: ast.AST) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _span(node: ast.expr | ast.arg, kind: str) -> tuple[_Point, tuple[_Point, str]]:
    return (node.lineno, node.col_offset), ((node.end_lineno or 0, node.end_col_offset or 0), kind)
