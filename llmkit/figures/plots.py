"""Pictures of data on paper: rows as coloured tokens, histograms, masks, and tables side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmkit.figures.heat import WIDEST, drawing, heat, label, scale, ticks
from llmkit.figures.labels import said, titled
from llmkit.figures.paper import LIGHT, Theme, chinese_fonts, sheet
from llmkit.figures.tokens import TokenKind, TokenMark, mixed, shade
from llmkit.system.terminal import columns, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 110
"""Letters in a line of tokens."""
LETTER, LINE = 0.082, 0.27
"""Inches of a letter and of a line, at 9 points."""


def text_of(
    rows: Sequence[tuple[str, Sequence[TokenMark]]], kinds: Sequence[TokenKind], theme: Theme = LIGHT,
) -> Figure:
    """Rows of tokens, (name, tokens) each, that run on in lines; what each kind looks like stands below."""
    placed: list[tuple[float, int, TokenMark]] = []
    names: list[tuple[int, str]] = []
    line = 0
    legend = [TokenMark(said(kind.name), kind=kind) for kind in kinds]
    for name, marks in [*rows, (said("what the colours say"), legend)]:
        names.append((line, name))
        line, at = line + 1, 0
        for mark in marks:
            size = columns(visible(mark.text)) + columns(visible(mark.below)) + 1 + bool(mark.below)
            if at + size > COLUMNS and at:
                line, at = line + 1, 0
            placed.append((at, line, mark))
            at += size + 1
        line += 2
    with drawing(theme):
        figure = sheet(COLUMNS * LETTER + 0.6, line * LINE + 0.4, theme)
        axes = figure.subplots()
        axes.set(xlim=(-1, COLUMNS + 2), ylim=(line, -1))
        axes.set_axis_off()
        for at_line, name in names:
            axes.text(0, at_line, label(name, 100), fontsize=9, fontweight="bold", va="center")
        for at_column, at_line, mark in placed:
            axes.text(at_column, at_line, visible(mark.text) + (f" {visible(mark.below)}" if mark.below else ""),
                      fontsize=9, va="center", family=["DejaVu Sans Mono", *chinese_fonts()], color=theme.ink,
                      alpha=0.6 if mark.kind is not None and mark.kind.name == "padding" else 1,
                      bbox={"facecolor": _ground(mark, theme), "edgecolor": "none", "pad": 1.5})
    return figure


def _ground(mark: TokenMark, theme: Theme) -> str:
    if mark.kind is not None and mark.kind.line is not None:
        return mixed(theme.lines[mark.kind.line], theme.ground, 0.35)
    return shade(theme, mark.level) if mark.level else theme.ground


def histograms(
    parts: Sequence[tuple[str, str, Sequence[int], float | None]], title: str, theme: Theme = LIGHT, bins: int = 40,
) -> Figure:
    """Counts side by side: (what is counted, the name of the axis, numbers, where a line stands or None) each."""
    from matplotlib.ticker import MaxNLocator

    with drawing(theme):
        figure = sheet(5.2 * len(parts), 3.4, theme)
        for axes, (name, axis, numbers, line) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts,
                                                     strict=True):
            top = max([*numbers, 1])
            axes.hist(numbers, bins=min(bins, max(1, top + 1)), range=(-0.5, top + 0.5), color=theme.lines[0])
            axes.set(xlabel=axis, ylabel=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            if line is not None and line <= 1.2 * top:
                axes.axvline(line, color=theme.lines[1], linestyle="--", linewidth=1.2)
                axes.annotate(f" {said(f'{line:,.0f}: a row')}", (line, 0.97), xycoords=("data", "axes fraction"),
                              fontsize=8, color=theme.lines[1], va="top")
            for spine in ("top", "right"):
                axes.spines[spine].set_visible(False)
        figure.suptitle(titled(title, 5.2 * len(parts)), fontsize=10)
    return figure


def yes_and_no(
    parts: Sequence[tuple[str, NDArray[np.bool_], Sequence[str], Sequence[str]]], theme: Theme = LIGHT,
) -> Figure:
    """Masks side by side: (name, (queries, keys), what each row is, what each column is); a colour where it is true."""
    sizes = [min(7.0, max(2.4, 0.15 * max(mask.shape))) for _, mask, _, _ in parts]
    with drawing(theme):
        figure = sheet(min(WIDEST, sum(sizes) + 1.6 * len(parts)), max(sizes) + 1.6, theme)
        spread = {"width_ratios": [size + 1 for size in sizes]}
        places = figure.subplots(1, len(parts), squeeze=False, gridspec_kw=spread)[0]
        for axes, size, (name, mask, rows, columns) in zip(places, sizes, parts, strict=True):
            axes.imshow(mask.astype(float), cmap=scale(theme), vmin=0, vmax=1.25, interpolation="nearest")
            ticks(axes, rows, columns)
            axes.set_title(titled(name, size + 1, 9), fontsize=9)
            axes.set_xlabel(said("is looked at"), fontsize=8)
            axes.set_ylabel(said("looks"), fontsize=8)
    return figure


def side_by_side(parts: Sequence[tuple[str, str, NDArray[np.float64]]], theme: Theme = LIGHT) -> Figure:
    """Tables of numbers, each on a scale of its own: (name, words below it, (rows, columns))."""
    with drawing(theme):
        figure = sheet(3.5 * len(parts), 4.8, theme)
        for axes, (name, below, table) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            low, high = float(np.nanmin(table)), float(np.nanmax(table))
            image = heat(axes, table, theme, high)
            image.set_clim(low, high)
            axes.set_aspect("equal")
            axes.set_anchor("N")  # else a square leaves the top of its place empty
            axes.set_title(name, fontsize=10)
            axes.set_xlabel(f"{said('key j')}\n\n{below}", fontsize=7.5)
            axes.set_ylabel(said("query i"), fontsize=8)
            axes.tick_params(labelsize=7)
            bar = figure.colorbar(image, ax=axes, fraction=0.04)
            bar.ax.tick_params(labelsize=7)
    return figure
