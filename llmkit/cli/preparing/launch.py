"""`llmkit launch`: the file that starts a recipe's run on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from llmkit.cli import completion, train
from llmkit.cli.train import Folder, Method, Seed, Set, Task
from llmkit.system import terminal

KINDS = ("slurm", "kubernetes", "torchrun")
"""What a file is written for."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(launch)


def launch(
    recipe: Annotated[str, typer.Argument(
        metavar="RECIPE", autocompletion=completion.recipes,
        help="A path as the machines see it, or a packaged name.")],
    kind: Annotated[str | None, typer.Option(
        "--print", metavar="|".join(KINDS), help="What the file is for; nothing is started.")] = None,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", help="Machines.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", help="GPUs of each machine; 0: it trains on CPUs.")] = 1,
    processes: Annotated[int | None, typer.Option(
        "--processes", metavar="N", help="Processes of each machine, where it has no GPUs.")] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", metavar="N", help="Cores of each machine.")] = None,
    time: Annotated[str | None, typer.Option(
        "--time", metavar="HH:MM:SS", help="How long it may run, in Slurm's forms: 24:00:00, 2-12:00.")] = None,
    account: Annotated[str | None, typer.Option("--account", metavar="NAME", help="Slurm's account.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", metavar="NAME", help="Slurm's partition.")] = None,
    image: Annotated[str | None, typer.Option(
        "--image", metavar="IMAGE", help="Kubernetes: the container image with llmkit in it.")] = None,
    claim: Annotated[str | None, typer.Option(
        "--claim", metavar="NAME", help="Kubernetes: the PersistentVolumeClaim that all pods share.")] = None,
    restarts: Annotated[int, typer.Option(
        "--restarts", metavar="N", help="How often killed processes are started anew.")] = 3,
    grace: Annotated[int, typer.Option(
        "--grace", metavar="SECONDS", help="Between the signal and the end: a checkpoint is saved meanwhile.")] = 120,
    set_: Set = [], method: Method = None, task: Task = None, output_dir: Folder = None,  # noqa: B006
    seed: Seed = None,
) -> None:
    """Print the file that starts a recipe's run: for Slurm, for Kubeflow, or plain torchrun lines."""
    from llmkit.system.errors import RequestError, nearest
    from llmkit.training.launching import kubernetes, slurm, torchrun
    from llmkit.training.launching.wanted import wanted

    writers: Mapping[str, Callable[..., str]] = {
        "slurm": slurm.write, "kubernetes": kubernetes.write, "torchrun": torchrun.write}
    if kind is None:
        raise RequestError(f"launch: say what the file is for: --print {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
    if kind not in writers:
        raise RequestError(f"--print: no launcher is called {kind!r}.{nearest(kind, KINDS)}")
    fields = {"output_dir": output_dir, "seed": seed}
    request = train.checked(recipe, {"method": method, "task": task}, fields, set_, 1)
    words = ["pretrain" if request.task is None else "finetune", recipe]
    for option, value in (("--method", method), ("--task", task), ("--output-dir", output_dir), ("--seed", seed)):
        words += [] if value is None else [option, str(value)]
    words += [word for setting in set_ for word in ("--set", setting)]
    made = wanted(words, request.name, request.folder, request.training.global_batch_size, nodes=nodes, gpus=gpus,
                  processes=processes or gpus or 1, cpus=cpus, time=time, account=account, partition=partition,
                  image=image, claim=claim, restarts=restarts, grace=grace)
    terminal.out(writers[kind](made), end="")
