"""Memory: of a text that begins as one did that was read, only the rest is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Memory:
    """What a decoder has read: of a text that starts in the same way, only the rest is read."""

    ids: list[int] = field(default_factory=list)
    cache: Any = None
    """Keys and values of these tokens in all layers, as the model's own forward or the decoder keeps them."""

    def shared(self, prompt: Sequence[int], empty: Callable[[], Any]) -> Any:
        """The cache of as much of a prompt as is known, without its last token, which has to be read for what follows.

        `empty` makes one that holds nothing: None where the model keeps anything but all keys and values, for what it
        forgets can't be taken back.
        """
        same = next((i for i, (one, other) in enumerate(zip(self.ids, prompt)) if one != other),
                    min(len(self.ids), len(prompt)))
        same = min(same, len(prompt) - 1)
        if self.cache is None or same == 0:
            self.cache = empty()
        elif same < self.cache.get_seq_length():
            self.cache.crop(same - self.cache.get_seq_length())
        self.ids = []  # unknown, until it is written to the end
        return self.cache

    def keep(self, ids: Sequence[int]) -> None:
        """What the cache holds now: these, as far as they were read."""
        self.ids = [] if self.cache is None else list(ids[: self.cache.get_seq_length()])
