"""Models that no graph of fixed operations can say, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def untraceable(config: Mapping[str, Any]) -> str:
    """Why a model of such a config can't be written as a graph, ONNX or another; "" where nothing speaks against it."""
    from llmkit.backbones.shared.routers import EXPERTS

    if "XLNetLMHeadModel" in (config.get("architectures") or []):
        return ("XLNet's language model takes an order of its own for every word that it writes, which no file of "
                "fixed inputs can say")
    if any(type(count := config.get(name)) is int and count > 1 for name in EXPERTS):
        return ("a mixture of experts can't be written: which experts a token goes through is known when it runs, and "
                "a graph has its products fixed")
    return ""
