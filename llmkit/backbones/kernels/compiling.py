"""torch.compile for a model's layers: one compilation serves them all, and no name of a weight changes."""

from __future__ import annotations

import logging
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch._dynamo.config
from torch import nn
from torch._dynamo.utils import counters

from llmkit.backbones.base import Family, stacks_of
from llmkit.backbones.kernels.unpadded import Unpadding
from llmkit.system.plural import many

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("llmkit")

BACKEND = "inductor"
"""What torch compiles graphs by."""
LIMIT = 64
"""Graphs of a layer's code that are kept for each use. torch's own limit is 8, for all uses together; T5 takes 18: its
encoder, its decoder, the first layer of each, with lengths that are fixed at first, and all of it without gradients."""

Use: TypeAlias = Literal["training", "evaluation"]


class Compiled:
    """The compiled layers of a model: with gradients and without them apart, so that neither spends the other's limit.

    torch keeps what it compiled by the code that was called, so each use of each model has a copy of that code.
    """

    def __init__(self) -> None:
        self.graphs: dict[Use, int] = {"training": 0, "evaluation": 0}
        """How many were made so far."""
        self.ways: dict[Use, Any] = {use: torch.compile(of_its_own(call), backend=BACKEND) for use in self.graphs}
        self.full: set[Use] = set()
        """Uses whose limit is reached."""
        self.told = False
        """Whether it was said how many graphs there are."""

    def __call__(self, layer: nn.Module, args: Any, given: Any) -> Any:
        """What a layer gives, with the graphs counted that this took."""
        use: Use = "training" if torch.is_grad_enabled() else "evaluation"
        before = counters["stats"]["unique_graphs"]
        found = self.ways[use](layer, *args, **given)
        more = counters["stats"]["unique_graphs"] - before
        if more:
            self.graphs[use] += more
            self.tell_when_full(use)
        return found

    def tell_when_full(self, use: Use) -> None:
        """Say once that further shapes of a use run uncompiled."""
        if self.graphs[use] >= LIMIT and use not in self.full:
            self.full.add(use)
            log.warning("compile: the layers took %d graphs for %s; torch compiles no more, and rows of other lengths "
                        "run uncompiled, slower. data.packing: blocks makes all rows as long", self.graphs[use], use)

    def describe(self) -> str:
        """`the layers are compiled: 4 graphs for training, 4 graphs for evaluation`."""
        self.told = True
        return "the layers are compiled: " + ", ".join(
            f"{many(count, 'graph')} for {use}" for use, count in self.graphs.items())


def call(layer: nn.Module, *args: Any, **given: Any) -> Any:
    """A layer's forward with its hooks."""
    return layer._call_impl(*args, **given)  # type: ignore[no-untyped-call]


def of_its_own(function: Any) -> Any:
    """A function that does what another does, by code that is only its own."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


class CompiledLayer:
    """A layer's call; what leaves padding out stays outside of its graph."""

    def __init__(self, compiled: Compiled, layer: nn.Module, unpadding: Unpadding | None = None) -> None:
        self.compiled, self.layer, self.unpadding = compiled, layer, unpadding

    def __call__(self, *args: Any, **given: Any) -> Any:
        if self.unpadding is None:
            return self.compiled(self.layer, args, given)
        args, given = self.unpadding.before(self.layer, args, given)
        return self.unpadding.after(self.layer, self.compiled(self.layer, args, given))


def compile_layers(model: PreTrainedModel, family: type[Family], unpadding: Unpadding | None = None) -> Compiled:
    """Compile each layer where it stands; `unpadding`: what `unpad` gave, where they see no padding.

    Not the whole model: its head sees chosen positions only, through hooks that are other ones in each step, and
    compiled code would go on with the first. What tuning puts into the layers is compiled with them.
    """
    torch._dynamo.config.recompile_limit = max(LIMIT, torch._dynamo.config.recompile_limit)
    compiled = Compiled()
    for stack in stacks_of(model, family):
        for name in stack:
            layer: Any = model.get_submodule(name)
            # a wrapper would change the weights' names
            layer._compiled_call_impl = CompiledLayer(compiled, layer, unpadding)
    return compiled
