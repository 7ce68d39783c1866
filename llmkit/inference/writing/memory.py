"""Memory: of a prompt that begins as a text did that was read, only the rest is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache

    from llmkit.backbones.kernels.packed_decoder import States


@dataclass(frozen=True)
class Kept:
    """What a decoder remembers of a text."""

    ids: list[int]
    states: list[tuple[Tensor, Tensor]]
    """Keys and values by layer, (1, heads, places, width)."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.states)


@dataclass
class PrefixMemory:
    """What a decoder has read: keys and values of whole texts."""

    least: int = 1
    """Tokens that a prompt must share with a text, so that it is worth copying what is known of them."""
    limit: int | None = None
    """Bytes that are kept, the latest texts first; None: the latest text alone, however long."""
    kept: list[Kept] = field(default_factory=list)
    """The latest last."""

    def recall(self, prompt: Sequence[int], cache: DynamicCache | States, before: int = 0) -> int:
        """Fill an empty cache with what is known of a prompt's beginning; how many of its tokens that are.

        Its last token isn't among them: it has to be read for what follows. `before`: places before the first token of
        each text, an adapter's.
        """
        best, shared = None, self.least - 1
        for kept in self.kept:
            unlike = (i for i, pair in enumerate(zip(kept.ids, prompt[:-1])) if pair[0] != pair[1])
            same = next(unlike, min(len(kept.ids), len(prompt) - 1))
            if same > shared:
                best, shared = kept, same
        if best is None:
            return 0
        fill(cache, best.states, before + shared)
        return shared

    def keep(self, ids: list[int], states: list[tuple[Tensor, Tensor]]) -> None:
        """Remember a text; those that it goes on from, and the oldest, make room."""
        if self.limit is None:
            self.kept = []
        self.kept = [one for one in self.kept if one.ids != ids[: len(one.ids)]]
        self.kept.append(Kept(ids, states))
        while self.limit is not None and sum(one.bytes for one in self.kept) > self.limit:
            self.kept.pop(0)


def fill(cache: DynamicCache | States, states: Sequence[tuple[Tensor, Tensor]], places: int) -> None:
    """Put the first places of the keys and values of each layer into an empty cache; they are copied."""
    from llmkit.backbones.kernels.packed_decoder import States

    known = [(keys[:, :, :places], values[:, :, :places]) for keys, values in states]
    if isinstance(cache, States):
        cache.keys, cache.values = [keys.clone() for keys, _ in known], [values.clone() for _, values in known]
        cache.filled = [places]
        return
    for layer, (keys, values) in enumerate(known):
        cache.update(keys, values, layer)


def pairs_of(cache: DynamicCache | States) -> list[tuple[Tensor, Tensor]]:
    """The keys and values of each layer, (1, heads, places, width), of one text that was read."""
    from llmkit.backbones.kernels.packed_decoder import States

    if isinstance(cache, States):
        here = slice(None), slice(None), slice(cache.get_seq_length())
        return [(keys[here], values[here]) for keys, values in zip(cache.keys, cache.values, strict=True)]
    return [(layer["keys"], layer["values"]) for layer in map(vars, cache.layers)]
