"""`llmkit pretrain` and `llmkit finetune`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.system import terminal
from llmkit.system.language import exactly
from llmkit.system.plural import many
from llmkit.system.terminal import flush, padded, visible

Set = Annotated[list[str], typer.Option(
    "--set", metavar="SECTION.KEY=VALUE", help="Any field of the recipe; repeatable.")]
SAID_TWICE: Mapping[str, tuple[str, str]] = {
    "--output-dir": ("output_dir", ""), "--seed": ("seed", ""), "--method": ("tuning", "method"),
    "--task": ("task", "name"), "--data": ("data.train", "source"), "--validation": ("data.validation", "source"),
    "--model": ("backbone", "pretrained")}
"""Options that `--set` can say too: the field or block, and what of it the option names."""
Folder = Annotated[str | None, typer.Option("--output-dir", metavar="DIR", help="Where the run leaves what it makes.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The recipe's seed.")]
Resume = Annotated[str, typer.Option(
    "--resume", metavar="auto|must|never|PATH", help="Go on where the folder's run stopped.")]
Processes = Annotated[int, typer.Option(
    "--processes", metavar="N", help="Processes on this machine: one a GPU, or gloo on CPUs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
Live = Annotated[bool, typer.Option("--live", help="A page beside the run that moves with it: llmkit board.")]
Method = Annotated[str | None, typer.Option(
    "--method", metavar="NAME", autocompletion=completion.methods, help="Tuning method: full, lora, prefix …")]
Task = Annotated[str | None, typer.Option(
    "--task", metavar="NAME", autocompletion=completion.tasks, help="Task: classification, instruction …")]
Model = Annotated[str | None, typer.Option(
    "--model", metavar="M", autocompletion=completion.models,
    help="A hub id, a folder, a run, or a name from `llmkit models list`.")]
Rows = Annotated[str | None, typer.Option(
    "--data", metavar="FILE", help="Rows to learn from: csv, tsv, jsonl, parquet; a tenth is held out.")]
Held = Annotated[str | None, typer.Option("--validation", metavar="FILE", help="Rows to evaluate on instead.")]
LAUNCHED = ("pretrain", "finetune", "plan")
"""Commands that may run in several processes: what follows their `--` is for accelerate's launcher."""


@dataclass(frozen=True)
class Words:
    """The words of a command line, on both sides of `--`."""

    own: list[str]
    launcher: list[str]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    launcher = "What follows `--` goes to accelerate's launcher: `-- --num_machines 2 …`."
    app.command(epilog=launcher)(pretrain)
    app.command(epilog=launcher)(finetune)


def pretrain(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(
        metavar="RECIPE", autocompletion=completion.recipes,
        help="A path, or a name from `llmkit recipes list`.")],
    set_: Set = [], method: Method = None, output_dir: Folder = None, seed: Seed = None,  # noqa: B006
    resume: Resume = "auto", processes: Processes = 1, live: Live = False, json_: Json = False,
) -> int:
    """Train a model on text, from scratch or further, as a recipe says."""
    fields = {"output_dir": output_dir, "seed": seed}
    return run(recipe, {"method": method}, fields, set_, resume, processes, context.obj, json_, live=live)


def finetune(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(
        metavar="[RECIPE]", autocompletion=completion.recipes,
        help="A path or a packaged name; the task's own example where none is given.")] = None,
    method: Method = None, task: Task = None, model: Model = None, data: Rows = None, validation: Held = None,
    set_: Set = [], output_dir: Folder = None, seed: Seed = None,  # noqa: B006
    resume: Resume = "auto", processes: Processes = 1, live: Live = False, json_: Json = False,
) -> int:
    """Tune a pretrained model for a task: with a recipe, or with a model and data of your own."""
    request = tuned(recipe, {"output_dir": output_dir, "seed": seed}, method, task, model, data, validation, set_)
    return run(*request, set_, resume, processes, context.obj, json_, True, live)


