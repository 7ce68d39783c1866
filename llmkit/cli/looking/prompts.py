"""`llmkit prompts`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmkit.cli import completion, train
from llmkit.cli.looking.compare import carry_out
from llmkit.cli.train import Held, Model, Rows, Task
from llmkit.system.addresses import at_home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prompts)


def prompts(
    modes: Annotated[str, typer.Option(
        "--modes", metavar="A,B,…", autocompletion=completion.several_modes,
        help="Prompt modes, with options: 'cloze,cloze(k=4),normalize(of=cloze(k=4),calibration=true)'.")],
    recipe: Annotated[str | None, typer.Argument(
        metavar="[RECIPE]", autocompletion=completion.recipes,
        help="A path or a packaged name; the task's own example where none is given.")] = None,
    task: Task = None, model: Model = None, data: Rows = None, validation: Held = None,
    seeds: Annotated[int, typer.Option(
        "--seeds", metavar="N", help="Draws of each mode's examples: seeds 1 to N.", min=1)] = 1,
    limit: Annotated[int | None, typer.Option(
        "--limit", metavar="N", help="Ask about so many rows, drawn once.", min=1)] = None,
    metric: Annotated[str | None, typer.Option(
        "--metric", metavar="NAME", help="The figure to compare by; the task's own where nothing is said.")] = None,
    set_: Annotated[list[str], typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Any field of the recipe, for all modes; repeatable.")] = [],  # noqa: B006
    output_dir: Annotated[str | None, typer.Option(
        "--output-dir", metavar="DIR", help="Where table, plot and figures go.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> int:
    """Ask a model by several prompts and compare them: quality, tokens, time. Goes on where it stopped."""
    from llmkit.inference.comparing import inline as variants
    from llmkit.inference.comparing.prompts import Prompts
    from llmkit.system import report

    report.to_stderr()
    asked, blocks, fields = train.tuned(recipe, {}, None, task, model, data, validation)
    train.agree(blocks, fields, set_)
    made = Prompts(
        asked, variants.variants(modes, "prompting", "--modes"), range(1, seeds + 1),
        at_home(output_dir) if output_dir else None, set_, metric, limit, task=blocks["task"], fields=fields)
    return carry_out(made, "prompts", json_)
