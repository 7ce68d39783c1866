"""`llmkit report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import completion
from llmkit.system import terminal
from llmkit.system.addresses import at_home
from llmkit.system.terminal import shell_word

if TYPE_CHECKING:
    from llmkit.models.run import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    runs: Annotated[list[str], typer.Argument(
        metavar="RUN …", autocompletion=completion.models, help="The folder of a run; several stand side by side.")],
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="FILE", help="Where the page goes; else into the run's folder, of several runs into "
        "the folder that you are in.")] = None,
    metric: Annotated[str | None, typer.Option(
        "--metric", metavar="NAME", help="Of several runs, the figure that comes first.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Write the page of a run anew, with its curves; or one page of several runs side by side. It needs no network."""
    from llmkit.system import report as saying
    from llmkit.system.errors import RequestError
    from llmkit.training.looking import pages

    saying.to_stderr()
    opened = list(map(run_at, dict.fromkeys(runs)))
    if metric is not None and len(opened) == 1:
        raise RequestError(f"--metric {metric}: is for several runs; the page of one has all of its figures.")
    made = pages.write(opened, None if output is None else at_home(output), metric)
    if json_:
        print(json.dumps({"path": str(made.path), "pictures": list(map(str, made.pictures)), "runs": made.facts}))
    else:
        terminal.out(str(made.path))
    for note in made.notes:
        terminal.err(f"llmkit: {note}")
    if open_:
        show(made.path)


def run_at(path: str) -> Run:
    """The run in a folder; PlaceError or RequestError where there is none."""
    from llmkit.models.run import Run, looked_into
    from llmkit.system.errors import PlaceError

    found = Run.open(path)
    if found is None:
        looked_into(path)
        raise PlaceError(f"{path}: is no run's folder; `llmkit runs list {shell_word(path)}` says which are in it.")
    return found


def show(path: Path) -> None:
    """Open a page in a browser, or say that there is none."""
    import webbrowser

    if not webbrowser.open(path.absolute().as_uri()):
        terminal.err(f"llmkit: no browser was found here; open {path} by hand.")
