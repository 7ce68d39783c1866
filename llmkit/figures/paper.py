"""A sheet of paper to draw on with matplotlib: light or dark, with a font that has the letters, as PNG or SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.system.errors import PlaceError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 120
"""Pixels an inch of a PNG."""
CHINESE = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Microsoft YaHei",
           "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Arial Unicode MS")
"""Fonts with Chinese characters that systems come with: Linux, Windows, macOS."""


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


def sheet(width: float, height: float, theme: Theme = LIGHT) -> Figure:
    """An empty figure of some inches that no window and no global state belongs to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.ground)
    FigureCanvasAgg(figure)
    return figure


def style(theme: Theme = LIGHT) -> Mapping[str, Any]:
    """What `matplotlib.rc_context` takes, around making axes and saving: colours, and fonts in their order."""
    return {"axes.facecolor": theme.ground, "axes.edgecolor": theme.faint, "axes.labelcolor": theme.ink,
            "text.color": theme.ink, "xtick.color": theme.ink, "ytick.color": theme.ink, "grid.color": theme.faint,
            "legend.facecolor": theme.ground, "legend.edgecolor": theme.faint,
            "font.sans-serif": [*chinese_fonts(), "DejaVu Sans"], "axes.unicode_minus": False}


@cache
def chinese_fonts() -> tuple[str, ...]:
    """Those of this machine that have Chinese characters, the best known first; often there is none."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return tuple(name for name in CHINESE if name in there)


def undrawable(texts: Iterable[str]) -> str:
    """The letters of some texts that no font of this machine has, each once; they would be empty boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    letters = {letter for text in texts for letter in text if not letter.isspace()}
    for name in (*chinese_fonts(), "DejaVu Sans"):
        known = get_font(findfont(FontProperties(family=name))).get_charmap()
        letters = {letter for letter in letters if ord(letter) not in known}
    return "".join(sorted(letters))


def save(figure: Figure, path: Path) -> None:
    """Write a picture as its name says, .png or .svg; PlaceError where the place can't be written."""
    try:
        figure.savefig(path, dpi=DOTS, facecolor=figure.get_facecolor(),
                       metadata={"Date": None} if path.suffix == ".svg" else {})
    except OSError as error:
        raise PlaceError(f"{path}: {error.strerror}.") from error
