"""What `inspect` found, as pictures on paper, as a page, and as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.figures import document, heat, paper, plots
from llmkit.figures.document import sentence, text
from llmkit.figures.labels import broken, said
from llmkit.figures.paper import DARK, LIGHT, Theme
from llmkit.figures.tokens import css, legend, spans
from llmkit.planning.picturing import lengths, masks
from llmkit.planning.picturing.positions import ENCODINGS
from llmkit.planning.picturing.rows import KINDS, batch
from llmkit.system.language import translate
from llmkit.system.report import log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHAT = ("rows", "lengths", "mask", "positions")
"""What can be drawn."""
POSITIONS = 48
"""Positions in the picture of their encodings."""


def names_of(one: Mapping[str, Any], field: str) -> list[str]:
    """What stands at each position of a field of ids, as `inspect` shows it."""
    return [str(word) for word in one["words"].get(field, [])]


# ---- on paper ----

def draw(found: Mapping[str, Any], what: Sequence[str], path: Path, theme: Theme = LIGHT) -> None:
    """Write a picture of some of WHAT, as PNG or SVG; PlaceError where the place can't be written."""
    pictures = figures(found, what, theme)
    letters = paper.undrawable([mark.text for one in found.get("drawn", ()) for _, marks in batch([one])
                                for mark in marks] if {"rows", "mask"} & set(what) else [])
    if letters:
        log.warning("%s: no font of this machine has %s; a box stands for each. A page shows them: --html %s", path,
                    letters[:20], path.with_suffix(".html"))
    whole = pictures[0] if len(pictures) == 1 else heat.stacked(pictures, theme)
    with heat.drawing(theme):
        paper.save(whole, path)


def figures(found: Mapping[str, Any], what: Sequence[str], theme: Theme) -> list[Figure]:
    """A picture of each."""
    made = {"rows": _rows, "lengths": _lengths, "mask": _masks, "positions": _positions}
    return [made[name](found, theme) for name in what]


def _positions(found: Mapping[str, Any], theme: Theme) -> Figure:
    return positions(theme)


def _rows(found: Mapping[str, Any], theme: Theme) -> Figure:
    rows = [(said(name), marks) for name, marks in batch(found["drawn"])]
    return plots.text_of(rows, list(KINDS.values()), theme)


def _lengths(found: Mapping[str, Any], theme: Theme) -> Figure:
    told = found["lengths"]
    counted = said("number of rows" if told["of"] == "rows" else "number of documents")
    return plots.histograms(
        [(counted, said("tokens"), told["lengths"], told["max_length"]),
         (counted, said("unknown tokens"), told["missing"], None)],
        f"{found['recipe']}: {said(lengths.in_words(told)[0])}", theme)


def _masks(found: Mapping[str, Any], theme: Theme) -> Figure:
    (one, *_) = found["drawn"]
    return plots.yes_and_no(
        [(said(mask["name"]), np.array(mask["seen"]), names_of(one, mask["queries"]), names_of(one, mask["keys"]))
         for mask in one["masks"]], theme)


def positions(theme: Theme) -> Figure:
    """Every way of telling positions, with its formula and its source."""
    return plots.side_by_side(
        [(said(one.name), "\n\n".join(broken(words, 40) for words in (
            one.formula, said(one.reads), f"{one.source}. {said('Here')}: {said(one.families)}")), one.table(POSITIONS))
         for one in ENCODINGS], theme)


# ---- as a page ----

def page(found: Mapping[str, Any], what: Sequence[str]) -> str:
    """One file of HTML, whose pictures are inside it."""
    name = found.get("recipe", "positions")
    parts = [f"<h1>{text(name)}</h1>"]
    if "learning" in found:
        about = f"{found['learning']}, rows of at most {found['max_length']} tokens, packing {found['packing']}"
        parts.append(f"<p>{sentence(about)}</p>")
    made = {"rows": _page_rows, "lengths": _page_lengths, "mask": _page_masks, "positions": _page_positions}
    parts += [made[one](found) for one in what]
    kinds = list(KINDS.values())
    return document.document(f"{name}: what it will see", "\n".join(parts),
                             document.both((css(LIGHT, kinds), css(DARK, kinds))))


def _page_rows(found: Mapping[str, Any]) -> str:
    rows = "".join(f'<h3>{sentence(name)}</h3><p class="tokens">{spans(marks)}</p>'
                   for name, marks in batch(found["drawn"]))
    return f'<h2>{sentence("Rows")}</h2><ul class="legend">{legend(KINDS.values())}</ul>{rows}'


def _page_lengths(found: Mapping[str, Any]) -> str:
    said = [translate(line) for line in lengths.in_words(found["lengths"])]
    return (f"<h2>{sentence('Lengths and unknown tokens')}</h2>{''.join(f'<p>{text(line)}</p>' for line in said)}"
            f"<figure>{_both(lambda theme: _lengths(found, theme), '; '.join(said))}</figure>")


def _page_masks(found: Mapping[str, Any]) -> str:
    out = [f"<h2>{sentence('Who sees whom')}</h2>"]
    how = sentence("Each row looks at the columns: ■ sees, · doesn't.")
    (one, *_) = found["drawn"]
    for mask in one["masks"]:
        squares, names = masks.drawn(mask["seen"]), names_of(one, mask["queries"])
        # names stand behind the squares: before them they would push these aside, each by its own width
        lines = [row if row == "…" else f"{row} {name}" for row, name in zip(squares, names, strict=False)]
        out.append(f"<h3>{sentence(mask['name'])}</h3><p>{how}</p><pre>{text_lines(lines)}</pre>")
    return "".join(out)


def _page_positions(found: Mapping[str, Any]) -> str:
    rows = [[translate(one.name), one.formula, one.source, translate(one.reads), translate(one.families)]
            for one in ENCODINGS]
    names = ", ".join(translate(one.name) for one in ENCODINGS)
    shown = _both(positions, f"{translate('heat maps')}: {names}")
    head = [translate(name) for name in ("way", "formula", "source", "what is drawn", "here")]
    return (f"<h2>{sentence('Positions')}</h2>" + document.table(head, rows, 99)
            + f'<figure class="wide" tabindex="0">{shown}</figure>')


def text_lines(lines: Sequence[str]) -> str:
    """Lines for HTML, each escaped."""
    return "\n".join(map(text, lines))


def _both(make: Any, says: str) -> str:
    """A figure for light pages and one for dark ones: the browser takes the one that fits."""
    from io import BytesIO

    shown = []
    for theme, names in ((LIGHT, "light"), (DARK, "dark")):
        buffer = BytesIO()
        figure = make(theme)
        with heat.drawing(theme):
            figure.savefig(buffer, dpi=paper.DOTS, format="png", facecolor=figure.get_facecolor())
        shown.append(document.picture(buffer.getvalue(), says, names))
    return "".join(shown)


# ---- as lines ----

def lines(found: Mapping[str, Any], what: Sequence[str]) -> list[str]:
    """All but rows, for a terminal."""
    out: list[str] = []
    if "lengths" in what:
        out += ["", *lengths.in_words(found["lengths"]), *lengths.bars(found["lengths"]["lengths"])]
    if "mask" in what:
        (one, *_) = found["drawn"]
        for mask in one["masks"]:
            out += ["", f"{mask['name']}: each row looks at the columns, ■ sees, · doesn't",
                    *masks.drawn(mask["seen"], names_of(one, mask["queries"]))]
    if "positions" in what:
        for way in ENCODINGS:
            out += ["", f"{translate(way.name)} ({translate(way.families)})", f"  {way.formula}", f"  {way.source}",
                    f"  {translate(way.reads)}"]
    return out
