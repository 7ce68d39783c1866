"""Layers that don't train, below those that do: what they make of a row is taken once, and given back later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from llmkit.backbones.base import stacks_of
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmkit.backbones.base import Family

STATES = "frozen_states"
"""The field of a row, and of a batch, that holds what the frozen layers make of it: (positions, width)."""


class Frozen:
    """The lowest layers of a stack: while states are given, none of them computes, and the last says these."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.taken: Tensor | None = None
        """What the last of them said of the last batch that was computed: (rows, longest, width)."""
        self._given: Tensor | None = None
        for number, layer in enumerate(layers, 1):
            layer.forward = partial(self._pass, layer.forward, number == len(layers))

    @contextmanager
    def given(self, states: Tensor) -> Iterator[None]:
        """While the block runs, these are what the layers make of the batch: (rows, longest, width)."""
        self._given = states
        try:
            yield
        finally:
            self._given = None

    def _pass(self, forward: Any, is_last: bool, *args: Any, **more: Any) -> Any:
        if self._given is None:
            found = forward(*args, **more)
            if is_last:
                self.taken = found if isinstance(found, Tensor) else None
            return found
        return self._given if is_last else args[0] if args else more["hidden_states"]


def lowest(model: PreTrainedModel, family: type[Family], below: set[str]) -> list[nn.Module]:
    """The layers below the first one of which anything trains; all where only what stands above them does.

    below   names of the parameters that stand below the layers
    RequestError where there is none: then nothing about a row stays the same.
    """
    (stack,) = stacks_of(model, family)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    still: list[nn.Module] = []
    for name in stack:
        layer = model.get_submodule(name)
        if trained & below or any(parameter.requires_grad for parameter in layer.parameters()):
            break
        still.append(layer)
    if not still:
        raise RequestError("training.cache_frozen: the tuning method trains something in the first layer or below it, "
                           "so that nothing about a row stays the same. Use head, layers, or lora whose "
                           "target_modules are of the last layers; or leave it out.")
    return still
