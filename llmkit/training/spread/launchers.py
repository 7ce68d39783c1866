"""What accelerate's launcher says of how a model lies on the processes: its options arrive as variables."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import replace

from llmkit.recipe import Distributed, Recipe
from llmkit.system.errors import RequestError

ASKED = "ACCELERATE_USE_FSDP"
ON = ("1", "true", "yes", "y", "t", "on")


def as_launched(request: Recipe, variables: MutableMapping[str, str] = os.environ) -> Recipe:
    """The request with what `accelerate launch --use_fsdp --fsdp_version 2` asks for, where the recipe says nothing.

    accelerate itself is not told: the model is spread here, so that CPUs and GPUs go one way.
    RequestError for FSDP's first version.
    """
    if not is_on(variables, ASKED):
        return request
    if variables.get("FSDP_VERSION", "1") != "2":
        raise RequestError("--use_fsdp: its first version isn't supported; give --fsdp_version 2 too.")
    variables.pop(ASKED)
    if request.training.distributed != Distributed():
        return request  # the recipe says it
    plan = Distributed(
        strategy="fsdp", reshard_after_forward=is_on(variables, "FSDP_RESHARD_AFTER_FORWARD", "true"),
        cpu_offload=is_on(variables, "FSDP_OFFLOAD_PARAMS"))
    return replace(request, training=replace(request.training, distributed=plan))


def is_on(variables: Mapping[str, str], name: str, otherwise: str = "") -> bool:
    """Whether a variable says yes."""
    return variables.get(name, otherwise).strip().lower() in ON
