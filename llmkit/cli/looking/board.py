"""`llmkit board`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmkit.system import terminal
from llmkit.system.addresses import at_home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(board)


def board(
    folder: Annotated[str, typer.Argument(
        metavar="[FOLDER]",
        help="Where to look for runs, also in the folders below it; or one run's folder.")] = "runs",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0: any that is free.", min=0, max=65535)] = 8010,
    open_: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    beside: Annotated[bool, typer.Option("--beside", hidden=True)] = False,
) -> None:
    """Show all runs under a folder on a page that moves with them. Only this machine reaches it; it changes nothing."""
    from llmkit.models.run import looked_into
    from llmkit.serving.board.starting import board as show
    from llmkit.system import report

    report.to_stderr()
    place = at_home(folder) if beside else looked_into(folder)

    def ready(address: str) -> None:
        if beside:
            terminal.out(address)
            return
        terminal.err(f"the board of {folder}: {address}; Ctrl-C ends it")
        if open_:
            import webbrowser

            if not webbrowser.open(address):
                terminal.err(f"llmkit: no browser was found here; open {address} by hand.")

    show(place, port, ready, beside)
