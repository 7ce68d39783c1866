"""A sheet of paper to draw on with matplotlib: light or dark, with a font that has the letters, as PNG or SVG."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.system.errors import PlaceError
from llmkit.system.terminal import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 120
"""Pixels an inch of a PNG."""
SIGN = "drawn by llmkit"
"""What a PNG of ours says of itself."""
CHINESE = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Zen Hei",
           "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC",
           "Arial Unicode MS")
"""Fonts with Chinese characters that systems come with, the best first: Linux, Windows, macOS."""
PACKAGE = "pylopdf_fonts_zh_cn"
"""The module with Noto Sans SC (SIL Open Font License) that the extra `fonts` installs."""
LIKELY = re.compile(r"CJK|Han|Hei|Song|Ming|Kai|Fang|Fallback|Unicode|(SC|CN|TC|JP|GB)\b", re.IGNORECASE)
"""What stands in the name of a font that may have them."""


@dataclass(frozen=True)
class Theme:
    """Colours as matplotlib's and CSS's `#rrggbb`."""

    ground: str
    ink: str
    faint: str
    """Grid lines, floors, what stands behind."""
    lines: tuple[str, ...]
    """One a curve, told apart by people who see few colours (Okabe & Ito 2008)."""


LIGHT = Theme("#ffffff", "#1b1b1b", "#8a8a8a", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"))
DARK = Theme("#16181d", "#e8e8e8", "#7d828c", ("#56b4e9", "#e69f00", "#2fc79a", "#e09ac4", "#ff8a4c", "#8fd0f5"))


def sheet(width: float, height: float, theme: Theme = LIGHT, fitted: bool = True) -> Figure:
    """An empty figure of some inches that no window and no global state belongs to.

    `fitted`: whether its parts are moved to where their texts have room, which takes as long again as to draw them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if fitted else None, facecolor=theme.ground)
    FigureCanvasAgg(figure)
    return figure


def style(theme: Theme = LIGHT) -> dict[Any, Any]:
    """What `matplotlib.rc_context` takes, around making axes and saving: colours, and fonts in their order."""
    return {"axes.facecolor": theme.ground, "axes.edgecolor": theme.faint, "axes.labelcolor": theme.ink,
            "text.color": theme.ink, "xtick.color": theme.ink, "ytick.color": theme.ink, "grid.color": theme.faint,
            "legend.facecolor": theme.ground, "legend.edgecolor": theme.faint,
            "font.family": [*chinese_fonts(), "DejaVu Sans"], "axes.unicode_minus": False, "svg.fonttype": "none",
            "svg.hashsalt": SIGN}


@cache
def chinese_fonts() -> tuple[str, ...]:
    """Those of this machine that have Chinese characters, the best known first; often there is none.

    matplotlib keeps its list of fonts from the first time that it was asked: one that came since is looked for too.
    """
    from matplotlib.font_manager import findSystemFonts, fontManager

    if not (there := _with_chinese()):
        known = {Path(font.fname) for font in fontManager.ttflist}
        for path in (*packaged(), *map(Path, findSystemFonts())):
            if path not in known and LIKELY.search(path.stem):
                with suppress(RuntimeError, OSError):  # no font that can be read
                    fontManager.addfont(path)
        there = _with_chinese()
    return tuple(there)


def packaged() -> list[Path]:
    """The sans-serif fonts of the package that the extra `fonts` installs; none of its code runs."""
    found = find_spec(PACKAGE)
    folders = [] if found is None else found.submodule_search_locations or []
    return sorted(path for folder in folders for path in Path(folder).glob("*Sans*.[ot]tf"))


def _with_chinese() -> list[str]:
    """The names of fonts in matplotlib's list that have Chinese characters."""
    from matplotlib.font_manager import fontManager, get_font

    files = {font.name: font.fname for font in fontManager.ttflist}
    best = [name for name in CHINESE if name in files]
    if best:
        return best
    return [name for name, path in sorted(files.items())
            if LIKELY.search(name) and ord("中") in get_font(path).get_charmap()]


def undrawable(texts: Iterable[str]) -> str:
    """The letters of some texts that no font of this machine has, each once; they would be empty boxes."""
    from matplotlib.font_manager import FontProperties, findfont

    letters = {letter for text in texts for letter in text if not letter.isspace()}
    for name in ("DejaVu Sans", *chinese_fonts()):
        if letters:
            known = _letters(findfont(FontProperties(family=name)))
            letters = {letter for letter in letters if ord(letter) not in known}
    return "".join(sorted(letters))


@cache
def _letters(path: str) -> frozenset[int]:
    """Those that a font's file has; of a Chinese one some ten thousand."""
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())



def plain(text: str) -> str:
    r"""A text for a picture: in one line, and `$` begins no formula.

    >>> plain("5 $ or 6 $")
    '5 \\$ or 6 \\$'
    """
    return visible(text).replace("$", r"\$")


def apart(places: Sequence[float], least: float) -> list[float]:
    """Places between 0 and 1, moved as little as keeps neighbours so far from each other, where there is room for all.

    >>> apart([0.5, 0.5, 0.9], 0.25)
    [0.375, 0.625, 0.9]
    """
    least = min(least, 1 / max(1, len(places)))
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[tuple[float, int]] = []  # (the middle of some neighbours that touch, how many)
    for i in order:
        groups.append((places[i], 1))
        while len(groups) > 1 and touching(groups[-2], groups[-1], least):
            (a, m), (b, n) = groups[-2:]
            groups[-2:] = [((a * m + b * n) / (m + n), m + n)]
    spots: list[float] = []
    for middle, count in groups:
        half = least * (count - 1) / 2
        start = min(max(middle - half, spots[-1] + least if spots else 0.0), 1 - 2 * half)
        spots += [start + least * k for k in range(count)]
    moved = dict(zip(order, spots, strict=True))
    return [moved[i] for i in range(len(places))]


def touching(one: tuple[float, int], other: tuple[float, int], least: float) -> bool:
    """Whether two groups of labels (middle, count) would overlap."""
    return other[0] - one[0] < least * (one[1] + other[1]) / 2


def drawable(text: str) -> str:
    r"""A text with a `?` for each letter that no font of this machine has; `$` is no formula.

    >>> drawable("Größe 1 $")
    'Größe 1 \\$'
    """
    missing = undrawable([text])
    return plain("".join("?" if letter in missing else letter for letter in text))


def check_free(path: Path) -> None:
    """PlaceError where a file is there that llmkit didn't make: it would be lost."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(8192)
    if head and SIGN.encode() not in head:
        raise PlaceError(f"{path}: is there, and llmkit didn't make it; name another file, or move it away.")


def save(figure: Figure, path: Path, about: str = "") -> None:
    """Write a picture as its name says, .png or .svg, in one step; PlaceError where the place can't be written.

    `about` says in words what is seen, and stands in the file's own description.
    """
    staging = path.with_name(f".{path.name}")
    signed = {"Date": None, "Creator": SIGN} if path.suffix == ".svg" else {"Software": SIGN}
    try:
        with warnings.catch_warnings():  # in an SVG, letters are drawn by whoever looks at it
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(staging, dpi=DOTS, facecolor=figure.get_facecolor(), format=path.suffix[1:],
                           metadata={**signed, **({"Description": about} if about else {})})
        staging.replace(path)
    except OSError as error:
        with suppress(OSError):
            staging.unlink()
        raise PlaceError(f"{path}: {error.strerror}.") from error
