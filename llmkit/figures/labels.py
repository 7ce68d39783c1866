"""The words of a picture, in the language that is chosen: titles, axes, legends, and what it says of itself."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeAlias

from llmkit.figures.paper import drawable, undrawable
from llmkit.system.language import translate
from llmkit.system.terminal import columns, folded, visible

log = logging.getLogger("llmkit")

Say: TypeAlias = Callable[[str], str]
"""From a sentence of ours to the same in another language."""
FONTS = "pip install 'llmkit-train[fonts]'"
"""What brings a font with Chinese letters to a machine on which nobody may install one for all."""


def said(words: str) -> str:
    """Words of ours on paper: translated where a font of this machine has the letters, else in English.

    Letters that no font has would be empty boxes, so English stays, and once that is said.
    """
    translation = translate(words)
    if translation == words or not undrawable([translation]):
        return translation
    _tell()
    return words


def inked(words: str) -> str:
    """`said`, for a picture in which `$` would begin a formula."""
    return drawable(said(words))


def writing(path: Path) -> Say:
    """How words of ours stand in a picture: letters of an SVG are drawn by whoever looks at it, with their fonts."""
    return translate if path.suffix == ".svg" else said


@cache
def _tell() -> None:
    """Once a process."""
    log.warning("pictures have English labels: no font of this machine has Chinese letters; `apt install "
                "fonts-noto-cjk` brings one, or %s", FONTS)


def titled(text: str, inches: float, size: float = 10) -> str:
    """A title in lines that fit into a picture's width."""
    return broken(visible(text), max(16, int(inches * 130 / size)))


def broken(text: str, wide: int) -> str:
    r"""A text in lines of at most so many columns; Chinese has no spaces to break it at, and its letters are wide.

    >>> broken("the cat sat", 8), broken("按配方训练。", 8)
    ('the cat\nsat', '按配方\n训练。')
    """
    return "\n".join(textwrap.wrap(text, wide) if columns(text) == len(text) else folded(text, wide))
