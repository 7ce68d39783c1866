"""The page of one run: what was asked, what happened, what it learned, what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from llmkit.figures import chart, markup
from llmkit.figures.markup import Html, tag
from llmkit.models import layout
from llmkit.system.machine import size
from llmkit.system.plural import many
from llmkit.system.report import clock
from llmkit.tasks.shared.floors import in_words
from llmkit.training.looking.answers import answered
from llmkit.training.looking.story import Story

Say: TypeAlias = "Callable[[str], str]"
"""From a sentence to the same in the page's language."""
MOST_EVENTS, MOST_ROWS = 40, 20
"""Events, and bad rows, that a page lists."""
MEANT = {
    "completed": "it ended by a rule of its recipe", "stopped": "a signal stopped it; the same command goes on",
    "failed": "it ended with an error", "running": "it goes on", "interrupted": "it says that it runs, and no process "
    "does: it was killed; the same command goes on", "unknown": "its summary is not there yet"}
"""What a status means."""


def run_page(story: Story) -> str:
    """A run as an HTML page in one file."""
    return markup.page(
        f"{story.name}: llmkit", heading(story), section(story.say("What happened"), happened(story)),
        section(story.say("What it learned"), learned(story)), section(story.say("What was asked"), asked(story)),
        section(story.say("What it cost"), cost(story)), foot(story.say), language=story.language)


def section(title: str, parts: Iterator[Html]) -> Html:
    """A part of the page under its heading."""
    return tag("section", tag("h2", title), *parts)


def foot(say: Say) -> Html:
    """What the page is."""
    return tag("footer", tag("p", say("Written by llmkit from the run's own files. This page holds all that it shows: "
                                      "it asks no network for anything, and runs no script."), class_="quiet"))


def heading(story: Story) -> Html:
    """What it was, how it ended, and what must not be overlooked."""
    value, say = story.figures.get(story.metric), story.say
    line = say(f"{story.learning} with {story.plugin('tuning') or 'full'}, from {story.model}")
    meant = say(MEANT.get(story.status, ""))
    if (why := story.summary.get("why")) and story.status in ("completed", "stopped", "failed"):
        meant = say(str(why))
    when = say(f"Last written {story.when} UTC.") if story.when else ""
    parts = [tag("h1", story.name), tag("p", line),
             tag("p", f"{say(story.status)}: {meant}. ", say(f"{many(story.step, 'step')}."), " ", when)]
    if value is not None:
        parts.append(tag("p", tag("strong", f"{story.metric} {markup.number(value)}"), " ",
                         say("on the validation rows")))
    parts += [tag("p", say(sentence), ".", class_="warn") for sentence in (*story.verdicts, *story.notes)]
    return tag("header", *parts)


# ---- what happened ----


def happened(story: Story) -> Iterator[Html]:
    """Curves, events, resumes, rows and steps that were left out."""
    say = story.say
    if story.panels:
        yield tag("div", *(chart.figure(panel, say) for panel in story.panels), class_="grid")
    else:
        yield tag("p", say("No line of its figures is there yet."))
    if story.metrics:
        yield tag("h3", say("The evaluations"))
        yield tag("div", *(chart.figure(panel, say) for panel in story.metrics), class_="grid")
    rows = list(events(story))
    if rows:
        yield tag("h3", say("Events"))
        yield markup.table([say(name) for name in ("step", "what", "more")],
                           [(step, say(what), say(more)) for step, what, more in rows[:MOST_EVENTS]])
        if len(rows) > MOST_EVENTS:
            yield tag("p", say(f"… and {len(rows) - MOST_EVENTS:,} more in {layout.METRICS}."))
    else:
        yield tag("p", say("It wasn't resumed, no step was skipped, and the loss never jumped."))
    yield from bad_rows(story)


def events(story: Story) -> Iterator[tuple[int, str, str]]:
    """(step, what, more) of all that isn't a plain line or evaluation, by step."""
    found = [(int(one["step"]), "resumed", str(one.get("at", ""))) for one in story.summary.get("resumed") or ()]
    for event in story.events:
        kind, step = event.get("event"), int(event["step"])
        if kind == "spike":
            found.append((step, "the loss jumped", f"to {told_figure(event.get('loss'))}, "
                          f"{told_figure(event.get('deviations'))} standard deviations above its usual"))
        elif kind == "skipped":
            found.append((step, "step skipped", str(event.get("why", ""))))
        elif kind not in ("train", "evaluate"):
            found.append((step, str(kind), ""))
    best = story.summary.get("best")
    if isinstance(best, dict) and "step" in best:
        found.append((int(best["step"]), "best evaluation", "its weights are those that the run left"))
    yield from sorted(found)


def told_figure(value: float | None) -> str:
    """A figure of an event; `?` where it has none that is one."""
    return "?" if value is None else f"{value:.4g}"


def bad_rows(story: Story) -> Iterator[Html]:
    """Rows that couldn't be read."""
    path = story.run.folder / layout.BAD_ROWS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    if lines:
        yield tag("h3", story.say("Rows that were left out"))
        yield tag("p", story.say(f"{many(len(lines), 'row')} couldn't be read or learned from: see "
                                 f"{layout.BAD_ROWS}."))
        yield tag("ul", *(tag("li", line) for line in lines[:MOST_ROWS]))


# ---- what it learned ----


