"""Rows without their padding: the layers see the tokens of all rows as one long row, attention sees rows again.

What is done to each token alone (linear layers, normalisation, activation: nearly all of the work on short texts) is
done to tokens only. Before the first layer and after the last, and for all that reads the model, nothing changes.

    rows of 2, 4 and 1 tokens: 12 positions   ->   7 tokens in the layers, rows of 4, 2 and 1 within each attention

FlashAttention takes the long row as it is, and where each row begins in it: then attention sees no padding either.

    FlashAttention: one row of 7 tokens, and 0 4 6 7

Compiled layers are told where the tokens stand with each call: what changes from batch to batch is an argument then, of
which torch makes one graph for any numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmkit.backbones.kernels.privates import attention_of, flash
from llmkit.system.devices import on_host, sent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmkit.backbones.base import Family

WORTH = 0.9
"""The share of positions that are tokens from which padding is cheaper than leaving it out."""
ALIKE = 0.8
"""The share of the longest row of a group that each of its rows has at least; on a GPU, all rows are one group."""
TOLD = "llmkit_unpadded"
"""The argument of compiled layers that says where their tokens stand: (order, places, rows, longest, edges)."""
FLASH = "flash_attention_2"
SAVED = 100_000
"""Attention scores of padding, over all heads, that it takes to make one more group worth its calls."""


@dataclass(frozen=True)
class Group:
    """Rows of like length, which attend together."""

    first: int
    rows: int
    longest: int
    places: Tensor
    """(tokens,): row x longest + column, in this group."""


class TokenPlaces:
    """Where the tokens of a batch stand in its padded rows: the longest row first. The host finds them."""

    def __init__(
        self, mask: Tensor, heads: int, device: torch.device | str = "cpu", one_group: bool = False,
    ) -> None:
        self.rows, self.longest = mask.shape
        ends = (mask * torch.arange(1, self.longest + 1)).amax(1)  # padding may be on any side
        order = ends.argsort(descending=True, stable=True)
        self.order = sent(order, device)
        """(rows,): the rows in the order that the layers see them."""
        held, lengths = mask[order].bool(), ends[order].tolist()
        row, column = held.nonzero().unbind(1)
        self.places = sent(order[row] * self.longest + column, device)
        """(tokens,): row x longest + column, in that order."""
        filled = held.sum(1)
        self.edges = sent(torch.cat([filled.new_zeros(1), filled.cumsum(0)]).to(torch.int32), device)
        """(rows + 1,): where each row begins among all tokens, and where the last one ends."""
        self.most = int(filled.max())
        """Tokens of the longest row."""
        begins = grouped(lengths, 0.0 if one_group or str(device) != "cpu" else ALIKE, SAVED / heads)
        edges = [0, *(i for i, more in enumerate(begins) if more), self.rows]
        self.groups = [
            Group(first, last - first, lengths[first],
                  sent(held[first:last, : lengths[first]].flatten().nonzero()[:, 0], device))
            for first, last in itertools.pairwise(edges)]
        self.sizes = [len(group.places) for group in self.groups]

    def flat(self, padded: Tensor) -> Tensor:
        """(rows, longest, ...) -> (1, tokens, ...); a single row stands for all."""
        if len(padded) != self.rows:
            padded = padded.expand(self.rows, *padded.shape[1:])
        return taken(padded, self.places)[None]

    def padded(self, flat: Tensor) -> Tensor:
        """(1, tokens, ...) -> (rows, longest, ...), 0 in padding."""
        return put(flat[0], self.places, self.rows, self.longest)


def grouped(lengths: Sequence[int], alike: float, saved: float) -> list[bool]:
    """Whether a group begins with a row, of lengths that fall: 9 8 4 4 -> no no yes no.

    It does where the row is shorter than `alike` of the group so far, and a group for it and all that follow has
    `saved` scores less a head.
    """
    longest, found = lengths[0], []
    for i, length in enumerate(lengths):
        less = (len(lengths) - i) * (longest**2 - length**2)
        found.append(length < alike * longest and less >= saved)
        longest = length if found[-1] else longest
    return found


def taken(padded: Tensor, places: Tensor) -> Tensor:
    """(rows, longest, ...) -> (tokens, ...)"""
    some: Tensor = _Taken.apply(padded.flatten(0, 1), places)  # type: ignore[no-untyped-call]
    return some


def put(tokens: Tensor, places: Tensor, rows: int, longest: int) -> Tensor:
    """(tokens, ...) -> (rows, longest, ...), 0 elsewhere."""
    whole: Tensor = _Put.apply(tokens, places, rows * longest)  # type: ignore[no-untyped-call]
    return whole.view(rows, longest, *tokens.shape[1:])


class _Taken(torch.autograd.Function):
    """Rows of a matrix, each at most once: unlike indexing, its gradient is put down, not added up."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(matrix)
        return matrix.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return slope.new_zeros(ctx.size, *slope.shape[1:]).index_copy_(0, places, slope), None


