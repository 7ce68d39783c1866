"""Documents that share a row, kept apart by kernels of GPUs that skip what isn't seen, where a mask would be dense.

documents 0 0 0 1 1   FlexAttention: blocks of 128 x 128 positions, of which those that nobody sees aren't computed
documents 2 2 2 2 3   FlashAttention: one long row, and where each document of it begins: 0 3 5 9 10
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llmkit.system.devices import on_host, sent

if TYPE_CHECKING:
    from torch import Tensor


def in_blocks(documents: Tensor, causal: bool, prefix: Tensor | None = None) -> Any:
    """Who sees whom, as FlexAttention reads it: those of one document; where `causal`, those before and oneself.

    `documents` (batch, length) numbers the document of each token; `prefix` marks those that all of their document see.
    """
    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        together = documents[row, query] == documents[row, key]
        if not causal:
            return together
        before = query >= key
        return together & (before if prefix is None else before | (prefix[row, key] > 0))

    return blocks(seen, len(documents), documents.shape[1], documents.device)


def near(seen: Any, window: int) -> Any:
    """Of what is seen, by a mask (batch, 1, q, k) or FlexAttention's blocks, what is at most `window` places away."""
    if isinstance(seen, torch.Tensor):
        places = torch.arange(seen.shape[-1], device=seen.device)
        return seen & ((places[:, None] - places[None]).abs() <= window)
    wider = seen.mask_mod

    def both(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        found: Tensor = wider(row, head, query, key) & ((query - key).abs() <= window)
        return found

    return blocks(both, seen.shape[0], seen.shape[-1], seen.kv_num_blocks.device)


def blocks(seen: Any, rows: int, length: int, device: torch.device) -> Any:
    """FlexAttention's mask of a function that says whether a query sees a key; compiled, no pair of tokens is held."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(seen, rows, None, length, length, device=device, _compile=device.type != "cpu")


def one_row(inputs: dict[str, Tensor], documents: Tensor) -> dict[str, Any]:
    """Inputs (batch, length, …) as one row (1, batch x length, …), with the beginnings of its documents for
    FlashAttention: the host finds them, and no one waits for a device.
    """
    numbers = on_host(documents)
    begins = torch.ones_like(numbers, dtype=torch.bool)
    begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    edges = torch.cat([begins.flatten().nonzero()[:, 0], torch.tensor([numbers.numel()])])
    longest, there = int(edges.diff().max()), sent(edges.to(torch.int32), documents.device)
    flat: dict[str, Any] = {name: tensor.flatten(0, 1)[None] for name, tensor in inputs.items()}
    return {**flat, "cu_seq_lens_q": there, "cu_seq_lens_k": there, "max_length_q": longest, "max_length_k": longest}
