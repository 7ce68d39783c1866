"""`llmkit tokenize`: a recipe's text to a folder of tokens, by many processes and machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.cli.train import Set
from llmkit.system import terminal
from llmkit.system.plural import many

MEGA = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tokenize)


def tokenize(
    recipe: Annotated[str, typer.Argument(
        metavar="RECIPE", autocompletion=completion.recipes, help="A path, or a name from `llmkit recipes list`.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="The folder that the tokens go to.")],
    num_proc: Annotated[str, typer.Option(
        "--num-proc", metavar="auto|N", help="Processes that share the work on a shard; auto: one a core.")] = "auto",
    shard: Annotated[str, typer.Option(
        "--shard", metavar="i/n", help="Every n-th shard from the i-th on: one of n machines that share the work.",
    )] = "1/1",
    shard_megabytes: Annotated[int | None, typer.Option(
        "--shard-megabytes", metavar="N", min=1, show_default=False,
        help="Text in a shard, about; a kill loses one shard. Usually 256, or what the folder was begun with.")] = None,
    set_: Set = [],  # noqa: B006
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Tokenize a recipe's text into shards, each whole or absent; data.train: tokens:DIR learns from them."""
    from llmkit import recipe as recipes
    from llmkit.planning import tokenizing
    from llmkit.system import report

    report.to_stderr()
    report.quiet_libraries()
    processes, which = checked(num_proc), share(shard)
    request = recipes.load(recipe, set_)
    size = None if shard_megabytes is None else shard_megabytes * 2**20
    with recipes.placed(recipe, set_):
        found = tokenizing.tokenize(request, out, processes, which, size, say)
    if json_:
        print(json.dumps(found))
        return
    for note in found["notes"]:
        terminal.err(note)
    terminal.say(summary(found))


def checked(num_proc: str) -> Any:
    """auto, or a number of processes; RequestError for anything else."""
    from llmkit.system.errors import RequestError

    if num_proc != "auto" and not (num_proc.isdecimal() and 0 < int(num_proc) <= 4096):
        raise RequestError(f"--num-proc {num_proc}: auto or a number of processes from 1 on is needed.")
    return num_proc if num_proc == "auto" else int(num_proc)


def share(shard: str) -> tuple[int, int]:
    """(2, 8) of `2/8`; RequestError where that is no share."""
    from llmkit.system.errors import RequestError

    first, _, whole = shard.partition("/")
    if not (first.isdecimal() and whole.isdecimal() and 1 <= int(first) <= int(whole)):
        raise RequestError(f"--shard {shard}: i/n is needed, the i-th of n machines, counted from 1: 2/8.")
    return int(first), int(whole)


def say(done: int, of: int, name: str, content: Mapping[str, Any], seconds: float) -> None:
    """`3 of 40: shard-00002, 1,204,332 documents, 61,204,332 tokens, 19.2 MB/s`"""
    terminal.err(f"{done:,} of {of:,}: {name}, {many(content['documents'], 'document')}, "
                 f"{many(content['tokens'], 'token')}, {content['text'] / MEGA / max(seconds, 1e-9):.1f} MB/s")


def summary(found: Mapping[str, Any]) -> str:
    """What was made, what is there, and what is still to be made."""
    made, whole = found["made"], found["whole"]
    said = [f"{found['out']}: {made:,} of {many(found['shards'], 'shard')} made in {found['seconds']:.1f} s by "
            f"{many(found['num_proc'], 'process', 'processes')}: {many(found['tokens'], 'token')} of "
            f"{many(found['documents'], 'document')}" if made else f"{found['out']}: nothing was left to be made"]
    if found["there"]:
        said.append(f"{many(found['there'], 'shard')} {'was' if found['there'] == 1 else 'were'} there; in all there "
                    f"are {many(whole['tokens'], 'token')} of {many(whole['documents'], 'document')}")
    if missing := found["missing"]:
        said.append(f"{many(len(missing), 'shard')} missing: {', '.join(missing[:12])}{' …' * (len(missing) > 12)}")
    else:
        said.append(f"learn from them: data.train: tokens:{found['out']}")
    return "\n".join(said)