def learned(story: Story) -> Iterator[Html]:
    """Figures beside their floors, the answers, and what the model says of a few rows."""
    say = story.say
    if story.figures:
        head = [*map(say, ("figure", "before", "after")),
                *(f"{say('floor')}: {say(in_words(what))}" for what in story.floors)]
        columns: list[Mapping[str, Any]] = [story.before, story.figures, *story.floors.values()]
        yield markup.table(head, [(name, *(column.get(name) for column in columns)) for name in story.figures])
        which = story.summary.get("weights")
        if which:
            yield tag("p", say(f"“After” is of the {which} weights, which {layout.MODEL}/ holds."))
    else:
        yield tag("p", say("It held out no rows, so it was measured on none: data.validation names some."))
    yield from answered(last(story, [event for event in story.samples if event.get("event") == "answers"]), say)
    yield from shown(story)


def last(story: Story, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of some lines of samples.jsonl, that of the weights which the run left: of the best evaluation, or the last."""
    best = story.summary.get("best")
    of_best = [event for event in lines if isinstance(best, dict) and event["step"] == best.get("step")]
    return (of_best or lines or [{}])[-1]


def shown(story: Story) -> Iterator[Html]:
    """What the model said of a few rows, in the end and before."""
    lines = [event for event in story.samples if event.get("event") == "samples" and event.get("rows")]
    if not lines:
        why = (f"there is no {layout.SAMPLES} in its folder, as with training.figures: false, or in runs of older "
               "versions" if not story.samples else "what it learns shows none, or its layers are compiled or in parts")
        yield tag("p", story.say(f"No row is shown here with what the model says of it: {why}."), class_="quiet")
        return
    after = last(story, lines)
    yield from sample(after, story.say)
    if lines[0] is not after:
        yield from sample(lines[0], story.say)
    between = [event for event in lines[1:] if event is not after]
    if between:
        yield tag("details", tag("summary", story.say(many(len(between), "other evaluation"))), *(
            part for event in between[-20:] for part in sample(event, story.say)))


def sample(event: Mapping[str, Any], say: Say) -> Iterator[Html]:
    """One line of samples.jsonl."""
    when = f"after step {int(event['step']):,}" if event["step"] else "before the first step"
    yield tag("h3", say(f"What the model says, {when}"))
    if event.get("about"):
        yield tag("p", say(str(event["about"])))
    yield rows_of(event["rows"], say)


def rows_of(rows: Sequence[Mapping[str, Any]], say: Say) -> Html:
    """Samples as a table; a list of pairs is text with marks."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return tag("p", say(f"This part of {layout.SAMPLES} isn't one that llmkit writes."))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return markup.table([say(name) for name in names], [[told(row.get(name)) for name in names] for row in rows])


def told(value: Any) -> Any:
    """A cell of a sample: marked text, a list of neighbours, a figure, a text."""
    if isinstance(value, list) and value and all(isinstance(one, list) for one in value):
        return Html(tag("span", markup.marked(value)))
    if isinstance(value, list):
        return tag("ul", *(tag("li", one) for one in value))
    return value if isinstance(value, int | float | str) or value is None else str(value)


# ---- what was asked ----


def asked(story: Story) -> Iterator[Html]:
    """Every field of the recipe; those that differ from their defaults stand out."""
    fields, say = story.fields(), story.say
    known = story.recipe is not None
    rows = [((name, written(value), written(usual)), usual == "" or value != usual)
            for name, value, usual in fields]
    if not rows:
        yield tag("p", say(f"Its {layout.RECIPE} isn't there."))
        return
    if not known:
        yield markup.table((say("field"), say("value")), [row[:2] for row, _ in rows])
        return
    yield tag("p", say("A star: it differs from its default, for it was asked for, or llmkit found a value for it. The "
                       "others are as they always are."))
    yield markup.changed([row for row in rows if row[1]], (say("field"), say("value"), say("default")))
    yield tag("details", tag("summary", say(f"{many(sum(not out for _, out in rows), 'field')} as always")),
              markup.table((say("field"), say("value")), [row[:2] for row, out in rows if not out]))


def written(value: Any) -> str:
    """A value as a recipe has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---- what it cost ----


def cost(story: Story) -> Iterator[Html]:
    """Time, tokens, memory, device, versions."""
    summary = story.summary
    known: dict[str, Any] = {
        "time": clock(summary["wall_seconds"]) if "wall_seconds" in summary else None,
        "tokens": summary.get("tokens"), "tokens a second": whole(summary.get("tokens_per_second")),
        "of that time, waiting for data": share(summary.get("data_wait")),
        "parameters": summary.get("parameters"), "of these, trained": summary.get("trainable_parameters"),
        "memory at its peak": bytes_of(summary.get("peak_memory_bytes")),
        "of the GPU": bytes_of(summary.get("peak_gpu_memory_bytes")),
        "on disk": size(story.size), "processes": summary.get("processes"), "device": summary.get("device"),
        "precision": summary.get("precision"), "skipped steps": summary.get("skipped_steps"),
        **{f"version of {name}": value for name, value in (summary.get("versions") or {}).items()}}
    if not summary:
        yield tag("p", story.say(f"Its {layout.SUMMARY} isn't there yet."))
    yield markup.facts({story.say(name): value for name, value in known.items()})


def whole(value: float | None) -> int | None:
    """A figure without its fraction."""
    return None if value is None else round(value)


def share(value: float | None) -> str | None:
    """0.012 -> 1.2 %"""
    return None if value is None else f"{100 * value:.1f} %"


def bytes_of(value: int | None) -> str | None:
    """A size in words."""
    return None if value is None else size(value)
