"""Some layers train: the last few, or any others; at once, or one more at a time from the top (Howard & Ruder 2018)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family, stacks_of
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANGE = re.compile(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?")


@dataclass(config=OPTIONS)
class Layers(Tuning):
    """Chosen layers train whole, with a new head; by default the last fourth, which is nearly as good as all for BERT

    (Lee et al. 2019, "What Would Elsa Do?".) In an encoder-decoder a layer's number means that layer of the encoder and
    that layer of the decoder, and the last layers are the last of each. Layers that still sleep keep their weights and
    have no part in the gradient's norm.
    """

    adapter = False
    learning_rate = 5e-5

    n: Annotated[int, Field(ge=1)] | None = None
    """How many of the last layers; by default a fourth of them, or all where they are unfrozen one by one."""
    layers: list[int] | str | int | None = None
    """Which layers instead, from 0: a list, or ranges as in `2-5` or `0-1, -1`; below 0, from the top."""
    unfreeze_every: Annotated[float, Field(gt=0)] | None = None
    """Of these, first the highest alone, then one more from the top after each so many steps or epochs."""
    unfreeze_unit: Literal["steps", "epochs"] = "steps"
    """What `unfreeze_every` counts."""
    rest: Literal["none", "top", "all"] = "none"
    """What else trains: `top`, what stands above the layers (final normalisation, pooler, an old head), from the first
    step; `all`, embeddings too, after the lowest layer. A table that is tied to the embeddings goes with them."""

    def check(self, family: type[Family], head: str) -> None:
        """Options that contradict each other; layers that aren't known, or are one and the same."""
        parts.layers_known(family, "layers")
        if family.shares:
            raise RequestError(f"tuning.method: layers doesn't fit {family.model_type}, whose layers share their "
                               "weights. Use feed_forward, bias or full instead.")
        if self.n is not None and self.layers is not None:
            raise RequestError(f"tuning: n: {self.n} and layers: {self.layers} both say which layers; give one.")
        if isinstance(self.layers, int):
            raise RequestError(f"tuning.layers: {self.layers} may mean two things: say n: {abs(self.layers)} for so "
                               f"many of the last layers, or layers: [{self.layers}] for that one.")
        if self.layers is not None and not self._ranges():
            raise RequestError("tuning.layers: no layer is named; leave it out, or use head to train a head alone.")
        every = self.unfreeze_every
        if every is not None and self.unfreeze_unit == "steps" and every != int(every):
            raise RequestError(f"tuning.unfreeze_every: {every:g} steps must be a whole number; with unfreeze_unit: "
                               "epochs it may be a part of one.")
        if every is None and self.unfreeze_unit != "steps":
            raise RequestError("tuning.unfreeze_unit: it is the unit of unfreeze_every, which isn't there.")

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """Layers that the model doesn't have."""
        self.apply(make(), setting)

    def describe(self) -> str:
        """`the last 4 layers, one more every 100 steps`."""
        all_or_some = "all layers" if self.unfreeze_every is not None else "the last fourth of the layers"
        last = all_or_some if self.n is None else f"the last {self.n} layers" if self.n > 1 else "the last layer"
        which = last if self.layers is None else f"layers {str(self.layers).strip('[]')}"
        every = "" if self.unfreeze_every is None else f", one more every {self.unfreeze_every:g} {self.unfreeze_unit}"
        return which + every

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with whatever trains at any step to train; `wakes` says from which."""
        return parts.only(model, setting, self._turns(model, setting))

    def wakes(self, model: PreTrainedModel, setting: Setting) -> Mapping[str, int]:
        """The k-th layer from the top of those that train begins after k times `unfreeze_every`."""
        every = (self.unfreeze_every or 0.0) * (setting.epoch if self.unfreeze_unit == "epochs" else 1)
        steps = {name: math.ceil(turn * every) for name, turn in self._turns(model, setting).items()
                 if not parts.within(name, setting.new)}
        return {name: step for name, step in steps.items() if step}

    def _turns(self, model: PreTrainedModel, setting: Setting) -> dict[str, int]:
        """Which parameters train, and how many layers of those that do stand above each."""
        stacks = stacks_of(model, setting.family)
        chosen = self.chosen([len(stack) for stack in stacks], model.config.model_type)
        turns: dict[str, int] = {}
        if self.rest != "none":
            below = parts.below(model, setting.family)
            everything = [layer for stack in stacks for layer in stack]
            for name, _ in model.named_parameters():
                if name in below and self.rest == "all":
                    turns[name] = max(map(len, chosen))
                elif name not in below and not parts.within(name, everything):
                    turns[name] = 0
        for stack, some in zip(stacks, chosen, strict=True):
            for turn, number in enumerate(reversed(some)):
                turns |= dict.fromkeys(parts.of(model, stack[number]), turn)
        return turns

    def chosen(self, depths: list[int], kind: str) -> list[list[int]]:
        """The numbers of the layers that train, by stack, the lowest first; RequestError where there is no such layer.

        n=2 of depths 4 and 3 -> [2, 3], [1, 2]
        """
        most = max(depths)
        if self.layers is None:
            n = self.n or (most if self.unfreeze_every is not None else math.ceil(most / 4))
            if n > most:
                raise RequestError(f"tuning.n: the last {n} layers are too many; this {kind} has {most}.")
            return [list(range(max(0, depth - n), depth)) for depth in depths]
        found = []
        for depth in depths:
            numbers: set[int] = set()
            for first, last in self._ranges():
                low, high = (number + depth if number < 0 else number for number in (first, last))
                if depth == most and (not 0 <= low < depth or not 0 <= high < depth or low > high):
                    what = f"there is no layer {first}" if first == last else f"{first}-{last} is no range of layers"
                    raise RequestError(f"tuning.layers: {what}; this {kind} has {depth}, 0 to {depth - 1}, or -{depth} "
                                       "to -1 from the top.")
                numbers |= {number for number in range(low, high + 1) if 0 <= number < depth}  # a stack may be shorter
            found.append(sorted(numbers))
        return found

    def _ranges(self) -> list[tuple[int, int]]:
        """`2-5, -1` -> (2, 5), (-1, -1)"""
        if not isinstance(self.layers, str):
            return [(number, number) for number in self.layers or []]  # type: ignore[union-attr]
        found = [(part, RANGE.fullmatch(part)) for part in self.layers.split(",")]
        if wrong := [part for part, match in found if match is None]:
            raise RequestError(f"tuning.layers: {wrong[0]!r} is neither a layer's number nor a range like 2-5.")
        return [(int(match[1]), int(match[2] or match[1])) for _, match in found if match is not None]
