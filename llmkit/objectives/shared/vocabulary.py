"""What drawing a row asks of a tokenizer, looked up once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmkit.data.tokenizer_files import rows_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Vocabulary:
    """What drawing a row asks of a tokenizer, looked up once: a tokenizer takes longer to say it than a row to draw."""

    cls: int | None
    sep: int | None
    mask: int | None
    special: NDArray[np.int64]
    """The ids of special tokens, and those that stand for no token, sorted."""
    rows: int
    """The largest id and one."""

    def plain(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which ids aren't special; np.isin takes four times as long for a row."""
        if not len(self.special):
            return np.ones(len(ids), np.bool_)
        found: NDArray[np.bool_] = self.special[np.searchsorted(self.special[:-1], ids)] != ids
        return found


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """A tokenizer's, found anew when tokens were added to it."""
    return _vocabulary(tokenizer, len(tokenizer))


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    rows = rows_for(tokenizer)
    empty = set(range(rows)) - set(tokenizer.get_vocab().values()) if rows > size else set()
    special = np.array(sorted({*tokenizer.all_special_ids, *empty}), np.int64)
    return Vocabulary(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id, special, rows)
