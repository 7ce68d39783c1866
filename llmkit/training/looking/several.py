"""Several runs beside each other: a page, and what differs between their recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmkit import recipe as recipes
from llmkit.figures import chart, markup
from llmkit.figures.curves import Curve, Panel, curve
from llmkit.figures.markup import Html, tag
from llmkit.objectives.base import more_is_better
from llmkit.recipe.writing import DATALESS
from llmkit.system.errors import RequestError, nearest
from llmkit.system.machine import size
from llmkit.system.report import clock
from llmkit.tasks.shared.floors import best, in_words
from llmkit.training.looking.run_page import foot, section, written
from llmkit.training.looking.story import Story

COLOURS = 6
"""Curves that are told apart in one chart."""


def several_page(stories: Sequence[Story], metric: str | None = None) -> str:
    """Runs as one HTML page, by a metric first; RequestError where no run has it."""
    chosen, say = metrics(stories, metric), stories[0].say
    return markup.page(
        f"{len(stories)} runs: llmkit", tag("h1", say(f"{len(stories)} runs side by side")),
        section(say("What came of them"), results(stories, chosen)),
        section(say("How they got there"), curves(stories, chosen)),
        section(say("What differs between their recipes"), differences(stories)),
        section(say("What they cost"), costs(stories)), foot(say), language=stories[0].language)


def metrics(stories: Sequence[Story], metric: str | None = None) -> list[str]:
    """The figures that any of them has, the one that is asked for first, else the one that says most."""
    known = list(dict.fromkeys([*(story.metric for story in stories if story.metric in story.figures),
                                *(name for story in stories for name in story.figures)]))
    trained = ["train_loss"] if any(story.train_loss is not None for story in stories) else []
    if metric is None:
        return [*known, *trained]
    if metric not in (*known, *trained):
        raise RequestError(f"--metric {metric}: no run has such a figure; they have "
                           f"{', '.join([*known, *trained]) or 'none'}.{nearest(metric, known)}")
    return [metric, *(name for name in (*known, *trained) if name != metric)]


def value(story: Story, name: str) -> float | None:
    """A run's figure; its training loss is called train_loss."""
    return story.train_loss if name == "train_loss" else story.figures.get(name)


def labels(stories: Sequence[Story]) -> list[str]:
    """What each is called: its name; where two have one, the end of its folder's path that tells them apart."""
    names = [story.name for story in stories]
    folders = [str(story.run.folder) for story in stories]
    return [name if names.count(name) == 1 else f"{name} ({folder})"
            for name, folder in zip(names, folders, strict=True)]


def results(stories: Sequence[Story], names: Sequence[str]) -> Iterator[Html]:
    """A row a run; the best of each figure among like runs is marked, what it is without a model stands below."""
    top = {name: finest(stories, name) for name in names}
    rows: list[list[Any]] = []
    for label, story in zip(labels(stories), stories, strict=True):
        cells = [(marked(value(story, name)) if value(story, name) is not None
                  and value(story, name) == top[name].get(alike(story)) else value(story, name)) for name in names]
        rows.append([label, story.say(story.status), story.learning, story.plugin("tuning"), story.model, story.step,
                     *cells])
    floors, say = {what: some for story in stories for what, some in story.floors.items()}, stories[0].say
    rows += [[f"{say('floor')}: {say(in_words(what))}", "", "", "", "", None, *(some.get(name) for name in names)]
             for what, some in floors.items()]
    head = [say(name) for name in ("run", "status", "learned", "tuning", "from", "steps")]
    yield markup.table([*head, *names], rows,
                       say("★: the best of the figure among runs that learned the same from the same data and were "
                           "measured on the same rows; others are not compared."))
    for label, story in zip(labels(stories), stories, strict=True):
        for sentence in (*story.verdicts, *story.notes):
            yield tag("p", f"{label}: {story.say(sentence)}.", class_="warn")


def finest(stories: Sequence[Story], name: str) -> dict[str, float]:
    """The best of a figure among runs that are alike, by what they are alike in; none of a run that has no like."""
    known: dict[str, list[float]] = {}
    for story in stories:
        if (found := value(story, name)) is not None:
            known.setdefault(alike(story), []).append(found)
    return {what: (max if more_is_better(name) else min)(some) for what, some in known.items() if len(some) > 1}


def alike(story: Story) -> str:
    """What runs must have in common to be compared: what they learned, from which data, measured on which rows."""
    data = story.asked.get("data")
    parts = data if isinstance(data, Mapping) else {"train": data}
    # a share of the rows is held out by the seed
    seed = story.asked.get("seed") if isinstance(parts.get("validation"), int | float) else None
    return json.dumps([story.learning, parts.get("train"), parts.get("validation"), seed], sort_keys=True, default=str)


def marked(figure: float | None) -> Html:
    """The best figure."""
    return tag("strong", f"{markup.number(figure or 0.0)} ★")


def curves(stories: Sequence[Story], names: Sequence[str]) -> Iterator[Html]:
    """A chart a figure, a curve a run; where they are many, in several charts."""
    for start in range(0, len(stories), COLOURS):
        part = stories[start : start + COLOURS]
        called = labels(stories)[start : start + COLOURS]
        panels = []
        for name in names:
            kind, field = ("train", "loss") if name == "train_loss" else ("evaluate", name)
            lines: tuple[Curve, ...] = sum((curve(story.events, kind, field, label)
                                           for label, story in zip(called, part, strict=True)), ())
            floor = next((found for story in part if (found := best(name, story.floors))), None)
            if lines:
                panels.append(Panel(name, lines, dict([floor]) if floor else {}))
        yield tag("div", *(chart.figure(panel, stories[0].say, ours=False) for panel in panels), class_="grid")


def differences(stories: Sequence[Story]) -> Iterator[Html]:
    """The fields in which their recipes aren't all the same."""
    rows = differing(stories)
    if not rows:
        yield tag("p", stories[0].say("Nothing but names and folders."))
        return
    yield markup.table((stories[0].say("field"), *labels(stories)),
                       [(name, *map(written, values)) for name, values in rows.items()])


def differing(stories: Sequence[Story]) -> dict[str, list[Any]]:
    """By field, the value of each run's recipe, where they aren't all the same; names and folders aside."""
    flat = [recipes.flat(dict(story.asked)) for story in stories]
    names = dict.fromkeys(name for one in flat for name in one if name not in DATALESS)
    found = {name: [one.get(name) for one in flat] for name in names}
    return {name: values for name, values in found.items() if any(other != values[0] for other in values)}


def costs(stories: Sequence[Story]) -> Iterator[Html]:
    """Time, tokens, memory and size of each."""
    rows = []
    for label, story in zip(labels(stories), stories, strict=True):
        said = story.summary
        rows.append([label, clock(said["wall_seconds"]) if "wall_seconds" in said else None, said.get("tokens"),
                     round(said.get("tokens_per_second") or 0) or None, said.get("trainable_parameters"),
                     size(said["peak_memory_bytes"]) if "peak_memory_bytes" in said else None, size(story.size),
                     said.get("device")])
    yield markup.table([stories[0].say(name) for name in (
        "run", "time", "tokens", "tokens a second", "parameters that train", "memory", "on disk", "device")], rows)
