"""Who sees whom: the attention mask that a row comes with, by what is learned and by the shape of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def masks(fields: Mapping[str, Sequence[int]], shape: str) -> list[dict[str, Any]]:
    """Of a row's fields: [{"name", "queries": name of their field, "keys", "seen": [[bool]], (queries, keys)}].

    decoder           those before it, and itself; of a prefix, all of that
    encoder           all
    permuted          those before it in the drawn order (Yang et al. 2019, §2.3): two streams
    encoder-decoder   all in the encoder, those before it in the decoder, and between the two all
    All of it within a document only, where several share a row.
    """
    documents = np.array(fields.get("documents", np.zeros(len(fields["input_ids"]), int)))
    within = same(documents, documents)
    if shape == "decoder":
        seen = np.tril(within)
        if "prefix" in fields:
            seen = seen | (within & (np.array(fields["prefix"]) > 0)[None, :])
        packed = _packed(documents)
        name = f"causal{packed}" if "prefix" not in fields else (
            f"prefix: all of it from both sides, the rest from left to right{packed}")
        return [_named(name, "input_ids", "input_ids", seen)]
    if shape == "permuted" and "order" in fields:
        order = np.array(fields["order"])
        hidden = (order[None, :] >= 0) & (order[:, None] <= order[None, :])
        return [_named(f"permuted, the stream that predicts: a target doesn't see itself{_packed(documents)}",
                       "input_ids", "input_ids", within & ~hidden),
                _named(f"permuted, the stream of contents: it does{_packed(documents)}", "input_ids", "input_ids",
                       within & (~hidden | np.eye(len(order), dtype=bool)))]
    if "decoder_input_ids" not in fields:
        return [_named(f"bidirectional{_packed(documents)}", "input_ids", "input_ids", within)]
    written = np.array(fields.get("decoder_documents", np.zeros(len(fields["decoder_input_ids"]), int)))
    return [_named(f"encoder: bidirectional{_packed(documents)}", "input_ids", "input_ids", within),
            _named(f"decoder: causal{_packed(written)}", "decoder_input_ids", "decoder_input_ids",
                   np.tril(same(written, written))),
            _named(f"cross-attention: all that was read{_packed(documents)}", "decoder_input_ids", "input_ids",
                   same(written, documents))]


def same(queries: NDArray[Any], keys: NDArray[Any]) -> Mask:
    """Which key is of a query's document."""
    found: Mask = queries[:, None] == keys[None, :]
    return found


def _packed(documents: NDArray[Any]) -> str:
    count = len(set(documents.tolist()))
    return "" if count < 2 else f", {count} documents apart"


def _named(name: str, queries: str, keys: str, seen: Mask) -> dict[str, Any]:
    return {"name": name, "queries": queries, "keys": keys, "seen": seen.tolist()}


def drawn(seen: Sequence[Sequence[bool]], names: Sequence[str] = (), most: int = 64) -> list[str]:
    """A mask as lines: ■ sees, · doesn't; each row looks at the columns.

    >>> drawn([[True, False], [True, True]], ["the", "cat"])
    ['the ■·', 'cat ■■']
    """
    wide = max((len(name) for name in names[:most]), default=0)
    lines = []
    for i, row in enumerate(seen[:most]):
        name = f"{names[i]:>{wide}} " if names else ""
        lines.append(name + "".join("■" if one else "·" for one in row[:most]) + ("…" if len(row) > most else ""))
    return [*lines, *(["…"] if len(seen) > most else [])]
