"""Switches that torch and oneDNN read from the environment, when they make their first tensor and product."""

import os
from collections.abc import Mapping

SWITCHES: Mapping[str, str] = {
    # large tensors in huge pages, a fifth off a step (Linux only)
    "THP_MEM_ALLOC_ENABLE": "1",
    # torch and oneDNN each keep 1,024 products ready by their shape, half a gigabyte where every batch has another
    # length; 128 are more than the shapes of a model, and as fast
    "LRU_CACHE_CAPACITY": "128",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}


def prepare_torch() -> None:
    """Set the switches that aren't set yet; a program that has made tensors already goes on as it is.

    For where a command or a run begins: what the user has set stays, and processes that are started inherit it.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
