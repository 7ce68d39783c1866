"""XLNet's attention with the same result for less: targets alone in the second stream, positions once for all rows.

transformers computes the second stream at every position of a row, and keeps the targets' sixth; it projects the
encoding of positions for each row of a batch, though it is the same; and masks by a product in fp32. Here queries, keys
and values are one product, masks are booleans, and the second stream has as many queries as there are targets.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import XLNetModel
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

from llmkit.backbones.kernels import shortcuts

UNSEEN = -1e30
"""The score of a key that isn't seen, as transformers has it, or the least that fp16 has: where none is, all weigh the
same."""


def quicken(model: nn.Module) -> None:
    """Let a model's attention run this module's way, where `two_streams` is on; it computes what it did before.

    One thing is drawn differently in training: dropout hides the same parts of the encoding of positions from all rows
    of a batch, as in Transformer-XL's own code (Dai et al. 2019).
    """
    for part in model.modules():
        if isinstance(part, XLNetRelativeAttention) and "forward" not in vars(part):
            part.forward = MethodType(attend, part)  # type: ignore[method-assign]
        elif isinstance(part, XLNetModel) and "relative_positional_encoding" not in vars(part):
            part.relative_positional_encoding = MethodType(  # type: ignore[method-assign]
                positions, part)


def positions(self: XLNetModel, qlen: int, klen: int, bsz: int | None = None, device: Any = None) -> Tensor:
    """The encoding of relative positions, (klen + qlen, 1, width): one for all rows, unless their directions differ."""
    return XLNetModel.relative_positional_encoding(  # type: ignore[no-any-return,no-untyped-call]
        self, qlen, klen, None if shortcuts.on("two_streams") and not self.bi_data else bsz, device)


def attend(
    self: XLNetRelativeAttention, h: Tensor, g: Tensor | None, attn_mask_h: Tensor | None, attn_mask_g: Tensor | None,
    r: Tensor, seg_mat: Tensor | None, mems: Tensor | None = None, target_mapping: Tensor | None = None,
    output_attentions: bool = False,
) -> Any:
    """XLNetRelativeAttention.forward.

    h (length, batch, width), g (targets, batch, width), masks (query, key, batch, 1), 1 where a key isn't seen;
    `target_mapping` (targets, length, batch) has a single 1 for each target, and none for padding.
    """
    remembers = mems is not None and mems.dim() > 1
    other = seg_mat is not None or remembers or output_attentions or (g is not None and target_mapping is None)
    if other or not shortcuts.on("two_streams"):
        r = r.expand(-1, h.shape[1], -1)
        return XLNetRelativeAttention.forward(  # type: ignore[no-untyped-call]
            self, h, g, attn_mask_h, attn_mask_g, r, seg_mat, mems, target_mapping, output_attentions)
    together = torch.cat([weight.flatten(1) for weight in (self.q, self.k, self.v)], 1)
    query, key, value = (in_heads(part, self.n_head) for part in (h @ together).chunk(3, -1))
    relative = in_heads(r @ self.r.flatten(1), self.n_head)
    by_content, by_position = biased(self, query)
    unseen = None if attn_mask_h is None else attn_mask_h.permute(2, 3, 0, 1) > 0
    scores = by_content @ key.mT + shifted(by_position @ relative.mT, key.shape[2])
    seen_h = after(self, h, weighed(self, scores, unseen, value))
    if g is None or target_mapping is None:
        return seen_h, None
    places, known = target_mapping.argmax(1).T, target_mapping.sum(1).T  # (batch, targets)
    by_content, by_position = biased(self, in_heads(g @ self.q.flatten(1), self.n_head))
    if attn_mask_g is not None:
        unseen = torch.take_along_dim(attn_mask_g[..., 0].permute(2, 0, 1) > 0, places[:, :, None], 1)[:, None]
    scores = by_content @ key.mT + shifted_at(by_position @ relative.mT, places, key.shape[2])
    vectors = weighed(self, scores, unseen, value) * known[:, None, :, None].to(value.dtype)
    return seen_h, after(self, g, vectors)


def in_heads(hidden: Tensor, count: int) -> Tensor:
    """(length, batch, heads x size) -> (batch, heads, length, size)."""
    length, batch, width = hidden.shape
    return hidden.view(length, batch, count, width // count).permute(1, 2, 0, 3)


def biased(self: XLNetRelativeAttention, query: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, scaled, with the bias that all contents share and the one that all positions share."""
    one, two = ((query + bias.to(query.dtype)[:, None]) * self.scale for bias in (self.r_w_bias, self.r_r_bias))
    return one, two


def shifted(scores: Tensor, keys: int) -> Tensor:
    """Scores by distance to scores by key: (…, queries, distances) -> (…, queries, keys), the i-th row i to the left.

    The first distance is that of the first query to what is as far behind as there are keys (Dai et al. 2019, app. B).
    """
    queries, distances = scores.shape[-2:]
    return scores.flatten(-2)[..., queries:].view(*scores.shape[:-2], queries, distances - 1)[..., :keys]


def shifted_at(scores: Tensor, places: Tensor, keys: int) -> Tensor:
    """`shifted` for queries at some places (batch, targets) of a row that is as long as there are keys."""
    columns = keys - places[:, :, None] + torch.arange(keys, device=places.device)
    return scores.gather(-1, columns[:, None].expand(-1, scores.shape[1], -1, -1))


def weighed(self: XLNetRelativeAttention, scores: Tensor, unseen: Tensor | None, value: Tensor) -> Tensor:
    """The values that are seen, weighed by softmax: (batch, heads, queries, size)."""
    scores = scores if unseen is None else scores.masked_fill(unseen, max(UNSEEN, torch.finfo(scores.dtype).min))
    kept: Tensor = self.dropout(scores.softmax(-1))
    return kept @ value


def after(self: XLNetRelativeAttention, before: Tensor, vectors: Tensor) -> Tensor:
    """Back to the model's width, and added to what was before: (length, batch, width)."""
    out = self.dropout(vectors.permute(2, 0, 1, 3).flatten(2) @ self.o.flatten(1).T)
    added: Tensor = self.layer_norm(out + before)
    return added
