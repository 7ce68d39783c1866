"""Which way a run's model is spread over its processes."""

from __future__ import annotations

from accelerate import Accelerator

from llmkit.recipe import Training
from llmkit.training.spread.base import Spread
from llmkit.training.spread.ddp import DataParallel
from llmkit.training.spread.fsdp import FullyShard


def spread_of(accelerator: Accelerator, plan: Training) -> Spread:
    """As the recipe says it; one process alone has the whole model, whatever that is."""
    if plan.distributed.strategy == "fsdp" and accelerator.num_processes > 1:
        return FullyShard(accelerator, plan.distributed, plan.ddp_timeout)
    return DataParallel(accelerator)
