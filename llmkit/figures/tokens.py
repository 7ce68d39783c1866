"""Tokens of a text, each with a colour: for a page, for a terminal, and as plain signs where there are no colours."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from llmkit.figures.paper import DARK, Theme
from llmkit.system.language import translate
from llmkit.system.terminal import visible

if TYPE_CHECKING:
    from rich.text import Text

LEVELS = 10
"""Shades of a colour."""
FOR, AGAINST = 0, 1
"""Which colour of a theme's lines stands for above 0, and which for below."""


@dataclass(frozen=True)
class TokenKind:
    """What a token can be, and how that is shown."""

    name: str
    says: str
    """In words, for a legend."""
    signs: tuple[str, str]
    """What stands around it where there are no colours."""
    line: int | None
    """Which colour of a theme's lines; None: none."""
    css: str
    """What tells it apart beside the colour."""
    style: str
    """The same for a terminal, in rich's words."""


@dataclass(frozen=True)
class TokenMark:
    """A token as it is shown."""

    text: str
    level: int = 0
    """Its shade, from -10, against, to 10, for."""
    kind: TokenKind | None = None
    below: str = ""
    """What stands small beside it: the word that is to be predicted there."""
    title: str = ""
    """What it says of itself when it is pointed at."""
    gap: bool = True
    """Whether a space stands before it."""


def level(value: float, most: float) -> int:
    """A value as a shade, where the largest among all is `most`; less than a fiftieth of that has none.

    >>> [level(value, 2.0) for value in (2.0, -1.0, 0.05, 0.03)]
    [10, -5, 1, 0]
    """
    if not most or abs(value) < most / 50:
        return 0
    shade = max(1, min(LEVELS, round(LEVELS * abs(value) / most)))
    return shade if value > 0 else -shade


def rgb(colour: str) -> tuple[int, int, int]:
    """'#0072b2'  ->  (0, 114, 178)"""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def mixed(colour: str, ground: str, share: float) -> str:
    """A colour over another: '#rrggbb' of `share` of the first and the rest of the second."""
    pairs = zip(rgb(colour), rgb(ground), strict=True)
    return "#" + "".join(f"{round(share * top + (1 - share) * below):02x}" for top, below in pairs)


def shade(theme: Theme, of: int) -> str:
    """The colour that a level has on a theme's ground; at most two thirds of it, so that letters stay readable."""
    return mixed(theme.lines[FOR if of > 0 else AGAINST], theme.ground, 0.66 * abs(of) / LEVELS)


# ---- on a page ----

def spans(marks: Iterable[TokenMark]) -> str:
    """Tokens as HTML, all text of them escaped; the colours are those of `css`."""
    out = []
    for mark in marks:
        names = ["t", *([f"{'p' if mark.level > 0 else 'n'}{abs(mark.level)}"] if mark.level else []),
                 *([f"k-{mark.kind.name}"] if mark.kind is not None else [])]
        title = f' title="{escape(mark.title)}"' if mark.title else ""
        below = f"<small>{escape(visible(mark.below))}</small>" if mark.below else ""
        out.append(f'{" " if mark.gap else ""}<span class="{" ".join(names)}"{title}>{escape(visible(mark.text))}'
                   f"{below}</span>")
    return "".join(out)


def legend(kinds: Iterable[TokenKind]) -> str:
    """What each kind looks like, as HTML."""
    return "".join(f'<li><span class="t k-{kind.name}">{escape(translate(kind.name))}</span> '
                   f"{escape(translate(kind.says))}</li>" for kind in kinds)


def css(theme: Theme, kinds: Iterable[TokenKind] = ()) -> str:
    """The rules for a theme: a class for each shade and each kind."""
    rules = [f".{sign}{of}{{background:{shade(theme, of if sign == 'p' else -of)}}}"
             for sign in "pn" for of in range(1, LEVELS + 1)]
    for kind in kinds:
        colour = "" if kind.line is None else f"background:{mixed(theme.lines[kind.line], theme.ground, 0.35)};"
        rules.append(f".k-{kind.name}{{{colour}{kind.css}}}")
    return "".join(rules)


# ---- in a terminal ----

def show(marks: Sequence[TokenMark]) -> None:
    """Print tokens on stdout: with colours where a terminal has them, else with signs."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(coloured(marks) if console.color_system is not None else signed(marks), soft_wrap=True)


def coloured(marks: Iterable[TokenMark]) -> Text:
    """Tokens on coloured ground, for rich."""
    from rich.text import Text

    line = Text()
    for mark in marks:
        style = ""
        if mark.kind is not None:
            style = mark.kind.style
        elif mark.level:
            ink = "#000000" if abs(mark.level) > LEVELS // 2 else "#ffffff"
            colour = DARK.lines[FOR if mark.level > 0 else AGAINST]
            style = f"{ink} on {mixed(colour, '#303030', abs(mark.level) / LEVELS)}"
        line.append(" " if mark.gap else "")
        line.append(visible(mark.text), style)
        if mark.below:
            line.append(f"→{visible(mark.below)}", "dim")
    return line


def signed(marks: Iterable[TokenMark]) -> Text:
    """Tokens with signs: up to three + or - behind each, or what stands around its kind.

    a [+1] very dull [-9] film   ->   a[+] very dull[---] film
    """
    from rich.text import Text

    words = []
    for mark in marks:
        before, after = ("", "") if mark.kind is None else mark.kind.signs
        below = f"→{visible(mark.below)}" if mark.below else ""
        sign = signs(mark.level)
        words.append(f"{' ' if mark.gap else ''}{before}{visible(mark.text)}{below}{after}"
                     f"{f'[{sign}]' if sign else ''}")
    return Text("".join(words))


def signs(of: int) -> str:
    """A level as signs: 10 -> +++, -5 -> --, 1 -> +"""
    return ("+" if of > 0 else "-") * -(-3 * abs(of) // LEVELS)


def explained(kinds: Mapping[str, TokenKind]) -> str:
    """What the signs mean, in one line."""
    return ", ".join(f"{kind.signs[0]}x{kind.signs[1]} {translate(kind.says)}"
                     for kind in kinds.values() if any(kind.signs))