def tuned(
    recipe: str | None, given: Mapping[str, Any], method: str | None, task: str | None, model: str | None,
    data: str | None, validation: str | None, settings: Sequence[str] = (),
) -> tuple[str, dict[str, str | None], dict[str, Any]]:
    """(recipe, blocks, fields) that finetune's options ask for, with the fields that are given anyway."""
    from llmkit import recipe as recipes
    from llmkit.system.errors import RequestError, nearest

    fields = dict(given)
    blocks = {"method": method, "task": task}
    if recipe is None:
        recipe = task or "classification"
        if recipe == "classification" and (data is not None or sets(settings, "data.train")):
            recipe = "classification_all"  # the example learns from few rows; data of one's own is all meant
        if recipe not in recipes.packaged():
            from llmkit.recipe import registry

            registry.find("tasks", recipe)
            raise RequestError(f"--task {recipe}: has no packaged example; give a RECIPE."
                               f"{nearest(recipe, recipes.packaged())}")
        if data is None:
            blocks["task"] = None  # the example's own, with what it says of its data
        else:
            stem = re.sub(r"[^\w.+-]+", "-", Path(data).name.partition(".")[0]).strip("-.+") or "data"
            # the example is cut short to be quick; data of one's own isn't
            fields |= {"name": stem[:100], "data.max_length": None, "training.num_train_epochs": 3,
                       "training.micro_batch_size": "auto"}  # the example's is for rows of its own length
            own = recipes.read(recipes.find(recipe)).root.get("tuning") or {}
            if method not in (None, own.get("method")):
                fields["training.learning_rate"] = None  # the example's is its method's
    if data is not None:
        fields["data.train"] = [{"source": data}]
        from llmkit.data.known.sets import has_validation

        fields["data.validation"] = 0.1 if validation is None and not has_validation(data) else None
    if validation is not None:
        fields["data.validation"] = [{"source": validation}]
    if model is not None:
        fields["backbone"], fields["tokenizer"] = {"pretrained": model}, None
    return recipe, blocks, fields


def sets(settings: Sequence[str], field: str) -> bool:
    """Whether some `--set` names a field."""
    return any(setting.partition("=")[0].strip() == field for setting in settings)


def run(
    recipe: str, blocks: Mapping[str, str | None], fields: Mapping[str, Any], settings: list[str], resume: str,
    processes: int, words: Words, as_json: bool, tuned: bool = False, live: bool = False,
) -> int:
    """Check the whole request, start more processes where they are asked for, train, and say what came out.

    live   the first process starts a board beside the run
    """
    from llmkit.system import report
    from llmkit.system.environment import is_first
    from llmkit.training.spread import accelerate_options, launch

    launches = (processes > 1 or bool(words.launcher)) and not launch.is_worker()
    main = is_first()
    if main and not launches:  # else the first of those that are launched says it
        report.to_stderr()
    if live:
        from llmkit.serving.server import need

        need()
    request = checked(recipe, blocks, fields, settings, processes, tuned)
    if launches:
        check_spread(request, processes, words)
    if not words.launcher and not launch.is_worker() and (said := accelerate_options.passed_over(processes)):
        terminal.err(f"llmkit: {said}")
    if launches:
        return launch.launch(words.own, processes, words.launcher, request.folder)
    from llmkit.system.signals import leave_terminal
    from llmkit.training.fit import fit

    with placed(recipe, blocks, fields, settings), beside(request.folder, live and main):
        summary = fit(request, resume)
    leave_terminal()
    if main:
        say(summary, request, as_json)
    return 0


def check_spread(request: Any, processes: int, words: Words) -> None:
    """RequestError where the processes that are about to be started can't share the model or the rows of a step."""
    from llmkit import recipe as recipes
    from llmkit.planning import sharding
    from llmkit.training.spread import launch

    every = launch.processes_of(processes, words.launcher)
    recipes.check_processes(request.training, every)
    sharding.check(recipes.with_optimizer(request)[0], every)


def beside(folder: Path, live: bool) -> AbstractContextManager[None]:
    """A board of the run in a folder while it trains, where one is wanted."""
    if not live:
        return nullcontext()
    from llmkit.serving.board.starting import board_beside

    return board_beside(folder)


def placed(
    recipe: str, blocks: Mapping[str, str | None], fields: Mapping[str, Any], settings: list[str],
) -> AbstractContextManager[None]:
    """While data is opened that a command line asks for: what isn't there is told with the line that names it."""
    from llmkit import recipe as recipes

    return recipes.placed(
        recipe, settings, method=blocks.get("method"), task=blocks.get("task"), fields=given_of(fields))


