"""Several processes settle a recipe each for its own device: what differs becomes what all of them can do."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import torch
from accelerate.state import PartialState

from llmkit.planning.settle import Settled
from llmkit.system import devices
from llmkit.system.errors import PlaceError
from llmkit.training.spread.alike import check_settled
from llmkit.training.spread.first import is_broken, late
from llmkit.training.spread.meeting import Meeting, named

log = logging.getLogger("llmkit")

PRECISIONS = ("fp32", "fp16", "bf16")
"""From what every device can do to what only some can."""
CHOICES = ("micro_batch_size", "precision", "compile", "dataloader_num_workers")
"""What each process chooses for its own device."""
Choice: TypeAlias = tuple[int, str, bool, int]
"""Micro-batch, precision, compiled or not, processes that prepare batches."""


def take_device() -> None:
    """Let this process of a launch use its own GPU alone, before anything is asked of the first one."""
    rank = os.environ.get("LOCAL_RANK", "")
    if rank.isdecimal() and devices.kind() not in ("cpu", "mps") and int(rank) < devices.count():
        devices.driver().set_device(int(rank))


def agreed(settled: Settled, meeting: Meeting) -> Settled:
    """The recipe with one micro-batch, one precision and one word on compiling for all processes.

    Unequal devices choose unequal ones where that is auto: rows would be missed and seen twice. What is chosen is what
    each can do: the micro-batch of the smallest memory. RequestError where anything else became unequal.
    """
    if meeting.store is None:
        return settled
    plan = settled.recipe.training
    check_settled(meeting, settled.recipe, CHOICES)
    mine: Choice = (
        int(plan.micro_batch_size), plan.precision, bool(plan.compile), int(plan.dataloader_num_workers))
    rows, precision, compiled, workers = meeting.decide("choices", mine, in_common)
    common: Choice = (rows, precision, compiled, workers)
    if common == mine:
        return settled
    fields: dict[str, Any] = dict(zip(CHOICES, common, strict=True))
    why = {name: "the most that the devices of all processes can do" for name in settled.chosen
           if name in fields and fields[name] != getattr(plan, name)}
    return replace(settled, recipe=replace(settled.recipe, training=replace(plan, **fields)),
                   chosen={**settled.chosen, **why})


def connect(meeting: Meeting) -> None:
    """Connect the processes once all have come so far, however long one of them took.

    From here on they wait for each other as long as `training.ddp_timeout` says. PlaceError where they can't connect.
    """
    if meeting.store is None:
        return
    meeting.everyone("ready")
    seconds = meeting.patience
    try:
        PartialState(
            cpu=devices.on_cpu(), timeout=timedelta(seconds=seconds), rank=meeting.rank,
            world_size=meeting.processes, store=named("group", meeting.store))
    except (RuntimeError, torch.distributed.DistError) as error:
        if is_broken(error) or isinstance(error, torch.distributed.DistError):
            raise PlaceError(f"{late(seconds)} What was said: {' '.join(str(error).split())[:200]}") from error
        raise
    meeting.first.connected = True


def in_common(every: Sequence[Choice]) -> Choice:
    """What all can do of what each would choose.

    >>> in_common([(16, "bf16", True, 4), (4, "fp16", True, 2)])
    (4, 'fp16', True, 2)
    """
    sizes, precisions, compiled, workers = zip(*every, strict=True)
    return min(sizes), min(precisions, key=PRECISIONS.index), all(compiled), min(workers)


def idle_gpus() -> str:
    """Which GPUs of this machine no process of the run uses, in words; "" where all are used."""
    used, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), devices.count()
    if used >= there:
        return ""
    which = f"GPU {used} is" if there - used == 1 else f"GPUs {used} to {there - 1} are"
    return f"{which} idle: --processes {there} uses all {there}"
