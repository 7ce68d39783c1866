"""What the board tells of one run: a row of the list, and all that its own page shows but the curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmkit.models import layout
from llmkit.models.files import read_json
from llmkit.models.run import Run
from llmkit.serving.board.pace import pace
from llmkit.serving.board.reading import plain
from llmkit.system.errors import CheckpointError
from llmkit.system.language import translate
from llmkit.tasks.base import Task
from llmkit.tasks.shared.floors import in_words
from llmkit.training.looking.run_page import MOST_EVENTS, MOST_ROWS, written
from llmkit.training.looking.story import Story

MOST_SAMPLES, MOST_LETTERS = 6, 2000
"""Evaluations whose samples are shown, and letters of one value."""
COST = ("wall_seconds", "tokens", "tokens_per_second", "data_wait", "parameters", "trainable_parameters",
        "peak_memory_bytes", "peak_gpu_memory_bytes", "processes", "strategy", "device", "precision", "skipped_steps",
        "bad_rows")
"""Fields of a summary that say what a run costs, as it wrote them."""
WRITES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the class of a model ends that writes."""
LISTS = ("choices",)
"""Fields of a row that hold several texts, a line each."""


def row(story: Story, size: int) -> dict[str, Any]:
    """A run in the list: what it is, how far, its loss and its metric beside the floor; `size` is bytes on disk."""
    facts = story.facts(size)
    training = story.asked.get("training")
    line: Mapping[str, Any] = next((event for event in reversed(story.events) if event.get("event") == "train"), {})
    share, left = pace(training if isinstance(training, Mapping) else {}, line)
    going = facts["status"] in ("running", "interrupted", "stopped", "failed", "unknown")
    return dict(plain({
        **facts, "share": share if going else 1.0, "left": left if facts["status"] == "running" else None,
        "loss": line.get("loss", story.train_loss), "speed": line.get("tokens_per_second"),
        "validation": next((event.get("loss") for event in reversed(story.events)
                            if event.get("event") == "evaluate"), None)}))


def spoken(told: Mapping[str, Any], language: str) -> dict[str, Any]:
    """A row of the list with what is said in it in a language, where that has a translation."""
    floor = told["floor"]
    return {**told, "notes": [translate(note, language) for note in told["notes"]],
            "floor": floor if floor is None else {**floor, "name": translate(str(floor["name"]), language)}}


def details(story: Story, language: str) -> dict[str, Any]:
    """The rest of a run, without its curves.

    language   zh: sentences of ours are in Chinese, where they have a translation
    """
    def told(text: str) -> str:
        return translate(text, language)

    summary = story.summary
    floors = {what: told(in_words(what)) for what in story.floors}
    changed = [(name, written(value), written(usual), usual == "" or value != usual)
               for name, value, usual in story.fields()]
    versions = summary.get("versions")
    return dict(plain({
        "why": told(str(summary.get("why") or "")), "notes": [told(note) for note in story.notes],
        "figures": [{"name": name, "before": story.before.get(name), "after": value,
                     "floors": [some.get(name) for some in story.floors.values()]}
                    for name, value in story.figures.items()],
        "floors": list(floors.values()), "verdicts": [told(sentence) for sentence in story.verdicts],
        "floor_lines": {name: {told(what): some[name] for what, some in story.floors.items() if name in some}
                        for name in dict.fromkeys(name for some in story.floors.values() for name in some)},
        "recipe": [[name, short(value), short(usual), out] for name, value, usual, out in changed],
        "checked": story.recipe is not None,
        "cost": {name: summary[name] for name in COST if summary.get(name) is not None},
        "versions": versions if isinstance(versions, dict) else {},
        "happened": happened(story)[:MOST_EVENTS], "bad": bad_rows(story.run),
        "samples": [{**one, "about": told(one["about"]), "names": [told(name) for name in one["names"]]}
                    for one in list(samples(story))[-MOST_SAMPLES:]], "can": can(story)}))


