"""What accelerate's launcher says of how a model lies on the processes: its options arrive as variables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import replace

from llmkit.recipe import Distributed, Recipe
from llmkit.system.environment import switched_on
from llmkit.system.errors import RequestError

ASKED = "ACCELERATE_USE_FSDP"


def as_launched(request: Recipe, variables: Mapping[str, str] = os.environ) -> Recipe:
    """The request with what `accelerate launch --use_fsdp --fsdp_version 2` asks for, where the recipe says nothing.

    RequestError for FSDP's first version.
    """
    if not switched_on(ASKED, variables):
        return request
    if variables.get("FSDP_VERSION", "1") != "2":
        raise RequestError("--use_fsdp: its first version isn't supported; give --fsdp_version 2 too.")
    if request.training.distributed != Distributed():
        return request  # the recipe says it
    said = {"FSDP_RESHARD_AFTER_FORWARD": "true", **variables}
    plan = Distributed(strategy="fsdp", reshard_after_forward=switched_on("FSDP_RESHARD_AFTER_FORWARD", said),
                       cpu_offload=switched_on("FSDP_OFFLOAD_PARAMS", said))
    return replace(request, training=replace(request.training, distributed=plan))


@contextmanager
def launched(request: Recipe, variables: MutableMapping[str, str] = os.environ) -> Iterator[Recipe]:
    """The request as the launcher asks for it; while the block runs, accelerate isn't told, nor is transformers.

    The model is spread here, so that CPUs and GPUs go one way. Then all is as it was: a program that trains a second
    time asks for it again. RequestError as of `as_launched`.
    """
    made, before = as_launched(request, variables), variables.pop(ASKED, None)
    try:
        yield made
    finally:
        if before is not None:
            variables[ASKED] = before
