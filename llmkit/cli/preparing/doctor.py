"""`llmkit doctor`: what this machine has, what is wrong with it, and a self-test."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from llmkit.system import terminal
from llmkit.system.language import translate


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    selftest: Annotated[bool, typer.Option(
        "--selftest", help="Also train tiny models, kill them, resume them, and compare; takes a minute.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Look at versions, cores, memory, disks, the hub and models, and say what to do about what is wrong."""
    from llmkit.planning import doctor as doctors

    found = []
    for finding in doctors.examine():
        found.append(finding)
        if not json_:
            say(finding)
    if selftest and doctors.problem(found) is None:
        from llmkit.training.trial import selftest as selftests

        if not json_:
            terminal.err("self-test: tiny models are trained, killed, resumed and compared …")
        for finding in selftests.examine():
            found.append(finding)
            if not json_:
                say(finding)
    wrong = doctors.problem(found)
    if json_:
        print(json.dumps({"status": "problem" if wrong else "ok", "findings": [one.plain() for one in found]}))
    if wrong is not None:
        raise wrong


def say(finding: object) -> None:
    """One line, and below it what to do."""
    from llmkit.planning.doctor import Finding

    assert isinstance(finding, Finding)
    terminal.out(f"{finding.state:<9}{finding.about:<14}{translate(finding.said)}")
    if finding.way_out:
        terminal.out(f"{'':<23}{translate(finding.way_out)}")
