"""What others wrote, in a model card: names and figures to read, never HTML, a link or a table's border."""

from __future__ import annotations

import html
import re

from llmkit.system.terminal import visible, visible_lines

TAG = re.compile(r"<[A-Za-z/!?][^<>]*>?")
MEANT = re.compile(r"([\\`*\[\]|])")
"""What Markdown reads as more than a character, wherever it stands."""


def prose(text: str) -> str:
    r"""A text as a part of a line or a cell; of an HTML tag, it is seen that there was one.

    >>> prose("a|b <script>alert(1)</script> & c")
    'a\\|b &lt;…&gt;alert(1)&lt;…&gt; &amp; c'
    """
    return MEANT.sub(r"\\\1", html.escape(_untagged(text), quote=False))


def code(text: str) -> str:
    """A text between backticks, as many as it needs.

    >>> code("corpora/*.txt"), code("x` <img src=x>.txt")
    ('`corpora/*.txt`', '`` x` <…>.txt ``')
    """
    text = _untagged(text)
    if "`" not in text:
        return f"`{text}`"
    ticks = "`" * (_longest(text) + 1)
    return f"{ticks} {text} {ticks}"


def block(text: str, language: str = "") -> str:
    """Lines of code, between fences that nothing in them ends."""
    text = visible_lines(text)
    fence = "`" * max(3, _longest(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _untagged(text: str) -> str:
    return TAG.sub("<…>", visible(text))


def _longest(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
