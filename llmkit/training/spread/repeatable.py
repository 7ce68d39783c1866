"""The same numbers each time, on a GPU too: only kernels that add in one order, at the price of speed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llmkit.system.errors import RequestError

VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1", "HCCL_DETERMINISTIC": "true"}
"""What makes cuBLAS, the package flash-attn and Ascend's communication repeat themselves; what is set already stays."""


@contextmanager
def repeatable(on: bool) -> Iterator[None]:
    """While the block runs and `on`, every kernel gives the same numbers for the same inputs; then all is as before.

    Backward passes of attention add in a fixed order too: torch's own do so when they are told to be deterministic.
    RequestError where a step needs a kernel that has no such form.
    """
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    unset = [name for name in VARIABLES if name not in os.environ]
    os.environ.update({name: VARIABLES[name] for name in unset})
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        what = str(error).partition(" does not have")[0]
        raise RequestError(f"training.full_determinism: {what} of this step has no deterministic form on this device. "
                           "Leave it out, train on a CPU, or attend by sdpa.") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        for name in unset:
            os.environ.pop(name, None)