def short(text: str) -> str:
    """A text that a page has room for."""
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def happened(story: Story) -> list[dict[str, Any]]:
    """What isn't a plain line: {"step", "what": resumed, spike, skipped, best …, and what there is to say of it}."""
    found = [{"step": one.get("step", 0), "what": "resumed", "at": str(one.get("at", ""))}
             for one in story.summary.get("resumed") or () if isinstance(one, dict)]
    for event in story.events:
        kind = str(event.get("event"))
        if kind not in ("train", "evaluate"):
            found.append({"step": event["step"], "what": kind, **{
                name: event[name] for name in ("loss", "deviations", "why") if name in event}})
    best = story.summary.get("best")
    if isinstance(best, dict) and "step" in best:
        found.append({"step": best["step"], "what": "best"})
    return sorted(found, key=lambda one: float(one["step"]))


def bad_rows(run: Run) -> dict[str, Any]:
    """Rows that couldn't be read: how many, and the first of them."""
    first: list[str] = []
    count = 0
    try:
        with (run.folder / layout.BAD_ROWS).open(encoding="utf-8", errors="replace") as lines:
            for count, line in enumerate(lines, 1):
                if count <= MOST_ROWS:
                    first.append(short(line.rstrip("\n")))
    except OSError:
        pass
    return {"count": count, "first": first}


def samples(story: Story) -> Iterable[dict[str, Any]]:
    """What the model said of a few rows, at each evaluation: {"step", "about", "names", "rows": cells}."""
    for event in story.samples:
        rows = event.get("rows")
        if event.get("event") != "samples" or not isinstance(rows, list) or not all(isinstance(one, dict)
                                                                                  for one in rows):
            continue
        names = list(dict.fromkeys(str(name) for one in rows for name in one))
        yield {"step": event["step"], "about": short(str(event.get("about", ""))), "names": names,
               "rows": [[cell(one.get(name)) for name in names] for one in rows]}


def cell(value: Any) -> Any:
    """A value of a sample: a figure, a text, a list of texts, or pieces [text, mark, note] as a list of lists."""
    if isinstance(value, list) and value and all(isinstance(one, list) for one in value):
        return [[short(str(part)) for part in (*one, "", "")[:3]] for one in value[:MOST_LETTERS]]
    if isinstance(value, list):
        return [short(str(one)) for one in value[:MOST_ROWS]]
    return value if isinstance(value, int | float) or value is None else short(str(value))


def can(story: Story) -> dict[str, Any]:
    """What a click may ask of a run: {"rows", "chat", "predict": the fields of a row or None, "why": why neither}.

    why   a key of the page's words: model (there is none yet), recipe (it can't be checked), learning (it says no text)
    """
    recipe, run = story.recipe, story.run
    out: dict[str, Any] = {"rows": recipe is not None, "chat": False, "predict": None, "why": ""}
    if recipe is None:
        return {**out, "why": "recipe"}
    if not run.has_model:
        return {**out, "why": "model"}
    task = recipe.task
    if writes(run, task):
        return {**out, "chat": True}
    if isinstance(task, Task):
        names = [name for name in (*task.wanted, *(name for name in task.optional if name in ("text_pair", "context")))
                 if name not in task.answers]
        return {**out, "predict": [{"name": name, "needed": name in task.wanted, "lines": name in LISTS}
                                   for name in names]}
    return {**out, "why": "learning"}


def writes(run: Run, task: Any) -> bool:
    """Whether the model of a run writes text, as its task or its config says; nothing is loaded."""
    if isinstance(task, Task):
        return task.writes
    try:
        for name in (layout.ADAPTER, layout.CONFIG):
            if (path := run.model / name).is_file():
                said = read_json(path)
                kind, classes = said.get("task_type"), said.get("architectures") or [""]
                if kind in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
                    return True
                if name == layout.CONFIG:
                    return str(classes[0]).endswith(WRITES) and said.get("model_type") != "xlnet"
    except (CheckpointError, AttributeError, TypeError, IndexError):
        pass
    return False
