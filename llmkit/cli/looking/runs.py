"""`llmkit runs list`, `show`, `compare` and `clean`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.cli.looking.report import run_at
from llmkit.system import terminal
from llmkit.system.addresses import at_home
from llmkit.system.language import translate
from llmkit.system.plural import many

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Under = Annotated[str, typer.Argument(metavar="[FOLDER]", help="Where to look for runs, also in the folders below it.")]
Named = Annotated[str, typer.Argument(metavar="RUN", autocompletion=completion.models, help="The folder of a run.")]

runs_app = typer.Typer(
    rich_markup_mode=None, invoke_without_command=True,
    help="The runs under a folder: what they are, what differs between two, what may be deleted; lists those in runs/ "
         "where nothing else is asked for.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(runs_app, name="runs")


@runs_app.callback()
def runs_alone(context: typer.Context, json_: Json = False) -> None:
    """The list of runs/, where no command follows."""
    if context.invoked_subcommand is None:
        runs_list("runs", json_)


@runs_app.command("list")
def runs_list(folder: Under = "runs", json_: Json = False) -> None:
    """Every run: its status, what it learned, its figure and floor, steps, time, size, and when it wrote last."""
    from llmkit.system import report
    from llmkit.training.looking.cleaning import runs_under
    from llmkit.training.looking.story import Story

    found = [Story.of(run).facts() for run in runs_under(at_home(folder))]
    if json_:
        print(json.dumps(found))
        return
    if not found:
        terminal.err(f"{folder}: no run is in it.")
        return
    head = ["run", "status", "learned", "from", "figure", "floor", "steps", "time", "size", "last written, UTC"]
    report.table([[translate(name) for name in head], *map(line, found)])
    for one in found:
        for note in one["notes"]:
            terminal.err(f"{one['folder']}: {note}")


def line(one: Mapping[str, Any]) -> list[str]:
    """A run as a row of the table."""
    from llmkit.system.machine import size
    from llmkit.system.report import clock

    figure = "" if one["value"] is None else f"{one['metric']} {one['value']:.4f}"
    floor = "" if one["floor"] is None else f"{one['floor']['value']:.4f} {one['floor']['name']}"
    how = f", {one['tuning']}" if one["tuning"] not in ("", "full") else ""
    return [one["folder"], one["status"], f"{one['learning']}{how}", one["model"], figure, floor, f"{one['steps']:,}",
            "" if one["seconds"] is None else clock(one["seconds"]), size(one["bytes"]), one["when"]]


@runs_app.command("show")
def runs_show(run: Named, json_: Json = False) -> None:
    """One run: what it was, its figures beside their floors, and what differs from the defaults of its recipe."""
    from llmkit.system import report
    from llmkit.training.looking.run_page import written
    from llmkit.training.looking.story import Story

    story = Story.of(run_at(run))
    changed = {name: value for name, value, usual in story.fields() if usual == "" or value != usual}
    if json_:
        print(json.dumps({**story.facts(), "figures": dict(story.figures), "before": dict(story.before),
                          "floors": {what: dict(some) for what, some in story.floors.items()}, "recipe": changed,
                          "verdicts": story.verdicts}))
        return
    facts = story.facts()
    terminal.say(f"{facts['folder']}: {facts['status']}, {many(facts['steps'], 'step')}, last written "
                 f"{facts['when']} UTC")
    if story.figures:
        floors = [translate(f"floor: {what}") for what in story.floors]
        columns: list[Mapping[str, Any]] = [story.before, story.figures, *story.floors.values()]
        names = [translate(name) for name in ("figure", "", "before", "after")]
        report.table([[*names, *floors], *(
            [name, "", *(f"{column[name]:.4f}" if column.get(name) is not None else "" for column in columns)]
            for name in story.figures)])
    terminal.say("\nrecipe, where it differs from the defaults:")
    for name, value in changed.items():
        terminal.out(f"  {name}: {terminal.visible(written(value))}")
    for note in (*story.verdicts, *story.notes):
        terminal.err(note)


@runs_app.command("compare")
def runs_compare(
    one: Named, other: Annotated[str, typer.Argument(
        metavar="OTHER", autocompletion=completion.models, help="The folder of another run.")],
    json_: Json = False,
) -> None:
    """Two runs: the fields in which their recipes differ, and their figures. For a page, see `llmkit report`."""
    from llmkit.system import report
    from llmkit.training.looking import several
    from llmkit.training.looking.run_page import written
    from llmkit.training.looking.story import Story

    stories = [Story.of(run_at(path)) for path in (one, other)]
    fields, names = several.differing(stories), several.metrics(stories)
    if json_:
        print(json.dumps({"runs": [story.facts() for story in stories], "recipe": fields, "figures": {
            name: [several.value(story, name) for story in stories] for name in names}}))
        return
    folders = [str(story.run.folder) for story in stories]
    report.table([[translate("recipe"), *folders], *([name, *map(written, values)] for name, values in fields.items())])
    if not fields:
        terminal.say("their recipes differ in nothing but names and folders")
    terminal.out()
    report.table([[translate("figure"), *folders], *(
        [name, *("" if (figure := several.value(story, name)) is None else f"{figure:.4f}" for story in stories)]
        for name in names)])


@runs_app.command("clean")
def runs_clean(
    folder: Under = "runs",
    yes: Annotated[bool, typer.Option("--yes", help="Delete it; without this, it is only listed.")] = False,
    json_: Json = False,
) -> None:
    """Say what may be deleted: checkpoints of complete runs, and what a killed one left half.

    A run that is alive, and files that llmkit didn't write, are left alone.
    """
    from llmkit.system.errors import PlaceError
    from llmkit.system.machine import size
    from llmkit.training.looking import cleaning

    gone, stayed = [], []
    closed: PlaceError | None = None
    for run in cleaning.runs_under(at_home(folder)):
        if run.held:
            stayed.append(f"{run.folder}: a process has it")
        elif not yes:
            gone += list(cleaning.waste(run))
            stayed += list(cleaning.foreseen(run))
        elif any(True for _ in cleaning.waste(run)):
            try:
                some, kept = cleaning.sweep(run)
            except PlaceError as error:  # somebody else's run; the others are cleaned all the same
                if closed is not None:
                    stayed.append(str(error))
                closed = closed or error
                continue
            gone, stayed = gone + some, stayed + kept
    total = sum(one.size for one in gone)
    if json_:
        print(json.dumps({"deleted": yes, "bytes": total, "kept": stayed, "found": [
            {"run": str(one.run), "path": str(one.path), "why": one.why, "bytes": one.size} for one in gone]}))
        if closed is not None:
            raise closed
        return
    for waste in gone:
        terminal.out(f"{size(waste.size):>9}  {terminal.visible(str(waste.path))}: {translate(waste.why)}")
    for note in stayed:
        terminal.err(note)
    if yes:
        terminal.err(f"{size(total)} deleted")
        if closed is not None:
            raise closed
    else:
        terminal.err(f"{size(total)} may be deleted; --yes deletes it" if gone else "nothing may be deleted")