class _Put(torch.autograd.Function):
    """The other way round: rows to their places in a larger matrix of zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return slope.index_select(0, places), None, None


class Unpadding:
    """Leaves padding out of a model's layers, from batch to batch."""

    def __init__(
        self, attend: Callable[..., tuple[Tensor, Any]], heads: int, entries: Sequence[nn.Module] = (),
        exits: Sequence[nn.Module] = (), compiled: bool = False, varlen: bool = False,
    ) -> None:
        self.attend, self.heads = attend, heads
        """How the model attends to padded rows, and with how many heads."""
        self.varlen = varlen
        """Whether attention takes the long row too: then there is no padding that isn't worth leaving out."""
        self.full = False
        """Whether the batch that is on its way has no padding at all."""
        self.entries, self.exits = tuple(map(id, entries)), tuple(map(id, exits))
        """Layers before which padding goes, and behind which it comes back."""
        self.compiled = compiled
        """Whether the layers are compiled: `before` and `after` are called around them then, where no graph sees it."""
        self.layout: TokenPlaces | None = None
        """Of the batch that is on its way through the model; None where it stays padded."""

    def begin(self, body: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Before the body: find the tokens, where the batch can do without padding."""
        self.layout, self.full = None, False
        mask = given.get("attention_mask")
        inputs = next((given[name] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None),
                      args[0] if args else None)
        whole = ("use_cache", "output_hidden_states", "output_attentions")
        if not isinstance(mask, Tensor) or inputs is None or mask.shape != inputs.shape[:2]:
            return  # ModernBERT takes a mask for each kind of layer, where documents are kept apart
        if any(map(given.get, whole)) or given.get("past_key_values") is not None:
            return
        here = on_host(mask)
        tokens = here.sum(1)
        self.full = int(tokens.sum()) == mask.numel()
        worth = 1.0 if self.varlen else WORTH
        if not self.full and int(tokens.sum()) <= worth * mask.numel() and int(tokens.min()) > 0:
            self.layout = TokenPlaces(here, self.heads, mask.device, one_group=self.compiled)

    def end(self, body: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        """After the body."""
        self.layout = None

    def enter(self, layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Before the first layer: hidden states (rows, longest, width) -> (1, tokens, width)."""
        if self.layout is None:
            return None
        if args:
            return (self.layout.flat(args[0]), *args[1:]), given
        return args, {**given, "hidden_states": self.layout.flat(given["hidden_states"])}

    def turn(self, layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Before each layer: the same for rotary positions, a pair of (1 or rows, longest, width)."""
        if self.layout is None or given.get("position_embeddings") is None:
            return None
        return args, {**given, "position_embeddings": tuple(map(self.layout.flat, given["position_embeddings"]))}

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """After the last layer: hidden states (1, tokens, width) -> (rows, longest, width)."""
        if self.layout is None:
            return None
        if isinstance(output, Tensor):
            return self.layout.padded(output)
        return (self.layout.padded(output[0]), *output[1:])


    def before(self, layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What a compiled layer is called with."""
        if self.layout is None:
            return args, given
        args, given = self.turn(layer, args, given) or (args, given)
        if id(layer) in self.entries:
            args, given = self.enter(layer, args, given)
        layout = self.layout
        longest = layout.most if self.varlen else layout.longest
        return args, {**given, TOLD: (layout.order, layout.groups[0].places, layout.rows, longest, layout.edges)}

    def after(self, layer: nn.Module, output: Any) -> Any:
        """What a compiled layer gives."""
        left = self.leave(layer, (), output) if id(layer) in self.exits else None
        return output if left is None else left


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Any]:
    """Attend as the model does, in rows: (1, heads, tokens, width) -> (1, tokens, heads, width)."""
    unpadding: Unpadding = module.llmkit_unpadding  # type: ignore[assignment]
    if (told := options.pop(TOLD, None)) is not None:
        return attend_told(unpadding, told, module, (query, key, value), attention_mask, **options)
    layout = unpadding.layout
    if layout is None:
        return unpadding.attend(module, query, key, value, attention_mask, **options)
    if attention_mask is not None and len(attention_mask) > 1:
        attention_mask = attention_mask[layout.order]
    parts = [torch.split(some[0].transpose(0, 1), layout.sizes)  # (tokens, heads, width) of each group
             for some in (query, key, value)]
    found = []
    for group, *some in zip(layout.groups, *parts, strict=True):
        rows = [put(part, group.places, group.rows, group.longest).transpose(1, 2) for part in some]
        mask = attention_mask
        if mask is not None:
            mask = mask[group.first : group.first + group.rows] if len(mask) > 1 else mask
            mask = mask[:, :, : group.longest, : group.longest]
        found.append(taken(unpadding.attend(module, *rows, mask, **options)[0], group.places))
    return torch.cat(found)[None], None


def attend_told(
    unpadding: Unpadding, told: tuple[Tensor, Tensor, int, int, Tensor], module: nn.Module, parts: Sequence[Tensor],
    attention_mask: Tensor | None, **options: Any,
) -> tuple[Tensor, Any]:
    """The same for compiled layers: all rows are one group, and only operations that torch can trace."""
    order, places, rows, longest, _ = told
    if attention_mask is not None:
        attention_mask = attention_mask if len(attention_mask) == 1 else attention_mask.index_select(0, order)
        attention_mask = attention_mask[:, :, :longest, :longest]
    wide = []
    for part in parts:
        tokens = part[0].transpose(0, 1)  # (tokens, heads, width)
        whole = tokens.new_zeros(rows * longest, *tokens.shape[1:]).index_copy(0, places, tokens)
        wide.append(whole.view(rows, longest, *tokens.shape[1:]).transpose(1, 2))
    found = unpadding.attend(module, *wide, attention_mask, **options)[0]
    return found.flatten(0, 1).index_select(0, places)[None], None


def attend_varlen(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Any]:
    """Attend by FlashAttention: (1, heads, tokens, width) and where rows begin -> (1, tokens, heads, width).

    Padded rows, as where one of them is empty, go with their mask (rows, longest); full ones need none.
    """
    unpadding: Unpadding = module.llmkit_unpadding  # type: ignore[assignment]
    layout = unpadding.layout
    if (told := options.pop(TOLD, None)) is not None:
        *_, longest, edges = told
    elif layout is not None:
        longest, edges = layout.most, layout.edges
    else:
        mask = None if unpadding.full else attention_mask
        return flash(module, query, key, value, mask, **options)
    return flash(module, query, key, value, **options, cu_seq_lens_q=edges, cu_seq_lens_k=edges,
                 max_length_q=longest, max_length_k=longest)


def told_padding(*given: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """FlashAttention's mask, made for all layers: that of padding (rows, longest); no device is asked for its numbers.

    Which rows are full, and where tokens stand, the host knows.
    """
    return attention_mask


def unpad(model: PreTrainedModel, family: type[Family], compiled: bool = False) -> Unpadding:
    """Let a model leave padding out of its layers wherever it is called with a mask of it, but not while it generates.

    `compiled`: its layers will be, by `compile_layers`, which is given what this returns. The family `unpads`: its
    layers take hidden states first, and attend through transformers' attention interface.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    way = attention_of(model)
    varlen = way == FLASH
    name = "llmkit_unpadded_varlen" if varlen else f"llmkit_unpadded_{way}"
    AttentionInterface.register(name, attend_varlen if varlen else attend)
    AttentionMaskInterface.register(name, told_padding if varlen else ALL_MASK_ATTENTION_FUNCTIONS[way])
    model.set_attn_implementation(name)
    body = model.base_model
    stack = list(body.get_submodule(family.layers[0].partition(".")[2]).children())
    # shared layers may come in any order
    entries, exits = (stack, stack) if family.shares else (stack[:1], stack[-1:])
    unpadding = Unpadding(
        ALL_ATTENTION_FUNCTIONS[way], model.config.num_attention_heads, entries, exits, compiled, varlen)
    for part in (part for layer in stack for part in layer.modules()):
        part.llmkit_unpadding = unpadding  # type: ignore[assignment]
    body.register_forward_pre_hook(unpadding.begin, with_kwargs=True)
    body.register_forward_hook(unpadding.end, always_call=True)
    if compiled:
        return unpadding
    for layer in stack:
        layer.register_forward_pre_hook(unpadding.turn, with_kwargs=True)
    for layer in entries:
        layer.register_forward_pre_hook(unpadding.enter, with_kwargs=True)
    for layer in exits:
        layer.register_forward_hook(unpadding.leave)
    return unpadding
