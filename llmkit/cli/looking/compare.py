"""`llmkit compare`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import completion, train
from llmkit.cli.train import Held, Model, Processes, Rows, Set, Task
from llmkit.system.addresses import at_home

if TYPE_CHECKING:
    from llmkit.inference.comparing.methods import Comparison
    from llmkit.inference.comparing.prompts import Prompts


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(
    recipe: Annotated[str | None, typer.Argument(
        metavar="[RECIPE]", autocompletion=completion.recipes,
        help="A path or a packaged name; the task's own example where none is given.")] = None,
    methods: Annotated[str | None, typer.Option(
        "--methods", metavar="A,B,…", autocompletion=completion.several_methods,
        help="Tuning methods, with options where they matter: full,lora(r=4),prefix.")] = None,
    models: Annotated[str | None, typer.Option(
        "--models", metavar="A,B,…", autocompletion=completion.several_models,
        help="Models to start from: hub ids, folders, runs, names of the catalogue.")] = None,
    grid: Annotated[list[str], typer.Option(
        "--grid", metavar="SECTION.KEY=V,W,…", help="Try each value of a field; repeatable. The best comes first.",
    )] = [],  # noqa: B006
    task: Task = None, model: Model = None, data: Rows = None, validation: Held = None,
    seeds: Annotated[int, typer.Option(
        "--seeds", metavar="N", help="Runs of each method: N seeds, from --seed on.", min=1)] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The first seed.", min=0)] = 1,
    tune: Annotated[str | None, typer.Option(
        "--tune", metavar="learning_rate", help="Try a third, once and three times each method's usual rate.")] = None,
    metric: Annotated[str | None, typer.Option(
        "--metric", metavar="NAME", help="The figure to compare by; the task's own where nothing is said.")] = None,
    set_: Set = [],  # noqa: B006
    output_dir: Annotated[str | None, typer.Option(
        "--output-dir", metavar="DIR", help="Where table, plot and runs go.")] = None,
    processes: Processes = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> int:
    """Tune by several methods, models or settings and compare them: quality, parameters, time, memory, size. Goes on
    where it stopped.
    """
    from llmkit.inference.comparing import contenders
    from llmkit.inference.comparing import inline as variants
    from llmkit.inference.comparing import methods as comparison
    from llmkit.system import report
    from llmkit.system.errors import RequestError

    report.to_stderr()
    if tune not in (None, "learning_rate"):
        raise RequestError(f"--tune {tune}: only learning_rate can be tuned.")
    if methods is None and models is None and not grid:
        raise RequestError("say what is compared: --methods full,lora, --models a,b or --grid "
                           "training.learning_rate=1e-3,3e-3.")
    if model is not None and models is not None:
        raise RequestError("--model and --models: one model for all, or several; leave one out.")
    path, blocks, fields = train.tuned(recipe, {}, None, task, model, data, validation, set_)
    train.agree(blocks, fields, set_)
    chosen = (variants.variants(methods, "tuning", "--methods") if methods is not None else
              [comparison.own_method(path, set_, blocks["task"], fields)])
    made = comparison.Comparison(
        path, chosen, range(seed, seed + seeds),
        at_home(output_dir) if output_dir else None, set_, metric, tune is not None, task=blocks["task"],
        fields=fields,
        processes=processes, models=variants.split(models or ""), grid=contenders.grid_of(grid))
    return carry_out(made, "compare", json_)


def carry_out(made: Comparison | Prompts, name: str, json_: bool) -> int:
    """Make what isn't there yet, show the table, and leave NAME.md, .json, .png and .svg; 0 where something came."""
    from llmkit.system import report, terminal

    made.run()
    made.write()
    if json_:
        print(json.dumps(made.as_json()))
    else:
        terminal.say(f"{made.sheet.title}\n")
        report.table(made.sheet.cells())
        if any(row["runs"] for row in made.sheet.rows) and (picture := made.sheet.picture).numbered:
            terminal.err(made.sheet.numbering(picture))
        terminal.out(f"\n{made.folder}: {name}.md, {name}.json, {name}.png, {name}.svg")
    if all(one.exit_status for one in made.outcomes):
        raise made.failure()
    return 0
