"""One text's form while it is written: which tokens may come next."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from llmkit.inference.constraining.schema import grammar_of
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from torch import Tensor

STUCK = ("NoExtension", "NoExtensionBias")
"""How llguidance calls it where no token fits."""


class Constraint:
    """The grammar of a schema's JSON, matched with the tokens that were written so far."""

    def __init__(self, tokens: LLTokenizer, schema: str, ends: Collection[int]) -> None:
        from llguidance import LLMatcher

        self.tokens, self.ends = tokens, ends
        self._matcher = LLMatcher(tokens, grammar_of(schema), log_level=0)
        self._mask: Tensor | None = None
        self.taken = 0
        """Tokens so far."""

    @property
    def whole(self) -> bool:
        """Whether the text is whole and nothing can follow."""
        return bool(self._matcher.is_stopped() and self._matcher.is_accepting())

    def take(self, token: int) -> None:
        """The next token, which was allowed."""
        self._matcher.consume_token(token)
        self._mask = None
        self.taken += 1

    def allowed(self, size: int) -> Tensor:
        """Which of the tokens 0 to size - 1 may come next, (size), bool; an end may where the text is whole.

        RequestError where none may: the tokens can't write what the schema asks for, or it asks for too much.
        """
        import torch

        if self._mask is not None and len(self._mask) == size:
            return self._mask
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
        mask = np.pad(mask, (0, size - len(mask)))
        accepting = self._matcher.is_accepting()
        for end in {self.tokens.eos_token, *self.ends}:
            if end < size:
                mask[end] = accepting and end in self.ends
        if not mask.any():
            said = self._matcher.get_error().partition("<state>")[0].strip()
            more = f" ({said[:200]})" if said and said not in STUCK else ""
            raise RequestError("json_schema: no token of the model goes on with what the schema asks for after "
                               f"{self.taken:,} tokens{more}.")
        self._mask = torch.from_numpy(mask)
        return self._mask
