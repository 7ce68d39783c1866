"""Attention by layer and head, as the model computes it, and its rollout through the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmkit.inference.explaining.shown import ShownToken
from llmkit.inference.explaining.subject import CHOICES, LABELS, Subject, lined_up
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class AttentionMaps:
    """Who attends to whom."""

    side: Literal["encoder", "decoder", "cross"]
    """cross: the decoder to what the encoder read."""
    weights: Weights
    """(layers, heads, queries, keys); each row sums to 1."""
    queries: tuple[ShownToken, ...]
    keys: tuple[ShownToken, ...]
    layer: int = 1
    """The number of the first layer that is here."""
    head: int = 1
    """The number of the first head."""

    @property
    def mean(self) -> Weights:
        """Of all heads, (layers, queries, keys)."""
        found: Weights = self.weights.mean(1)
        return found


def attention(subject: Subject) -> list[AttentionMaps]:
    """The weights of every layer and head; RequestError where the model's class tells none."""
    import torch

    from llmkit.tuning.shared.attention_prefix import attention_shown

    with torch.no_grad(), attention_shown(subject.base):
        out: Any = subject.ask(subject.inputs, output_attentions=True)
    read = subject.tokens
    written = subject.written or (ShownToken(None, "<start>", special=True), *read[:-1])  # a classifier reads it again
    if out.get("encoder_attentions") is None:
        side: Literal["encoder", "decoder"] = "decoder" if subject.family.shape == "decoder" else "encoder"
        return [_maps(side, out.get("attentions"), read, read, subject)]
    return [_maps("encoder", out["encoder_attentions"], read, read, subject),
            _maps("decoder", out["decoder_attentions"], written, written, subject),
            _maps("cross", out["cross_attentions"], written, read, subject)]


def _maps(
    side: Literal["encoder", "decoder", "cross"], layers: Sequence[Tensor] | None, queries: Sequence[ShownToken],
    keys: Sequence[ShownToken], subject: Subject,
) -> AttentionMaps:
    if not layers or any(layer is None for layer in layers):
        raise RequestError(f"--what attention: {type(subject.base).__name__} tells no weights of its attention; "
                           "--what tokens or layers may be shown.")
    if len({layer.shape[1:] for layer in layers}) > 1:
        raise RequestError(f"--what attention: the layers of {type(subject.base).__name__} have different numbers of "
                           "heads or keys, which no picture shows side by side.")
    weights = np.stack([layer[0].double().cpu().numpy() for layer in layers])
    return AttentionMaps(side, weights, lined_up(weights.shape[2], queries, subject)[0],
                         lined_up(weights.shape[3], keys, subject)[0])


# ---- rollout ----

def rollout(layers: Weights) -> Weights:
    """How much of each input there is in each position after all layers (Abnar & Zuidema 2020, §3, eq. 1).

    `layers` (layers, positions, positions) is the mean over heads. A layer hands on half of what it attends to, and
    half of what stood there before, by the residual connection: A' = (A + I) / 2, and the product of all layers' A'.
    Where there are more keys than queries, the first of them are a prefix, in which nothing ever changes.
    """
    _, queries, keys = layers.shape
    more = keys - queries
    flow: Weights = np.eye(keys)
    for layer in layers:
        step = np.eye(keys)
        step[more:] = 0.5 * layer + 0.5 * np.eye(queries, keys, more)
        flow = step @ flow
    return flow[more:]


def rollout_across(encoder: Weights, decoder: Weights, cross: Weights) -> tuple[Weights, Weights]:
    """The same rule through a decoder that also attends to an encoder: (of what was read, of what was written).

    Each (layers, queries, keys), the mean over heads. Self-attention mixes what stands in the decoder's positions, and
    cross-attention adds half of what it sees in the encoder's last layer. The two shares of a position sum to 1. The
    paper has encoders only; this is its rule for each of a decoder's two attentions.
    """
    read = rollout(encoder)
    more = cross.shape[2] - read.shape[0]  # a prefix, which stands in no position of the encoder
    width = read.shape[1] + max(0, more)
    sources = np.zeros((cross.shape[2], width))
    sources[:max(0, more), :max(0, more)] = np.eye(max(0, more))
    sources[max(0, more):, max(0, more):] = read
    size, ahead = decoder.shape[1], decoder.shape[2] - decoder.shape[1]
    of_read, of_written = np.zeros((size, width)), np.eye(size, size + ahead, ahead)
    before = np.eye(ahead, size + ahead)
    for own, other in zip(decoder, cross, strict=True):
        step = 0.5 * own + 0.5 * np.eye(size, size + ahead, ahead)
        of_read, of_written = step[:, ahead:] @ of_read, step[:, :ahead] @ before + step[:, ahead:] @ of_written
        of_read, of_written = 0.5 * of_read + 0.5 * other @ sources, 0.5 * of_written
    return of_read, of_written


def rolled_out(maps: Sequence[AttentionMaps], subject: Subject) -> tuple[list[float], list[float]]:
    """What reaches the position that the answer is read from: of each token that is read, and of each that was written.

    Virtual tokens have shares too, so that these needn't sum to 1.
    """
    if len(maps) == 1:
        flow = rollout(maps[0].mean)
        return _of_tokens(flow[reads_at(subject, flow.shape[0])].mean(0), subject.tokens, subject), []
    encoder, decoder, cross = maps
    of_read, of_written = rollout_across(encoder.mean, decoder.mean, cross.mean)
    at = reads_at(subject, of_read.shape[0])
    shares = _of_tokens(of_read[at].mean(0), subject.tokens, subject)
    own = _of_tokens(of_written[at].mean(0), subject.written or subject.tokens, subject)
    if subject.written:
        return shares, own
    return [share + again for share, again in zip(shares, [*own[1:], 0.0], strict=True)], []


def _of_tokens(shares: NDArray[np.float64], tokens: Sequence[ShownToken], subject: Subject) -> list[float]:
    _, places = lined_up(len(shares), tokens, subject)
    found: list[float] = shares[places].tolist()
    return found


def reads_at(subject: Subject, positions: int) -> list[int]:
    """From which positions the answer is read: [CLS], the last token, the mask; of a mean over all, all."""
    if subject.aim is not None and subject.aim.is_word:
        side = subject.written or subject.tokens
        return [lined_up(positions, side, subject)[1][subject.aim.where]]
    if subject.aim is not None and subject.aim.read_at:
        places = lined_up(positions, subject.tokens, subject)[1]
        return [places[place] for place in subject.aim.read_at]
    if subject.kind not in (LABELS, CHOICES) or subject.averages:
        return list(range(positions))
    if subject.family.shape == "encoder":
        mean = vars(subject.base.config).get("classifier_pooling") == "mean"
        return list(range(positions)) if mean else [0]
    return [positions - 1]


def strongest(weights: Weights, count: int = 1) -> list[list[tuple[int, float]]]:
    """Of each query, (queries, keys), what it attends to most: [(key, weight)], the most first."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    return [[(int(key), float(row[key])) for key in keys] for row, keys in zip(weights, order, strict=True)]
