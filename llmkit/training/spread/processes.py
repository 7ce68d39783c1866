"""The processes of a run: how many there are, on which device, and what they tell each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, broadcast_object_list

from llmkit.backbones.kernels.privates import forget_accelerator, swap_accelerators
from llmkit.system import devices
from llmkit.system.environment import check_mpi
from llmkit.system.errors import RequestError


def accelerate(precision: str, folder: Path, idle: bool = False, tf32: bool = False) -> Accelerator:
    """The accelerator for this process; one process of a launch that started alone is an error."""
    check_mpi()
    if not devices.on_cpu():  # a CPU would take the same word for bf16
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    # accelerate keeps the first run's precision for the whole process; each run has its own
    forget_accelerator(processes_too=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision, project_dir=folder,
        cpu=devices.on_cpu(),
        # what the environment says of these would go over the recipe: a loss divided twice, a model compiled twice
        dynamo_backend="no", gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # a gradient lies in what is sent to the others: nothing is copied, and half the memory of gradients is saved
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle, gradient_as_bucket_view=True)])
    if accelerator.num_processes != world():
        raise RequestError(f"{world()} processes were asked for and {accelerator.num_processes} started.")
    return accelerator


RUNNING = threading.RLock()
"""Held by the thread that trains; a callback of its run may train something else meanwhile."""


@contextmanager
def alone() -> Iterator[None]:
    """While the block runs, no other thread of this process trains; RequestError where one does.

    Dropout draws from torch's one generator, and accelerate keeps one state: two runs would disturb each other.
    """
    if not RUNNING.acquire(blocking=False):
        raise RequestError("fit: another thread of this program trains, and two runs in one process would disturb each "
                           "other's numbers; wait for it, or start a process for each.")
    try:
        yield
    finally:
        RUNNING.release()


@contextmanager
def apart() -> Iterator[None]:
    """While the block runs, accelerators are made beside those of the program that called, which stay as they are.

    accelerate lets all accelerators of a process share one state: the last one made would decide the precision of all.
    Where several processes are connected already, they stay connected.
    """
    kinds: list[type[Any]] = [AcceleratorState, GradientState]
    if not torch.distributed.is_initialized():
        kinds.append(PartialState)
    precision = torch.get_float32_matmul_precision()
    before = swap_accelerators({kind: {} for kind in kinds})
    try:
        yield
    finally:
        swap_accelerators(before)
        torch.set_float32_matmul_precision(precision)


def world() -> int:
    """Processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shared(accelerator: Accelerator, make: Callable[[], Any]) -> Any:
    """What the main process makes, on every process."""
    made = [make() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(made)
    return made[0]


def unheard(precision: str) -> list[str]:
    """What accelerate's launcher, or its saved configuration, asks for and this run doesn't do, in words."""
    said = []
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        said.append(f"mixed_precision {asked} isn't used: training.precision decides, and is {precision}")
    asked = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO")
    if asked.upper() != "NO":
        said.append(f"dynamo_backend {asked.lower()} isn't used: training.compile decides")
    asked = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if asked != "1":
        said.append(f"gradient_accumulation_steps {asked} isn't used: training.global_batch_size and micro_batch_size "
                    "decide")
    return [f"accelerate's configuration: {words}" for words in said]


def mixed(seed: int, step: int, process: int) -> int:
    """One seed from three numbers; near numbers give seeds that have nothing in common."""
    return int(np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0] >> 1)
