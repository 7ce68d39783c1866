"""A decoder's forward pass written out for a CPU: weights packed once, keys and values written in place, no padding.

Behind transformers' own classes stands the same computation; what differs is its cost. A token of a small model is
mostly overhead there: keys and values are copied with each token, those of grouped queries are repeated for each head
first, and a weight in its plain layout is read at half the memory's rate. Here

- a weight is laid out for oneDNN's products when the model is opened;
- keys and values have room ahead, and each row is filled to its own length;
- queries that share a key are the rows of one product;
- prompts of any lengths are read as one list of tokens, what all of them begin with only once.

Llama's, Qwen3's and GPT-2's own classes are known, with positions that are plain or scaled once for all, and without
sliding windows, adapters or hooks. `Decoder.of` gives None for every other model, which transformers then runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from llmkit.backbones.kernels.eight_bits import EightBit
from llmkit.backbones.kernels.privates import attention_of, onednn_multiplies_bf16

ROOM = 128
"""Places that rows get at a time."""
READ = 4096
"""Tokens of prompts that go through the layers together."""


class Packed(nn.Module):
    """Linear layers that read the same, as one whose weight only oneDNN can read, at twice the speed."""

    def __init__(self, *linears: Any) -> None:
        super().__init__()
        # GPT-2's layers hold (in, out)
        weights = [one.weight.detach() if isinstance(one, nn.Linear) else one.weight.detach().t() for one in linears]
        few = 32  # a layout that is good for one row up to hundreds
        self.packed = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights).contiguous(), few)
        biases = [one.bias.detach() for one in linears if one.bias is not None]
        self.bias = torch.cat(biases) if biases else None  # all have one, or none

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out of all)"""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.packed, self.bias, "none", [], "")
        return out


Product = Packed | EightBit
"""Linear layers that read the same, as one."""


