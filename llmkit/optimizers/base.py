"""The contract of an optimizer: given what trains, make what moves it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field

if TYPE_CHECKING:
    import torch
    from torch import nn

Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
"""How much of a running mean stays in each step."""
Epsilon: TypeAlias = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Learned:
    """A parameter that trains, and how."""

    name: str
    parameter: nn.Parameter
    learning_rate: float
    """The highest that it has in the run; the schedule goes below."""
    weight_decay: float
    hidden: bool
    """Whether it is a matrix between the embeddings and the head: no table of them, no head, no vector."""
    alike: tuple[Any, ...]
    """What the parameters of one group have in common."""


class Optimizer:
    """An optimizer; its dataclass fields are its options in the recipe. Rate, decay and clipping are training's."""

    @property
    def factor(self) -> float:
        """What its usual learning rate is of AdamW's, which the tuning method names."""
        return 1.0

    @property
    def states(self) -> float:
        """Numbers of 32 bits that it keeps for each one that trains, at most."""
        return 2.0

    @property
    def decays(self) -> bool:
        """Whether weights can decay."""
        return True

    @property
    def averages(self) -> bool:
        """Whether an average of its steps is what is evaluated, and left in model/."""
        return False

    @property
    def shards(self) -> bool:
        """Whether it moves tensors whose parts lie on several processes (DTensors), as it moves whole ones."""
        return False

    def check(self) -> None:
        """Raise RequestError, before anything is loaded, where it can't work here: a library is missing …"""

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """What moves the parameters. Each of its groups has an `initial_lr`: a step's `lr` is a factor times that.

        What it keeps is plain tensors and numbers, for a checkpoint is opened with weights_only=True; a parameter
        without a gradient stays where it is.
        """
        raise NotImplementedError

    def averaged(self, made: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """While the block runs, the parameters are what is evaluated and left in model/; then what they were."""
        return nullcontext()

    def describe(self, learned: Sequence[Learned]) -> str:
        """A few words on how it is done, for the log."""
        return ""


def groups(learned: Sequence[Learned]) -> list[dict[str, Any]]:
    """The parameters as torch's optimizers take them: those that are alike in one group, in the order of the first."""
    found: dict[tuple[Any, ...], list[Learned]] = {}
    for one in learned:
        found.setdefault(one.alike, []).append(one)
    return [{"params": [one.parameter for one in some], "lr": some[0].learning_rate,
             "initial_lr": some[0].learning_rate, "weight_decay": some[0].weight_decay} for some in found.values()]
