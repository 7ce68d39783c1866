"""What a run will take, by its parts: memory beside what there is of it, and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit.figures import paper
from llmkit.figures.labels import Say, writing
from llmkit.system.language import translate
from llmkit.system.machine import size
from llmkit.system.report import spent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HATCHES = ("", "//", "..", "xx", "--", "++")
"""What tells parts apart beside their colour."""


@dataclass(frozen=True)
class Planned:
    """All that the picture shows; a part that takes nothing isn't there."""

    title: str
    memory: Mapping[str, float]
    """Bytes at the run's peak, by part."""
    available: float
    """Bytes that there are."""
    time: Mapping[str, float]
    """Seconds, by part; empty where nothing was measured."""

    def in_words(self, say: Say = str) -> str:
        """Its text alternative; `say` translates its words."""
        memory = ", ".join(f"{say(name)} {size(count)}" for name, count in self.memory.items())
        time = ", ".join(f"{say(name)} {spent(seconds)}" for name, seconds in self.time.items())
        words = say("{title}. Memory: {memory}, of {available}. Time: {time}." if time else
                    "{title}. Memory: {memory}, of {available}.")
        return words.format(title=self.title, memory=memory, available=size(self.available), time=time)


def draw(shown: Planned, path: Path) -> None:
    """The picture as .png or .svg; PlaceError as `paper.save`."""
    from matplotlib import rc_context

    say, text = writing(path), paper.drawable if path.suffix == ".png" else paper.plain
    with rc_context(paper.style()):
        figure = paper.sheet(9, 2.7 + 2.1 * bool(shown.time))
        places = figure.subplots(1 + bool(shown.time), 1, squeeze=False)[:, 0]
        near = shown.available <= 3 * sum(shown.memory.values())
        line = say("GB   (the dashed line, {available}: all there is)" if near else "GB   ({available}: all there is)")
        stack(places[0], say("memory"),
              {f"{say(name)} ({size(count)})": count / 1e9 for name, count in shown.memory.items()},
              line.format(available=size(shown.available)))
        if near:
            places[0].axvline(shown.available / 1e9, color=paper.LIGHT.ink, linestyle="--", linewidth=1.5)
            places[0].set_xlim(0, 1.02 * max(shown.available, sum(shown.memory.values())) / 1e9)
        if shown.time:
            unit, one = next((unit, one) for unit, one in (("hours", 3600), ("minutes", 60), ("seconds", 1))
                             if sum(shown.time.values()) >= 2 * one or one == 1)
            stack(places[1], say("time"), {f"{say(name)} ({spent(seconds)})": seconds / one
                                           for name, seconds in shown.time.items()}, say(unit))
        figure.suptitle(text(shown.title), fontsize=11)
        paper.save(figure, path, shown.in_words(translate))


def stack(axes: Axes, name: str, parts: Mapping[str, float], unit: str) -> None:
    """One bar, its parts beside each other, each named in the legend below."""
    start = 0.0
    for number, (label, length) in enumerate(parts.items()):
        axes.barh(0, length, left=start, height=0.6, label=label, edgecolor=paper.LIGHT.ground,
                  color=paper.LIGHT.lines[number % len(paper.LIGHT.lines)], hatch=HATCHES[number % len(HATCHES)])
        start += length
    axes.set(yticks=[0], yticklabels=[name], xlabel=unit, ylim=(-0.5, 0.5))
    axes.set_xlim(0, 1.02 * start or 1)
    axes.grid(axis="x", alpha=0.25)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), ncols=3, fontsize=8, frameon=False)
