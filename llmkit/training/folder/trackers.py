"""Trackers beside the run's own lines: they are there or the run is refused, and a run's folder is one run of each."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llmkit import recipe as recipes
from llmkit.models import layout
from llmkit.recipe import Recipe, registry
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.training.folder.run_folder import RunFolder

INSTEAD = {"tensorboard": "tensorboardX"}
"""Packages that do as well as the one that has the tracker's name."""
PROJECT = "llmkit"
"""What runs stand together under, where a tracker has projects and its own variable doesn't name one."""
FAILS = {"wandb": ("wandb.errors", "Error"), "mlflow": ("mlflow.exceptions", "MlflowException")}
"""What trackers raise that can't begin, beside what Python itself does: where it is, and what it is called."""


def check(names: Sequence[str]) -> None:
    """RequestError where a tracker that is asked for isn't installed, with the line that installs it."""
    lacking = [name for name in dict.fromkeys(names)
               if not any(map(_installed, (name, INSTEAD.get(name, name))))]
    if lacking:
        extras = [name.replace("_", "-") for name in lacking]  # as packages spell them; pip before 23.3 knows no other
        raise RequestError(f"training.report_to: {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not "
                           f"installed: pip install 'llmkit-train[{','.join(extras)}]'; or leave it out, for "
                           f"{layout.METRICS} is written anyway.")


def _installed(package: str) -> bool:
    """Whether a package is there; a folder of that name, which trackers leave where they ran, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def begin(accelerator: Accelerator, run: RunFolder, recipe: Recipe, step: int | None) -> None:
    """Start a run's trackers: with its flattened recipe as their config, or where it goes on after `step`, again.

    What a tracker calls its run is kept in the run's folder. RequestError where one can't begin.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if not accelerator.is_main_process:
        return
    there = {} if step is None else _kept(run.folder)
    for name in dict.fromkeys(recipe.training.report_to):
        known = there.get(name)
        first = (recipe.name, str(run.folder)) if name in ("tensorboard", "aim") else (_project(name),)
        tracker = LOGGER_TYPE_TO_CLASS[name](*first, **_options(name, recipe.name, run.folder, known, step))
        try:
            with redirect_stdout(sys.stderr):  # where a run's JSON stands alone
                tracker.start()
                if known is None:
                    _configure(tracker, flat(recipe))
        except _failures(name) as error:
            said = " ".join(str(error).split())[:300]
            raise RequestError(f"training.report_to: {name} can't begin: {said} (leave it out, or see "
                               "docs/trackers.md)") from error
        accelerator.trackers.append(tracker)
        there[name] = _called(tracker) or known or "."
    run.write(layout.TRACKERS, json.dumps(there, indent=1))


def end(accelerator: Accelerator) -> None:
    """Let the trackers write what they have, however the run ended."""
    with redirect_stdout(sys.stderr):
        while accelerator.trackers:
            accelerator.trackers.pop().finish()


def flat(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """A recipe as a tracker's config: `training.learning_rate: 0.001`. What is open isn't there.

    {"a": {"b": 1, "c": [1, "x"]}}  ->  {"a.b": 1, "a.c": '[1, "x"]'}
    """
    return dict(_leaves(recipes.tree_of(recipe), ""))


def _leaves(value: Any, place: str) -> Iterator[tuple[str, bool | int | float | str]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for i, below in enumerate(value):
            yield from _leaves(below, f"{place}.{i}")
    elif isinstance(value, bool | int | float | str):
        yield place, value
    elif value is not None:
        yield place, json.dumps(value, ensure_ascii=False, default=str)


def _project(name: str) -> str:
    """What a tracker's runs stand together under."""
    return os.environ.get({"wandb": "WANDB_PROJECT", "swanlab": "SWANLAB_PROJECT", "trackio": "TRACKIO_PROJECT",
                           "comet_ml": "COMET_PROJECT_NAME"}.get(name, ""), PROJECT)


def _options(name: str, called: str, folder: Path, known: str | None, step: int | None) -> dict[str, Any]:
    """What a tracker's run is made with: its name, its place, and what it is known by where it goes on."""
    new = uuid4().hex
    if name == "tensorboard":
        return {} if step is None else {"purge_step": step + 1}
    if name == "wandb":
        return {"name": called, "dir": str(folder), "id": known or new[:8], "resume": "allow"}
    if name == "trackio":  # which knows a run by its name alone
        return {"name": known or f"{called}-{new[:8]}", "resume": "allow"}
    if name == "mlflow":
        return {"run_name": called, "run_id": known}
    if name == "comet_ml":
        return {"experiment_key": known or new, "mode": "get_or_create"}
    if name == "aim":
        return {} if known is None else {"run_hash": known}
    if name == "clearml":
        return {"task_name": called, **({} if known is None else {"continue_last_task": known})}
    if name == "dvclive":
        return {"dir": str(folder / "dvclive"), "resume": known is not None, "save_dvc_exp": False, "dvcyaml": False}
    return {"experiment_name": called, "logdir": str(folder / "swanlog"), "id": known or new[:21], "resume": "allow"}


def _called(tracker: Any) -> str | None:
    """What a tracker knows its run by."""
    run = tracker.tracker
    ways = {"wandb": lambda: run.id, "trackio": lambda: run.name, "mlflow": lambda: run.info.run_id,
            "comet_ml": lambda: run.get_key(), "aim": lambda: run.hash, "clearml": lambda: run.id,
            "swanlab": lambda: tracker.init_kwargs["id"]}
    return str(ways[tracker.name]()) if tracker.name in ways else None


def _configure(tracker: Any, values: Mapping[str, bool | int | float | str]) -> None:
    """Tell a tracker the recipe. TensorBoard's own way would put it into a run beside this one."""
    if tracker.name == "comet_ml":
        tracker.tracker.set_name(values["name"])
    if tracker.name != "tensorboard":
        tracker.store_init_configuration(dict(values))
        return
    writer = tracker.tracker
    here = {"run_name": "."} if type(writer).__module__.startswith("torch.") else {"name": "."}
    writer.add_hparams(dict(values), {}, **here)


def _failures(name: str) -> tuple[type[BaseException], ...]:
    """What a tracker raises that can't begin."""
    module, cls = FAILS.get(name, ("builtins", "ValueError"))
    return (OSError, RuntimeError, ValueError, getattr(registry.module(module), cls))


def _kept(folder: Path) -> dict[str, str]:
    """What the trackers called their runs of this folder."""
    try:
        found: dict[str, str] = json.loads((folder / layout.TRACKERS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found
