"""`llmkit plan`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from llmkit.cli import completion, train
from llmkit.cli.preparing import elsewhere
from llmkit.cli.train import Folder, Held, Method, Model, Processes, Rows, Seed, Set, Task
from llmkit.system.language import exactly, translate
from llmkit.system.plural import many

Strategies: TypeAlias = Literal["one", "ddp", "fsdp", "hybrid"]
"""How a model is spread over GPUs."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="What follows `--` goes to accelerate's launcher, as for pretrain.")(plan)


def plan(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(
        metavar="[RECIPE]", autocompletion=completion.recipes,
        help="A path or a packaged name; the task's own example where --task is given.")] = None,
    set_: Set = [], method: Method = None, task: Task = None, model: Model = None, data: Rows = None,  # noqa: B006
    validation: Held = None, output_dir: Folder = None, seed: Seed = None, processes: Processes = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="FILE.png|.svg", help="Draw memory and time by part, as both.")] = None,
    on: Annotated[str | None, typer.Option(
        "--on", metavar="64xH100", help="Reckon for GPUs that aren't here instead; nothing is measured.")] = None,
    gpu_memory: Annotated[str | None, typer.Option(
        "--gpu-memory", metavar="80GB", help="With --on: memory of a GPU.")] = None,
    flops: Annotated[str | None, typer.Option(
        "--flops", metavar="989e12", help="With --on: a GPU's dense operations a second in 16 bits.")] = None,
    bandwidth: Annotated[str | None, typer.Option(
        "--bandwidth", metavar="50GB/s", help="With --on: a GPU's share of the network, in one direction; in one "
        "machine, its link to the others.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(
        "--gpus-per-node", metavar="8", help="With --on: GPUs of a machine.")] = None,
    strategy: Annotated[Strategies | None, typer.Option(
        "--strategy", help="With --on: how the model is spread; as the recipe says where nothing is said.")] = None,
    mfu: Annotated[float | None, typer.Option(
        "--mfu", metavar="0.4", help="With --on: the share of its operations that a GPU reaches.")] = None,
    disk_bandwidth: Annotated[str | None, typer.Option(
        "--disk-bandwidth", metavar="1GB/s", help="With --on: how fast checkpoints are written.")] = None,
    price: Annotated[float | None, typer.Option(
        "--price", metavar="2.5", help="With --on: what a GPU costs an hour.")] = None,
) -> int:
    """Say what a run will take: time, memory, disk. Three steps are measured on its data, and nothing is kept.

    With --on, it is reckoned for GPUs that aren't here, by formulas and without a step.
    """
    from llmkit.system import report
    from llmkit.system.environment import is_first
    from llmkit.system.errors import RequestError
    from llmkit.training.spread import launch

    if recipe is None and task is None:
        raise RequestError("plan: give a RECIPE, or a --task.")
    words = context.obj
    places = () if output is None else drawn_at(output, on)
    asked = {"--gpu-memory": gpu_memory, "--flops": flops, "--bandwidth": bandwidth, "--gpus-per-node": gpus_per_node,
             "--strategy": strategy, "--mfu": mfu, "--disk-bandwidth": disk_bandwidth, "--price": price}
    if on is None and gpu_memory is None and flops is None:
        if lost := next((name for name, value in asked.items() if value is not None), None):
            raise RequestError(f"{lost}: is for GPUs that aren't here; say which, as --on 8xH100.")
    else:
        given = train.tuned(recipe, {"output_dir": output_dir, "seed": seed}, method, task, model, data, validation)
        return elsewhere.plan_for(given, set_, on, processes, asked, words.launcher, json_)
    launches = (processes > 1 or bool(words.launcher)) and not launch.is_worker()
    main = is_first()
    if main and not launches:
        report.to_stderr()
    given = train.tuned(recipe, {"output_dir": output_dir, "seed": seed}, method, task, model, data, validation)
    request = train.checked(*given, set_, processes)
    if launches:
        train.check_spread(request, processes, words)
        return launch.launch(words.own, processes, words.launcher)
    from llmkit.training.trial import rehearsal as planning

    with train.placed(*given, set_):
        found = planning.plan(request)
    if main and places:
        draw(found, places)
    if main and json_:
        print(json.dumps(found))
    elif main:
        show(found)
    return 0