class Share(nn.Module):
    """What one of packed layers gives: it takes the place of the plain one in its model."""

    def __init__(self, packed: Product, start: int, stop: int) -> None:
        super().__init__()
        self.packed, self.start, self.stop = packed, start, stop

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)"""
        return self.packed.forward(x)[..., self.start : self.stop]


@dataclass
class States:
    """Keys and values of a batch, (rows, heads, places, width) a layer; each row is filled to its own length."""

    keys: list[Tensor]
    values: list[Tensor]
    filled: list[int]
    """Places in use, of each row."""

    def get_seq_length(self) -> int:
        """Of the longest row; the name is transformers'."""
        return max(self.filled)

    def crop(self, change: int) -> None:
        """Forget the last -change places of each row."""
        self.filled = [length + change for length in self.filled]

    def only(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.filled = [self.filled[row] for row in rows.tolist()]

    def copies(self, rows: int) -> None:
        """Make so many rows of the only one."""
        self.keys = [keys.repeat(rows, 1, 1, 1) for keys in self.keys]
        self.values = [values.repeat(rows, 1, 1, 1) for values in self.values]
        self.filled *= rows

    def reserve(self, places: int) -> None:
        """Make room for so many places in each row."""
        if places > self.keys[0].shape[2]:
            more = -(-places // ROOM) * ROOM - self.keys[0].shape[2]
            self.keys = [F.pad(keys, (0, 0, 0, more)) for keys in self.keys]  # zeros: a mask hides no NaN
            self.values = [F.pad(values, (0, 0, 0, more)) for values in self.values]


class Plan:
    """Which tokens go where, the same for all layers: of row i the next `counts[i]` tokens, row after row in one list.

    counts 2 0 3, rows filled to 7 4 5  ->  rows 0 0 2 2 2, places 7 8 5 6 7
    """

    def __init__(self, counts: Sequence[int], filled: Sequence[int], dtype: torch.dtype) -> None:
        self.rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.places = torch.cat([torch.arange(start, start + count) for start, count in zip(filled, counts)])
        self.lengths = [start + count for start, count in zip(filled, counts)]
        self.last = [i - 1 for i, count in zip(torch.tensor(counts).cumsum(0).tolist(), counts) if count]
        """Of each row that goes on, its last token's place in the list."""
        self.longest = max(self.lengths)
        self.mask: Tensor | None = None
        """Of one token in every row: what is added to scores, (rows, 1, 1, longest)."""
        self.parts: list[tuple[int, int, int, Tensor | None]] = []
        """Else: row, its tokens' places in the list from … to, and which keys each of them sees, (tokens, keys)."""
        if all(count == 1 for count in counts):
            if min(self.lengths) < self.longest:
                hidden = torch.arange(self.longest) >= torch.tensor(self.lengths)[:, None]
                mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -math.inf)
                self.mask = mask[:, None, None]
            return
        at = 0
        for row, (start, count) in enumerate(zip(filled, counts)):
            seen = None if start == 0 else torch.ones(count, start + count, dtype=torch.bool).tril(start)
            if count:
                self.parts.append((row, at, at + count, seen))
            at += count


@dataclass(frozen=True)
class Layer:
    """One block: attention, then a feed-forward part, each behind a norm and added to what came in."""

    norms: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
    qkv: Product
    """Queries, keys and values."""
    normed: Callable[[Tensor], Tensor] | None
    """Of queries and keys (tokens, heads, width)."""
    scale: float
    out: Product
    up: Product
    gated: bool
    """Whether `up` gives gates before what they are multiplied with (Shazeer 2020, "GLU Variants")."""
    activation: Callable[[Tensor], Tensor]
    down: Product

    def __call__(
        self, x: Tensor, plan: Plan, turn: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Tokens (tokens, width) in and out; `keys` and `values` of the layer get those of the tokens."""
        groups, width = keys.shape[1], keys.shape[3]
        heads = self.qkv.forward(self.norms[0](x)).view(len(x), -1, width)  # (tokens, queries + keys + values, width)
        asking, value = heads[:, :-groups], heads[:, -groups:]
        if self.normed is not None:
            asking = self.normed(asking)
        if turn is not None:  # Su et al. 2021: pairs (i, i + width / 2) are turned by an angle of their place
            asking = asking * turn[0] + asking.roll(width // 2, -1) * turn[1]
        query, key = asking[:, :-groups], asking[:, -groups:]
        keys[plan.rows, :, plan.places] = key
        values[plan.rows, :, plan.places] = value
        x = x + self.out.forward(self._attend(query, plan, keys, values))
        inner = self.up.forward(self.norms[1](x))
        if self.gated:
            gate, inner = inner.chunk(2, -1)
            inner = self.activation(gate) * inner
        else:
            inner = self.activation(inner)
        return x + self.down.forward(inner)

    def _attend(self, query: Tensor, plan: Plan, keys: Tensor, values: Tensor) -> Tensor:
        """(tokens, heads, width) -> (tokens, heads * width)"""
        attention, count, groups = F.scaled_dot_product_attention, len(query), keys.shape[1]
        if not plan.parts:  # heads that share keys are the queries of one head: (rows, groups, heads / groups, width)
            shared = query.reshape(count, groups, -1, keys.shape[3])
            here = slice(count), slice(None), slice(plan.longest)
            return attention(shared, keys[here], values[here], plan.mask, scale=self.scale).reshape(count, -1)
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for row, start, end, seen in plan.parts:
            here = slice(row, row + 1), slice(None), slice(plan.lengths[row])
            found = attention(query[None, start:end].transpose(1, 2), keys[here], values[here], seen,
                              is_causal=seen is None, scale=self.scale, enable_gqa=True)
            out[start:end] = found[0].transpose(0, 1)
        return out.view(count, -1)


@dataclass(frozen=True)
class Decoder:
    """A model's own layers, and what stands before and behind them."""

    tokens: nn.Embedding
    places: nn.Embedding | None
    turns: Tensor | None
    """Angles a place, of each pair of a head's numbers, (width / 2)."""
    strength: float
    """What turned queries and keys are multiplied by (YaRN: Peng et al. 2023)."""
    layers: tuple[Layer, ...]
    norm: Callable[[Tensor], Tensor]
    head: Product
    groups: int
    """Heads of keys and values."""
    width: int
    """Of a head."""

    @classmethod
    def of(cls, model: Any) -> Decoder | None:
        """The decoder of a model, whose linear layers are packed in place; None where it isn't one of those known.

        A model that is taken isn't trained or saved any more; all else that it does, it still does.
        """
        kinds = {"LlamaForCausalLM": _llama, "Qwen3ForCausalLM": _llama, "GPT2LMHeadModel": _gpt2}
        kind = kinds.get(type(model).__name__)
        return kind(model) if kind is not None and _plain(model) else None

    def states(self) -> States:
        """One row, with nothing in it."""
        empty = self.tokens.weight.new_zeros(1, self.groups, 0, self.width)
        return States([empty] * len(self.layers), [empty] * len(self.layers), [0])

    def read(self, prompts: Sequence[Sequence[int]], states: States) -> Tensor:
        """Read prompts, a row each; of one prompt, what `states` already holds isn't read again.

        Returns the logits behind each prompt's last token, (rows, vocabulary).
        """
        if len(prompts) > 1:
            first, last = min(map(list, prompts)), max(map(list, prompts))
            alike = next((i for i, pair in enumerate(zip(first, last)) if pair[0] != pair[1]), len(first))
            alike = min(alike, min(map(len, prompts)) - 1)
            if alike:
                self._hidden([first[:alike]], states)
            states.copies(len(prompts))
        left = [list(prompt[done:]) for prompt, done in zip(prompts, states.filled, strict=True)]
        states.reserve(max(map(len, prompts)))
        behind: dict[int, Tensor] = {}
        while any(left):
            budget, part = READ, []
            for row, ids in enumerate(left):
                part.append(ids[:budget])
                budget -= len(part[-1])
                left[row] = ids[len(part[-1]):]
            rows = [row for row, ids in enumerate(part) if ids]
            behind |= zip(rows, self._hidden(part, states))
        return self.head.forward(torch.stack([behind[row] for row in range(len(prompts))]))

    def step(self, tokens: Sequence[int], states: States) -> Tensor:
        """One more token of each row -> the logits behind it, (rows, vocabulary)."""
        return self.head.forward(self._hidden([[token] for token in tokens], states))

    def _hidden(self, ids: Sequence[Sequence[int]], states: States) -> Tensor:
        """The next tokens of each row -> what the head reads behind the last, (rows that have some, width)."""
        plan = Plan([len(one) for one in ids], states.filled, self.tokens.weight.dtype)
        states.reserve(plan.longest)
        x = self.tokens(torch.tensor([token for one in ids for token in one]))
        turn = None
        if self.places is not None:
            x = x + self.places(plan.places)
        if self.turns is not None:
            angles = (plan.places[:, None].float() * self.turns)[:, None]  # (tokens, 1, width / 2)
            cos, sin = angles.cos() * self.strength, angles.sin() * self.strength
            turn = torch.cat([cos, cos], -1).to(x.dtype), torch.cat([-sin, sin], -1).to(x.dtype)
        for layer, keys, values in zip(self.layers, states.keys, states.values):
            x = layer(x, plan, turn, keys, values)
        states.filled = plan.lengths
        return self.norm(x if not plan.parts else x[plan.last])


class PackedReading:
    """A batch of prompts, and what is written behind them, for `writing.token_loop.steps`."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], states: States | None = None) -> None:
        self.decoder, self.prompts = decoder, prompts
        self.states = states or decoder.states()

    def read(self, ids: Tensor) -> Tensor:
        """The logits behind the prompts, (rows, vocabulary)."""
        return self.decoder.read(self.prompts, self.states)

    def step(self, ids: Tensor) -> Tensor:
        """The logits behind the last of `ids` (rows, length)."""
        return self.decoder.step(ids[:, -1].tolist(), self.states)

    def keep(self, rows: Tensor, count: int) -> None:
        """Go on with some of the rows."""
        self.states.only(rows)


# --- the models that are known ---

def _plain(model: Any) -> bool:
    """Whether a model is transformers' own, nothing is hung into it, and oneDNN multiplies its numbers on this CPU."""
    weights = {(weight.dtype, weight.device.type) for weight in model.parameters()}
    fit = weights == {(torch.float32, "cpu")} or (
        weights == {(torch.bfloat16, "cpu")} and onednn_multiplies_bf16())
    hooks = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    known = all(type(part) is EightBit or type(part).__module__.startswith(("torch.nn.modules.", "transformers."))
                for part in model.modules())
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return (there and fit and known and not hooks and not model.training
            and attention_of(model) in ("sdpa", "eager"))


def _packed(part: nn.Module, *names: str) -> Product:
    """Pack layers of a part that read the same, in place; they are all of 8 bits, or none is."""
    linears = [getattr(part, name) for name in names]
    packed: Product = EightBit.joined(*linears) if isinstance(linears[0], EightBit) else Packed(*linears)
    start = 0
    for name, linear in zip(names, linears, strict=True):
        stop = start + (linear.nf if isinstance(linear, Conv1D) else linear.out_features)
        setattr(part, name, packed if len(names) == 1 else Share(packed, start, stop))
        start = stop
    return packed


class _RMS:
    """Llama's norm: divided by the root of the mean square, rounded, and times the weight (Zhang & Sennrich 2019)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps, self.width = weight, eps, weight.shape[-1]

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        normed: Tensor = x * length.square_().div_(self.width).add_(self.eps).rsqrt_()
        return self.weight * normed.to(x.dtype)


def _rms(norm: Any) -> _RMS:
    return _RMS(norm.weight, norm.variance_epsilon)


def _llama(model: Any) -> Decoder | None:
    """Llama and Qwen3, which also norms queries and keys."""
    config, base = model.config, model.model
    once = base.rotary_emb.rope_type not in ("dynamic", "longrope")  # these change their angles as a text grows
    if not once or set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return None
    heads, groups = config.num_attention_heads, config.num_key_value_heads

    def layer(block: Any) -> Layer:
        attention, feed = block.self_attn, block.mlp
        normed = None
        if config.model_type == "qwen3":
            one, other = attention.q_norm, attention.k_norm
            weight = torch.cat([one.weight.expand(heads, -1), other.weight.expand(groups, -1)])
            normed = _RMS(weight, one.variance_epsilon)
        return Layer((_rms(block.input_layernorm), _rms(block.post_attention_layernorm)),
                     _packed(attention, "q_proj", "k_proj", "v_proj"), normed, attention.scaling,
                     _packed(attention, "o_proj"), _packed(feed, "gate_proj", "up_proj"), True, feed.act_fn,
                     _packed(feed, "down_proj"))

    layers = tuple(layer(block) for block in base.layers)
    return Decoder(base.embed_tokens, None, base.rotary_emb.inv_freq.float(), base.rotary_emb.attention_scaling, layers,
                   _rms(base.norm), _packed(model, "lm_head"), groups, base.layers[0].self_attn.head_dim)


def _gpt2(model: Any) -> Decoder | None:
    """GPT-2."""
    config, base = model.config, model.transformer
    if config.add_cross_attention or config.reorder_and_upcast_attn:
        return None

    def layer(block: Any) -> Layer:
        qkv, feed = _packed(block.attn, "c_attn"), block.mlp
        return Layer((block.ln_1, block.ln_2), qkv, None, block.attn.scaling, _packed(block.attn, "c_proj"),
                     _packed(feed, "c_fc"), False, feed.act, _packed(feed, "c_proj"))

    layers = tuple(layer(block) for block in base.h)
    return Decoder(base.wte, base.wpe, None, 1.0, layers, base.ln_f, _packed(model, "lm_head"), config.n_head,
                   config.n_embd // config.n_head)
