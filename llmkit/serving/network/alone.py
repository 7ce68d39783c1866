"""One process on one device serves here: what asks for more is told who serves so, and how."""

from __future__ import annotations

from collections.abc import Mapping

from llmkit.system.errors import RequestError
from llmkit.system.terminal import shell_word


def check_alone(model: str, asked: Mapping[str, int]) -> None:
    """RequestError where an option asks for more than one process, with vLLM's commands for it."""
    option = next((name for name, count in asked.items() if count != 1), None)
    if option is None:
        return
    count = max(1, asked[option])
    way = "--data-parallel-size" if option == "--data-parallel-size" else "--tensor-parallel-size"
    raise RequestError(f"{option} {asked[option]}: llmkit serves from one process and one device. vLLM spreads a model "
                       f"over more: llmkit export {shell_word(model)} --to exported; vllm serve exported {way} {count} "
                       "(docs/serving.md).")