def drawn_at(output: str, on: str | None) -> tuple[Path, ...]:
    """Where the picture goes, as .png and as .svg; an error where it can't, before anything is measured."""
    from llmkit.data import jsonlines
    from llmkit.figures.paper import check_free
    from llmkit.system.errors import RequestError

    if on is not None:
        raise RequestError(f"--output {output}: draws what is measured here; leave out --on, or take --json.")
    if Path(output).suffix.lower() not in (".png", ".svg"):
        raise RequestError(f"--output {output}: its name must end with .png or .svg.")
    found = tuple(jsonlines.place(str(Path(output).with_suffix(suffix))) for suffix in (".png", ".svg"))
    for path in found:
        check_free(path)
    return found


def draw(found: Mapping[str, Any], places: Sequence[Path]) -> None:
    """Write the picture of a plan: memory by part beside what there is, and time by part."""
    from dataclasses import replace

    from llmkit.figures import planned
    from llmkit.figures.labels import writing
    from llmkit.system import terminal

    memory, time = found["memory"], found["time"]
    parts = {name: float(memory[name]) for name in ("weights", "gradients", "optimizer", "activations")}
    rest = (memory.get("peak") or 0) - sum(parts.values())
    if rest > 0:
        parts["Python, libraries, the rest"] = rest
    names = {"training": "training", "evaluations": "evaluations", "checkpoints": "checkpoints",
             "reference": "asking the untuned model"}
    spent = {} if time is None else {said: float(time[name]) for name, said in names.items() if time.get(name)}
    shown = planned.Planned(headline(found), {name: count for name, count in parts.items() if count},
                            float(memory["available"]), spent)
    for path in places:
        words = replace(shown, title=headline(found, writing(path)))
        planned.draw(words, path)
    terminal.err(f"memory and time: {', '.join(map(str, places))}")


def show(found: Mapping[str, Any]) -> None:
    """The plan as a table; what stands in the way of the run follows on stderr."""
    from llmkit.system import report, terminal

    terminal.out(f"{headline(found, exactly)}\n")
    report.figures(lines(found))
    for note in found["notes"]:
        terminal.err(note)
    for warning in found["warnings"]:
        terminal.err(f"warning: {warning}")


def headline(found: Mapping[str, Any], put: Callable[[str], str] = str) -> str:
    """`bert_mlm: masked_lm with full, bert-mini, adamw at 0.0005, bf16, 2 threads`; `put` translates the words."""
    words = put("{threads} thread" if found["threads"] == 1 else "{threads} threads")
    where = "GPU" if found["device"] != "cpu" else words.format(threads=found["threads"])
    if found["device"] == "cpu" and found["processes"] > 1:
        where = put("{processes} processes of {threads}").format(processes=found["processes"], threads=where)
    return put("{recipe}: {learning} with {tuning}, {backbone}, {taught}{optimizer} at {rate}, {precision}{compiled}, "
               "{where}").format(
        **{name: found[name] for name in ("recipe", "learning", "tuning", "backbone", "optimizer", "precision")},
        rate=f"{found['learning_rate']:g}", compiled=put(", compiled") if found["compile"] else "", where=where,
        taught=put("taught by {teacher}, ").format(teacher=found["teacher"]) if found["teacher"] else "")


