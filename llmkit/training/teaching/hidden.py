"""Hidden states: what the layers of a model hold, position by position, and how far a student's are from its teacher's.

Sanh et al. 2019 (DistilBERT), §2: 1 - cosine; Jiao et al. 2020 (TinyBERT), eq. 8 and §3: squared error, layers at even
distances, a projection where the widths differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from llmkit.recipe import HiddenStates
from llmkit.system.errors import RequestError

Stacks = list[list[nn.Module]]
"""The layers of an encoder, a decoder, or both."""


@contextmanager
def seen(stacks: Stacks) -> Iterator[list[list[Tensor]]]:
    """Keep what each layer gives, (rows, length, width), while the block runs: a list for each stack, in their order.

    A layer that is used several times (ALBERT's) gives as many.
    """
    kept: list[list[Tensor]] = [[] for _ in stacks]

    def keeps(into: list[Tensor]) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            into.append(output if isinstance(output, Tensor) else output[0])

        return keep

    hooks = [layer.register_forward_hook(keeps(into)) for stack, into in zip(stacks, kept, strict=True)
             for layer in stack]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def matched(plan: HiddenStates, ours: int, theirs: int) -> dict[int, int]:
    """Which layer of `theirs` each of `ours` learns from, both counted from 0.

    auto, 3 and 6: {0: 1, 1: 3, 2: 5}; last: {2: 5}. RequestError where a map names a layer that isn't there.
    """
    if plan.layers == "last":
        return {ours - 1: theirs - 1}
    if plan.layers == "auto":
        return {layer: round((layer + 1) * theirs / ours) - 1 for layer in range(ours) if
                round((layer + 1) * theirs / ours) > 0}
    assert isinstance(plan.layers, Mapping)
    for mine, other in plan.layers.items():
        for layer, count, whose in ((mine, ours, "student"), (other, theirs, "teacher")):
            if layer >= count:
                raise RequestError(f"teacher.hidden.layers: {{{mine}: {other}}}: the {whose} has {count} layers, "
                                   f"numbered from 0; {layer} is none of them.")
    return dict(plan.layers)


def hidden_loss(
    plan: HiddenStates, student: Sequence[Sequence[Tensor]], teacher: Sequence[Sequence[Tensor]],
    places: Sequence[Tensor], projection: nn.Module | None,
) -> Tensor:
    """How far the states of a student are from its teacher's, summed over positions, layers and stacks.

    student, teacher   of each stack, what each layer gave: (rows, length, width)
    places             of each stack, which positions hold a token: (rows, length), bool
    projection         from the student's width to the teacher's
    """
    sums = []
    for ours, theirs, real in zip(student, teacher, places, strict=True):
        for mine, other in matched(plan, len(ours), len(theirs)).items():
            said, told = ours[mine][real], theirs[other][real].detach().float()
            said = (said if projection is None else projection(said)).float()
            far = 1 - cosine_similarity(said, told, -1) if plan.loss == "cosine" else (said - told).square().mean(-1)
            sums.append(far.sum())
    return torch.stack(sums).sum()


def projection_of(ours: int, theirs: int) -> nn.Linear | None:
    """A new matrix from the student's width to the teacher's; None where they are one. It trains with the student."""
    return None if ours == theirs else nn.Linear(ours, theirs, bias=False)
