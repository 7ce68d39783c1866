"""Where a batch's targets stand: found on the host, and taken on the device without waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmkit.system.devices import on_host, sent

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def chosen(labels: Tensor) -> Tensor:
    """Which positions of labels (batch, length) are targets, for `at`."""
    return marked(on_host(labels) != -100, labels.device)


def marked(mask: Tensor, device: torch.device) -> Tensor:
    """A mask of the host (batch, length) for `at`, on a device.

    On a CPU the mask itself; elsewhere the numbers of its places, which a device could tell only while the host waits.
    """
    return mask if device.type == "cpu" else sent(mask.flatten().nonzero()[:, 0], device)


def rows_of_targets(labels: Tensor) -> Tensor:
    """Which row each target of labels (batch, length) is of, (targets,)."""
    return sent((on_host(labels) != -100).nonzero()[:, 0], labels.device)


def at(values: Tensor, wanted: Tensor) -> Tensor:
    """What stands at wanted positions, as `marked` has them: (batch, length, …) -> (targets, …)"""
    if wanted.dim() == 2:
        return values[wanted]
    return values.flatten(0, 1).index_select(0, wanted)