def given_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that options give; those that they clear have None."""
    cleared = ("tokenizer", "data.max_length", "training.learning_rate")
    return {name: value for name, value in fields.items() if value is not None or name in cleared}


def checked(
    recipe: str, blocks: Mapping[str, str | None], fields: Mapping[str, Any], settings: list[str], processes: int,
    tuned: bool | None = None,
) -> Any:
    """The recipe that a command line asks for; where it is `tuned`, in a folder of its task and method.

    None: a recipe with a task is one to tune.
    """
    from llmkit import recipe as recipes
    from llmkit.recipe import registry
    from llmkit.training.folder import trackers
    from llmkit.training.spread import launch

    launch.check(processes)
    launch.check_here(processes)
    agree(blocks, fields, settings)
    request = recipes.load(
        recipe, settings, method=blocks.get("method"), task=blocks.get("task"), fields=given_of(fields))
    recipes.check_processes(request.training, processes, "--processes")
    trackers.check(request.training.report_to)
    launch.check_gpus(processes)
    if request.output_dir is None and (request.task is not None if tuned is None else tuned):
        task = registry.name_of(request.learning)
        name = request.name if request.name.endswith(task) else f"{request.name}-{task}"
        request = replace(request, output_dir=f"runs/{name}-{registry.name_of(request.tuning)}")
    return request


def agree(blocks: Mapping[str, str | None], fields: Mapping[str, Any], settings: Sequence[str]) -> None:
    """RequestError where an option and a `--set` say different things of one field.

    --output-dir a --set output_dir=b
    """
    from llmkit import recipe as recipes
    from llmkit.system.errors import RequestError

    said = {**fields, "tuning": blocks.get("method"), "task": blocks.get("task")}
    for option, (block, key) in SAID_TWICE.items():
        mine = named(said.get(block), key)
        if mine is None or (key == "source" and not isinstance(said[block], list)):  # a share that nobody gave
            continue
        for setting in settings:
            dotted, _, text = setting.partition("=")
            if dotted.strip() not in (block, f"{block}.{key}", f"{block}.0", f"{block}.0.{key}"):
                continue
            try:
                theirs = named(recipes.value(text, f"--set {dotted}"), key)
            except RequestError:  # a glob, which isn't YAML
                theirs = text
            if theirs is not None and Path(str(theirs)) != Path(str(mine)):
                raise RequestError(f"{option} {mine} and --set {setting}: these are two values for "
                                   f"{dotted.strip()}; leave one out.")


def named(value: Any, key: str) -> Any:
    """What a block names: `lora` of lora and of {method: lora, r: 4}, a.txt of [{source: a.txt}]; None: nothing."""
    if isinstance(value, list):
        found = [named(one, key) for one in value]
        return found[0] if len(found) == 1 else found
    return value.get(key) if isinstance(value, Mapping) else value


def say(summary: Mapping[str, Any], recipe: Any, as_json: bool) -> None:
    """The end of a run: the figures before and after, and what can be done with the model."""
    if as_json:
        print(json.dumps(summary))
        return
    from llmkit.models import layout
    from llmkit.tasks.shared.floors import in_words

    after, before = summary["evaluation"] or {}, summary["evaluation_before"] or {}
    lines = [f"{many(summary['steps'], 'step')}, {many(summary['tokens'], 'token')}, "
             f"{summary['tokens_per_second']:,.0f} tokens/s, "
             f"{summary['wall_seconds']:.0f} s"]
    if after:
        lines.append(padded(exactly("validation"), 20) + flush(exactly("before"), 10) + flush(exactly("after"), 10))
        for name in after:
            was = f"{before[name]:>10.4f}" if name in before else " " * 10
            lines.append(f"{visible(name):<20}{was}{after[name]:>10.4f}")
    if "unigram_entropy" in summary:
        entropy = summary["unigram_entropy"]
        lines.append(f"{'unigram entropy':<30}{entropy:>10.4f}   what word frequencies alone would give")
    for what, floor in summary.get("floors", {}).items():
        lines += [f"{visible(name):<30}{value:>10.4f}   a floor, {in_words(what)}" for name, value in floor.items()]
    lines.append(f"model: {visible(summary['output_dir'])}/model")
    page = Path(summary["output_dir"]) / layout.REPORT
    if page.is_file():
        lines.append(f"what it learned, on a page: {visible(str(page))}")
    lines += verdicts(summary)
    terminal.err("\n".join(lines))


def verdicts(summary: Mapping[str, Any]) -> list[str]:
    """The last lines, where there is something that must not be overlooked: one answer for all, a floor not reached."""
    from llmkit.tasks.shared import floors

    figures = summary.get("best") or summary["evaluation"] or {}
    same = summary.get("one_answer")
    known = floors.known(summary.get("floors") or {}, summary.get("unigram_entropy"), figures)
    return [*([str(same)] if same else []), *floors.below(figures, known)]
