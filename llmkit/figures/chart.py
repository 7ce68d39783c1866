"""Charts for a page, as SVG whose colours are the page's: light and dark from one picture, crisp on any screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llmkit.figures.curves import Curve, Panel
from llmkit.figures.markup import Html, join, tag

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 40
"""Margins for the axes' figures."""


def figure(panel: Panel, say: Callable[[str], str] = str, ours: bool = True) -> Html:
    """A panel with its title, its legend and its text alternative.

    say    our own words in another language
    ours   whether the curves' names are such words; of several runs they are somebody's names
    """
    names = [(say(line.name) if ours else line.name, f"c{number % 6}", "●") for number, line in enumerate(panel.lines)]
    names += [(say(line.name), "c3", "▼") for line in panel.points]
    keys = [join([tag("span", sign, class_=f"key {colour}", aria_hidden="true"), " ", name])
            for name, colour, sign in names]
    keys += [join(["┄ ", say("floor"), ": ", say(what), f" ({value:.4g})"]) for what, value in panel.floors.items()]
    return tag("figure", tag("figcaption", tag("strong", say(panel.title)), " — ", join(keys, ", ")),
               chart(panel, say))


def chart(panel: Panel, say: Callable[[str], str] = str) -> Html:
    """The SVG of a panel, with its text alternative."""
    values = [value for line in (*panel.lines, *panel.points) for value in line.values] + [*panel.floors.values()]
    steps = [step for line in (*panel.lines, *panel.points) for step in line.steps]
    across, up = Scale(steps, LEFT, WIDTH - RIGHT, whole=True), Scale(values, HEIGHT - BOTTOM, TOP, panel.log)
    parts = [*axes(across, up, say("step")), *(floor(up(value)) for value in panel.floors.values())]
    for number, line in enumerate(panel.lines):
        parts += drawn(line.thinned(), across, up, number % 6)
    for line in panel.points:
        parts += [dot(across(step), up(value), 3) for step, value in zip(line.steps, line.values, strict=True)]
    return tag("svg", tag("title", say(panel.title)), tag("desc", panel.in_words(say)), *parts, role="img",
               aria_label=panel.in_words(say), viewBox=f"0 0 {WIDTH} {HEIGHT}", xmlns="http://www.w3.org/2000/svg")


class Scale:
    """From figures to places along an axis."""

    def __init__(
        self, values: Sequence[float], start: float, stop: float, log: bool = False, whole: bool = False,
    ) -> None:
        """`whole`: there is nothing between two whole figures, as with steps."""
        self.log = log
        self.start, self.stop = start, stop
        self.ticks = decades(values) if log else even(min(values), max(values), least=float(whole))
        known = [self.at(value) for value in (*values, *self.ticks)]
        self.low, self.high = min(known), max(known)

    def at(self, value: float) -> float:
        """A figure, or its logarithm."""
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self.at(value) - self.low) / (self.high - self.low or 1.0)
        return self.start + share * (self.stop - self.start)


def even(low: float, high: float, most: int = 5, least: float = 0.0) -> list[float]:
    """Round figures that reach from one to the other, about so many, and at least so far from each other.

    >>> even(0.3, 9.2)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if low == high:
        spread = abs(low) or 1.0
        low, high = low - spread / 2, high + spread / 2
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = max(least, unit * next(times for times in (1, 2, 5, 10) if times * unit >= rough * 0.999))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(place * step, 12) for place in range(first, last + 1)]


def decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around some figures above 0."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0 ** power for power in range(first, max(last, first + 1) + 1)]


def short(value: float) -> str:
    """A figure at an axis: 20k, 0.0005."""
    size = abs(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if name == 'k' else unit):g}{name}"
    return f"{value:g}"


def axes(across: Scale, up: Scale, below: str = "step") -> list[Html]:
    """Lines and figures of both axes."""
    low = HEIGHT - BOTTOM
    parts = []
    for value in up.ticks:
        parts.append(line(LEFT, up(value), WIDTH - RIGHT, up(value), "net"))
        parts.append(tag("text", short(value), x=LEFT - 6, y=f"{up(value) + 4:.1f}", text_anchor="end"))
    for value in across.ticks:
        parts.append(tag("text", short(value), x=f"{across(value):.1f}", y=low + 16, text_anchor="middle"))
    parts.append(line(LEFT, low, WIDTH - RIGHT, low, "axis"))
    parts.append(tag("text", below, x=(LEFT + WIDTH - RIGHT) // 2, y=HEIGHT - 6, text_anchor="middle"))
    return parts


def drawn(curve: Curve, across: Scale, up: Scale, colour: int) -> list[Html]:
    """A curve, and where there are few its points."""
    places = [(across(step), up(value)) for step, value in zip(curve.steps, curve.values, strict=True)]
    parts = [tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_=f"curve c{colour}")]
    if curve.marked or len(places) == 1:
        parts += [dot(x, y, colour) for x, y in places[:: max(1, len(places) // 60)]]
    return parts


def dot(x: float, y: float, colour: int) -> Html:
    """A point."""
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_=f"dot c{colour}")


def floor(y: float) -> Html:
    """A line across."""
    return line(LEFT, y, WIDTH - RIGHT, y, "floor")


def line(x: float, y: float, x2: float, y2: float, kind: str) -> Html:
    """A straight line."""
    return tag("line", x1=f"{x:.1f}", y1=f"{y:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)
