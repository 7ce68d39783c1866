"""A run's curves: loss, metrics, learning rate, norm of the gradient and speed over its steps; also as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.figures import paper
from llmkit.figures.labels import Say, inked
from llmkit.system.language import translate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 600
"""Points of a curve that are drawn: a picture has no more columns."""
LARGEST = 10**300
"""A whole number that is larger is none that anybody counted, and no float can hold it."""
WIDE = 50.0
"""How many times its smallest figure a curve's largest one is, for a logarithmic scale to show more."""


@dataclass(frozen=True)
class Curve:
    """One curve: figures over steps."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    marked: bool = False
    """Whether its points are few, and each is shown."""

    def thinned(self, most: int = MOST_POINTS) -> Curve:
        """At most so many points, each the mean of its neighbours."""
        count = len(self.values)
        if count <= most:
            return self
        edges = [i * count // most for i in range(most + 1)]
        parts = [slice(start, stop) for start, stop in pairwise(edges)]
        return Curve(self.name, tuple(mean(self.steps[part]) for part in parts),
                    tuple(mean(self.values[part]) for part in parts), self.marked)

    def in_words(self, say: Say = str) -> str:
        """`training 5.3 at step 1, 3.2 at step 100, lowest 3.1 at step 90`, for who doesn't see it."""
        points = list(zip(self.values, self.steps, strict=True))
        (first, start), (last, end) = points[0], points[-1]
        name = say(self.name)
        if len(points) == 1:
            return say("{name} {first:.4g} at step {start:,.0f}").format(name=name, first=first, start=start)
        (low, at), (high, top) = min(points), max(points)
        return say("{name} {first:.4g} at step {start:,.0f}, {last:.4g} at step {end:,.0f}, lowest {low:.4g} at step "
                   "{at:,.0f}, highest {high:.4g} at step {top:,.0f}").format(
            name=name, first=first, start=start, last=last, end=end, low=low, at=at, high=high, top=top)


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes."""

    title: str
    lines: tuple[Curve, ...]
    floors: Mapping[str, float] = field(default_factory=dict)
    """What is reached without a model, by what reaches it: a line across."""
    points: tuple[Curve, ...] = ()
    """What happened once: where the loss jumped."""
    log: bool = False
    """Whether the upright axis is logarithmic."""

    def in_words(self, say: Say = str) -> str:
        """Its text alternative; `say` translates its words."""
        floors = [say("floor {name}: {value:.4g}").format(name=say(what), value=value)
                  for what, value in self.floors.items()]
        lines = [line.in_words(say) for line in self.lines]
        return say("{title} over steps: {lines}.").format(title=say(self.title), lines="; ".join([*lines, *floors]))


def mean(values: Sequence[float]) -> float:
    """Of some figures, one at least."""
    return sum(values) / len(values)


def figures_of(events: Iterable[Mapping[str, Any]], kind: str, name: str) -> tuple[tuple[float, ...], ...]:
    """(steps, values) of a figure in a run's events of a kind; what is no finite number is left out."""
    found = [(event["step"], event[name]) for event in events if event.get("event") == kind
             and is_number(event.get(name)) and is_number(event.get("step"))]
    return tuple(step for step, _ in found), tuple(value for _, value in found)


def is_number(value: Any) -> bool:
    """Whether a figure of a file can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < LARGEST


def curve(events: Sequence[Mapping[str, Any]], kind: str, name: str, label: str) -> tuple[Curve, ...]:
    """A figure's curve; nothing where the events don't have it."""
    steps, values = figures_of(events, kind, name)
    return (Curve(label, steps, values, kind == "evaluate"),) if values else ()


def wide(lines: Iterable[Curve]) -> bool:
    """Whether a logarithmic scale shows more of some curves than a plain one."""
    values = [value for line in lines for value in line.values]
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def panels(events: Sequence[Mapping[str, Any]], floor: float | None = None) -> list[Panel]:
    """The four that every run has, as far as it wrote their figures: loss, learning rate, gradient, speed.

    events   lines of metrics.jsonl
    floor    the loss (nats) that the frequencies of words alone give, where that can be compared
    """
    loss = (*curve(events, "train", "loss", "training"), *curve(events, "evaluate", "loss", "validation"))
    floors = {} if floor is None or not is_number(floor) else {"word frequencies alone": floor}
    found = [Panel("loss", loss, floors, curve(events, "spike", "loss", "the loss jumped"))]
    for name, title in (("learning_rate", "learning rate"), ("grad_norm", "norm of the gradient"),
                        ("tokens_per_second", "tokens a second")):
        lines = curve(events, "train", name, title)
        found.append(Panel(title, lines, log=name == "grad_norm" and wide(lines)))
    return [panel for panel in found if panel.lines]


def measured(events: Sequence[Mapping[str, Any]], floors: Mapping[str, Mapping[str, float]]) -> list[Panel]:
    """A panel for each figure of the evaluations but the loss, with its floors."""
    names = dict.fromkeys(name for event in events if event.get("event") == "evaluate" for name in event)
    found = []
    for name in names:
        lines = () if name in ("event", "step", "loss") else curve(events, "evaluate", name, "validation")
        if lines:
            found.append(Panel(name, lines, {what: some[name] for what, some in floors.items() if name in some}))
    return found


def draw(shown: Sequence[Panel], title: str, path: Path, theme: paper.Theme = paper.LIGHT) -> None:
    """A picture of panels, two beside each other, with its text alternative inside; PlaceError as `paper.save`."""
    from matplotlib import rc_context

    rows = max(1, (len(shown) + 1) // 2)
    with rc_context(paper.style(theme)):
        high = 0.5 + 2.9 * rows
        figure = paper.sheet(10, high, theme, fitted=False)
        figure.subplots_adjust(left=0.075, right=0.985, bottom=0.5 / high, top=1 - 0.7 / high, hspace=0.4, wspace=0.18)
        places = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, panel in zip(places, shown, strict=False):
            paint(axes, panel, theme)
        for axes in places[len(shown):]:
            axes.remove()
        figure.suptitle(paper.drawable(title), fontsize=12)
        paper.save(figure, path, " ".join(panel.in_words(translate) for panel in shown))


def paint(axes: Axes, panel: Panel, theme: paper.Theme) -> None:
    """One panel: curves in the theme's colours, floors across with their name, a legend where there are several."""
    for number, line in enumerate(panel.lines):
        thin = line.thinned()
        axes.plot(thin.steps, thin.values, color=theme.lines[number % len(theme.lines)], label=inked(line.name),
                  linewidth=1.5, marker="o" if line.marked or len(thin.values) == 1 else "", markersize=4)
    for line in panel.points:
        axes.plot(line.steps, line.values, "v", color=theme.lines[3], label=inked(line.name), markersize=6)
    for what, value in panel.floors.items():
        axes.axhline(value, color=theme.faint, linestyle="--", linewidth=1,
                     label=f"{inked('floor')}: {inked(what)}")
    axes.set_title(inked(panel.title), fontsize=10)
    axes.set_xlabel(inked("step"), fontsize=9)
    axes.set_yscale("log" if panel.log else "linear")
    if not panel.log:
        axes.yaxis.set_major_formatter("{x:g}")
    axes.locator_params("x", integer=True)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    if len(panel.lines) + len(panel.points) + len(panel.floors) > 1:
        axes.legend(fontsize=8)
