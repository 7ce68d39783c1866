"""The special tokens that a tokenizer puts around two texts, read from what it does with a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmkit.data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Frame:
    """[CLS] first [SEP] second [SEP] of BERT, <s> first </s> </s> second </s> of RoBERTa …"""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    cls: int | None
    """The token that stands for the whole row, where there is one."""
    types: tuple[int, ...] = ()
    """The segment of each of the five parts, where the tokenizer tells segments apart; special tokens by their own."""

    @property
    def size(self) -> int:
        """Tokens beside the two texts."""
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Sequence[int], second: Sequence[int]) -> tuple[dict[str, list[int]], int]:
        """The row, and the position where the second text starts."""
        parts = (self.before, first, self.between, second, self.after)
        features = {"input_ids": [number for part in parts for number in part]}
        if self.types:
            specials = iter(self.types)
            left, right = next(specials), next(specials)
            features["token_type_ids"] = [
                *(next(specials) for _ in self.before), *[left] * len(first), *(next(specials) for _ in self.between),
                *[right] * len(second), *(next(specials) for _ in self.after)]
        return features, len(self.before) + len(first) + len(self.between)

    def null(self, ids: Sequence[int]) -> int:
        """The position that says there is no answer: of the token for the whole row, else the last."""
        if self.cls in self.before:
            return self.before.index(self.cls)
        if self.cls in self.after:
            return len(ids) - len(self.after) + self.after.index(self.cls)
        return len(ids) - 1


def frame_of(tokenizer: PreTrainedTokenizerBase, ends: bool) -> Frame:
    """What is around a pair; a line's end parts two texts that a tokenizer has nothing between.

    ends      whether a row closes with the end token though the tokenizer doesn't say so: a decoder has seen all there
    """
    (bare,) = encode(tokenizer, ["a"])
    pair = tokenizer("a", "a")
    ids, types = list(pair["input_ids"]), pair.get("token_type_ids")
    spots = [i for i in range(len(ids)) if ids[i : i + len(bare)] == bare]
    first, second = spots[0], next(spot for spot in spots if spot >= spots[0] + len(bare))
    stop, end = first + len(bare), second + len(bare)
    between = ids[stop:second] or encode(tokenizer, ["\n"])[0]
    after = ids[end:]
    if ends and not after and tokenizer.eos_token_id is not None:
        after = [tokenizer.eos_token_id]
    told: tuple[int, ...] = ()
    if types is not None and ids[stop:second] and after == ids[end:]:
        told = (types[first], types[second], *types[:first], *types[stop:second], *types[end:])
    return Frame(tuple(ids[:first]), tuple(between), tuple(after), tokenizer.cls_token_id, told)