def lines(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The rows of the table: (what, figure, what there is to say of it); an empty one before each part."""
    from llmkit.system.machine import size
    from llmkit.system.report import spent

    memory, data, length, speed, time, disk = (
        found[part] for part in ("memory", "data", "length", "speed", "time", "disk"))
    trained = found["trainable_parameters"]
    shares = ["all of them train" if trained == found["parameters"] else f"{trained:,} train"] if trained else []
    if found["active_parameters"] < found["parameters"]:
        shares.append(f"{found['active_parameters']:,} at work for a token")
    out = [("parameters", f"{found['parameters']:,}", "; ".join(map(translate, shares)))]
    state = f"weights {size(memory['weights'])}, gradients {size(memory['gradients'])}, optimizer " \
            f"{size(memory['optimizer'])}, activations {size(memory['activations'])}"
    if speed is None:
        needed = sum(memory[part] for part in ("weights", "gradients", "optimizer", "activations"))
        return [*out, ("memory", size(needed), f"of {size(memory['available'])}"), ("", "", state)]
    about = "" if data["counted"] else "about "
    held = f"; {many(data['validation_rows'], 'row')} held out" if data["validation_rows"] else ""
    out += [
        ("data", many(data["rows"], "row"), f"{about}{data['tokens']:,} tokens{held}"),
        ("a step", many(found["global_batch_size"], "row"), f"about {many(length['tokens_per_step'], 'token')}; "
         f"{many(found['micro_batch_size'], 'row')} at once, of at most {found['max_length']:,} tokens, packing "
         f"{found['packing']}"),
        ("the run",
         many(length["steps"], "step") if length["exact"] else f"about {many(length['steps'], 'step')}",
         translate(seen(length)) + translate(end(length))),
        ("", "", "")]
    seconds = speed["seconds_per_step"]
    mean = sum(seconds) / len(seconds)
    out += [
        ("speed", f"{speed['tokens_per_second']:,.0f} tokens/s",
         f"{mean:.3g} s a step ({min(seconds):.3g} to {max(seconds):.3g} in {len(seconds)} steps)"),
        ("MFU", f"{100 * speed['mfu']:.0f} %", f"of the {words(speed['matrix_flops_per_second'])}FLOP/s that "
         f"products of large matrices reach here; a step is {words(speed['flops_per_step'])}FLOP"),
        ("time", spent(time["total"]), f"training {spent(time['training'])}, "
         f"{many(time['evaluation_count'], 'evaluation')} {spent(time['evaluations'])}, "
         f"{many(time['checkpoint_count'], 'checkpoint')} {spent(time['checkpoints'])}"
         + (f", asking the untuned model {spent(time['reference'])}" if time["reference"] else "")),
        ("", "", ""),
        ("memory", size(memory["peak"]), f"at its peak, with Python and the libraries, of {size(memory['available'])}"),
        ("", "", state + (f"; {size(memory['checkpoint_copy'])} more while a checkpoint is written beside the steps"
                          if memory["checkpoint_copy"] else "")),
        ("disk", size(disk["total"]), f"of {size(disk['free'])} free; {size(disk['at_most'])} while a checkpoint is "
         "written"),
        ("", "", f"{disk['checkpoints_kept']} checkpoint{'s' if disk['checkpoints_kept'] > 1 else ''} of "
         f"{size(disk['checkpoint'])}, model {size(disk['model'])}"
         + (f", beside it {size(disk['others'])}" if disk["others"] else "") + f", tokens {size(disk['token_cache'])}")]
    if found["chosen"]:
        out.append(("", "", ""))
        out += [(name, str(found[name]).lower(), why) for name, why in found["chosen"].items()]
    return out


def end(length: Mapping[str, Any]) -> str:
    """How sure the end of a run is."""
    if length["may_end_earlier"]:
        return "; early stopping may end it before"
    return {"max_minutes": "; the clock ends it", "max_tokens": "; these tokens end it"}.get(length["ends_by"], "")


def seen(length: Mapping[str, Any]) -> str:
    """What a run reads.

    >>> seen({"tokens": 5e6, "epochs": 1.0}), seen({"tokens": 326, "epochs": 0.0625})
    ('5 M tokens, 1 pass over the data', '326 tokens, 0.0625 passes over the data')
    """
    tokens, epochs = words(length["tokens"]).strip(), f"{length['epochs']:.3g}"
    if epochs == "1":
        return f"{tokens} tokens, {epochs} pass over the data"
    return f"{tokens} tokens, {epochs} passes over the data"


def words(count: float) -> str:
    """A large number to three digits: 983 k, 1.5 G."""
    for unit, one in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count:.3g} "
