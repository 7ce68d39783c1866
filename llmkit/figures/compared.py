"""Ways of doing the same thing in one picture: what each reached with its spread, and against what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit.figures import paper
from llmkit.figures.labels import Say, writing
from llmkit.system.language import translate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONG = 28
"""Letters of a name that the picture has room for."""


@dataclass(frozen=True)
class Point:
    """One way, over its runs."""

    name: str
    values: Sequence[float]
    cost: float

    @property
    def mean(self) -> float:
        """Of its runs."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True)
class Comparing:
    """All that the picture shows."""

    title: str
    metric: str
    axis: str
    """What it costs, and in what."""
    scale: str
    """Of that axis: linear or log."""
    points: Sequence[Point]
    floors: Mapping[str, float]
    """What is reached without a model, by what reaches it."""

    @property
    def numbered(self) -> bool:
        """Whether names are too long to stand in a picture, or have letters that no font of this machine draws."""
        return any(len(point.name) > LONG for point in self.points) or bool(self.missing)

    @property
    def missing(self) -> str:
        """Letters of the names that a PNG can't show here."""
        return paper.undrawable([self.title, self.metric, *(point.name for point in self.points), *self.floors])

    def in_words(self, say: Say = str) -> str:
        """Its text alternative; `say` translates its words."""
        parts = [say("{name} {mean:.4g} at {cost:.4g}").format(name=point.name, mean=point.mean, cost=point.cost)
                 for point in self.points]
        floors = [say("floor {name}: {value:.4g}").format(name=say(what), value=value)
                  for what, value in self.floors.items()]
        return say("{title}: {metric} and {axis}: {parts}.").format(
            title=say(self.title), metric=self.metric, axis=say(self.axis), parts="; ".join([*parts, *floors]))

    def with_numbers(self) -> Comparing:
        """The same with a number in the place of each name, as the table beside the picture has it."""
        points = [replace(point, name=f"[{i}]") for i, point in enumerate(self.points, 1)]
        return replace(self, points=points)


def draw(shown: Comparing, path: Path) -> None:
    """The picture as .png, with numbers for names that it can't show, or as .svg; PlaceError as `paper.save`."""
    from matplotlib import rc_context

    seen = shown.with_numbers() if shown.numbered and path.suffix == ".png" else shown
    say, text = writing(path), paper.drawable if path.suffix == ".png" else paper.plain
    with rc_context(paper.style()):
        figure = paper.sheet(11, 1.4 + 0.42 * max(6, len(seen.points)))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1))
        figures_of(left, seen, text_of=text)
        costs_of(right, seen, text(say(seen.axis)), text_of=text)
        handles = [left.axvline(value, color=paper.LIGHT.faint, linewidth=1.2, linestyle=style,
                                label=text(f"{say('floor')}: {say(what)} ({value:.4g})"))
                   for (what, value), style in zip(in_sight(seen).items(), STYLES, strict=False)]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
        figure.suptitle(text(say(shown.title)))
        paper.save(figure, path, shown.in_words(translate))


STYLES = ("--", ":", "-.", (0, (1, 3)))
"""One a floor."""


def in_sight(shown: Comparing) -> dict[str, float]:
    """The floors that leave room for what is compared, the nearest ones first; at least one."""
    values = [value for point in shown.points for value in point.values]
    room = 1.5 * (max(values) - min(values)) or max(1e-9, abs(values[0]))
    near = sorted(shown.floors.items(), key=lambda floor: max(min(values) - floor[1], floor[1] - max(values), 0.0))
    return {what: value for place, (what, value) in enumerate(near[: len(STYLES)])
            if place == 0 or min(values) - room <= value <= max(values) + room}


def figures_of(axes: Axes, shown: Comparing, text_of: Callable[[str], str]) -> None:
    """The metric of each, a row each: every run, their spread, their mean."""
    colour, count = paper.LIGHT.lines[0], len(shown.points)
    for place, point in zip(range(count - 1, -1, -1), shown.points, strict=True):
        axes.plot([min(point.values), max(point.values)], [place, place], color=colour, linewidth=3, alpha=0.4)
        axes.plot(point.values, [place] * len(point.values), "|", color=colour, markersize=9)
        axes.plot(point.mean, place, "o", color=colour)
    axes.set_yticks(range(count - 1, -1, -1), [text_of(point.name) for point in shown.points])
    axes.set_ylim(-0.6, count - 0.4)
    axes.set_xlabel(text_of(shown.metric))
    axes.margins(x=0.08)
    axes.grid(axis="x", alpha=0.25)


def costs_of(axes: Axes, shown: Comparing, below: str, text_of: Callable[[str], str]) -> None:
    """The metric of each against what it costs, as `below` says; names stand beside the axes, a line leads to each."""
    colour, faint = paper.LIGHT.lines[0], paper.LIGHT.faint
    for point in shown.points:
        axes.errorbar(point.cost, point.mean, fmt="o", color=colour, capsize=3,
                      yerr=[[point.mean - min(point.values)], [max(point.values) - point.mean]])
    for value, style in zip(in_sight(shown).values(), STYLES, strict=False):
        axes.axhline(value, color=faint, linewidth=1.2, linestyle=style)
    axes.set(xscale=shown.scale, xlabel=below, ylabel=text_of(shown.metric))
    axes.margins(x=0.1, y=0.1)
    axes.grid(alpha=0.25)
    low, high = axes.get_ylim()
    heights = [(point.mean - low) / (high - low) for point in shown.points]
    for point, height in zip(shown.points, paper.apart(heights, 0.07), strict=True):
        axes.annotate(text_of(point.name), (point.cost, point.mean), xytext=(1.04, height),
                      textcoords="axes fraction", fontsize=9, va="center",
                      arrowprops={"arrowstyle": "-", "color": faint, "linewidth": 0.7})
