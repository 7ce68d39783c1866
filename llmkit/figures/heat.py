"""Heat maps, signed bars and tables of words on paper: what attention, attributions and layers are drawn as."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmkit.figures.labels import said, titled
from llmkit.figures.paper import LIGHT, Theme, sheet, style
from llmkit.figures.tokens import AGAINST, FOR
from llmkit.system.terminal import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MOST_LABELS = 60
"""Tokens beside a heat map; of more, none could be read."""
LEAST = 0.01
"""What the strongest colour, or the longest bar, stands for at least, in nats or as a share: below it is what rounding
leaves."""
WIDEST = 40
"""Inches of a picture."""


@contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """While the block runs, a theme's colours; a text is what it is, `$` and `_` too, and an empty box no warning."""
    from matplotlib import rc_context

    rules: Any = {**style(theme), "text.parse_math": False}
    with rc_context(rules), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def scale(theme: Theme, line: int = FOR) -> Colormap:
    """From the paper's own colour to one of the theme's."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("llmkit", [theme.ground, theme.lines[line]])


def label(text: str, most: int = 24) -> str:
    """A text beside a picture: in a line, not too long."""
    line = visible(text)
    return line if len(line) <= most else line[: most - 1] + "…"


def labelled(
    weights: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], title: str, theme: Theme = LIGHT,
) -> Figure:
    """One heat map (rows, columns) of numbers from 0 to 1, with what each row and column is."""
    inches = [2.2 + 0.28 * min(MOST_LABELS, len(some)) for some in (columns, rows)]
    with drawing(theme):
        figure = sheet(min(WIDEST, inches[0] + 1), min(WIDEST, inches[1]), theme)
        axes = figure.subplots()
        image = heat(axes, weights, theme)
        ticks(axes, rows, columns)
        axes.set_title(titled(title, inches[0] - 1), fontsize=10)
        bar = figure.colorbar(image, ax=axes, fraction=0.04)
        bar.ax.tick_params(labelsize=8)
    return figure


def heat(axes: Axes, weights: NDArray[np.float64], theme: Theme, most: float | None = None) -> Any:
    """Numbers from 0 to `most`, by default the largest of them, as squares."""
    top = float(weights.max()) if most is None else most
    return axes.imshow(weights, cmap=scale(theme), vmin=0, vmax=top or 1, aspect="auto", interpolation="nearest")


def ticks(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """What each row and column is, where there is room for it."""
    if len(rows) <= MOST_LABELS:
        axes.set_yticks(range(len(rows)), [label(one) for one in rows], fontsize=8)
    if len(columns) <= MOST_LABELS:
        axes.set_xticks(range(len(columns)), [label(one) for one in columns], fontsize=8, rotation=90)
    axes.tick_params(length=0)


def grid(
    weights: NDArray[np.float64], title: str, theme: Theme = LIGHT, first: tuple[int, int] = (1, 1),
) -> Figure:
    """Every head of every layer, (layers, heads, queries, keys), as a small heat map; `first` is the first's number."""
    layers, heads = weights.shape[:2]
    side = max(0.5, min(1.3, WIDEST / max(layers, heads)))
    with drawing(theme):
        figure = sheet(1.2 + side * heads, 1.0 + side * layers, theme)
        axes = figure.subplots(layers, heads, squeeze=False)
        for i in range(layers):
            for j in range(heads):
                heat(axes[i, j], weights[i, j], theme)
                axes[i, j].set(xticks=[], yticks=[])
                if i == 0:
                    axes[i, j].set_title(said(f"head {first[1] + j}"), fontsize=8)
                if j == 0:
                    axes[i, j].set_ylabel(said(f"layer {first[0] + i}"), fontsize=8)
        figure.suptitle(titled(title, 1.2 + side * heads), fontsize=10)
    return figure


def bars(
    tokens: Sequence[str], values: Mapping[str, Sequence[float | None]], units: Mapping[str, str], title: str,
    theme: Theme = LIGHT,
) -> Figure:
    """A column for each way of weighing tokens, a bar a token: to the right for, to the left against."""
    with drawing(theme):
        figure = sheet(1.8 + 3.2 * len(values), min(WIDEST, 1.4 + 0.24 * len(tokens)), theme)
        columns = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
        for axes, (name, row) in zip(columns, values.items(), strict=True):
            shown = [value or 0.0 for value in row]
            axes.barh(range(len(row)), shown, height=0.7,
                      color=[theme.lines[FOR if value >= 0 else AGAINST] for value in shown])
            axes.axvline(0, color=theme.faint, linewidth=0.8)
            axes.set_title(said(name), fontsize=10)
            axes.set_xlabel(titled(said(units[name]), 3.2, 8), fontsize=8)
            axes.tick_params(axis="x", labelsize=8)
            axes.margins(y=0.01)
            axes.locator_params("x", nbins=5)
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, -LEAST if low < 0 else 0.0), max(high, LEAST if high > 0 else 0.0))
            for spine in ("top", "right", "left"):
                axes.spines[spine].set_visible(False)
        columns[0].set_yticks(range(len(tokens)), [label(token) for token in tokens], fontsize=8)
        columns[0].invert_yaxis()
        for axes in columns:
            axes.tick_params(axis="y", length=0)
        figure.suptitle(titled(title, 1.8 + 3.2 * len(values)), fontsize=10)
    return figure


def words(
    said: Sequence[Sequence[str]], chances: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str],
    title: str, theme: Theme = LIGHT,
) -> Figure:
    """A table of words (rows, columns) on the colour of their probabilities."""
    with drawing(theme):
        figure = sheet(min(WIDEST, 1.8 + 0.85 * len(columns)), min(WIDEST, 1.6 + 0.3 * len(rows)), theme)
        axes = figure.subplots()
        heat(axes, 0.66 * chances, theme, 1.0)  # so that letters stay readable
        for i, line in enumerate(said):
            for j, word in enumerate(line):
                axes.text(j, i, label(word, 11), ha="center", va="center", fontsize=7, color=theme.ink)
        ticks(axes, rows, columns)
        axes.set_title(titled(title, 0.85 * len(columns)), fontsize=10)
    return figure


def stacked(figures: Sequence[Figure], theme: Theme = LIGHT) -> Figure:
    """Several pictures below each other on one sheet."""
    from io import BytesIO

    from matplotlib.image import imread

    from llmkit.figures.paper import DOTS

    images = []
    for one in figures:
        buffer = BytesIO()
        with drawing(theme):
            one.savefig(buffer, dpi=DOTS, format="png", facecolor=one.get_facecolor())
        buffer.seek(0)
        images.append(imread(buffer))
    wide, high = max(image.shape[1] for image in images), sum(image.shape[0] for image in images)
    figure = sheet(wide / DOTS, high / DOTS, theme)
    figure.set_layout_engine("none")
    top = high
    for image in images:
        top -= image.shape[0]
        axes = figure.add_axes((0, top / high, image.shape[1] / wide, image.shape[0] / high))
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
    return figure
