"""Which words of a vocabulary a soft prompt is nearest to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

AT_ONCE = 8192
"""Embeddings that a prompt is compared with together: a table of 250,000 isn't copied whole in each step."""
SPARE = 4
"""More candidates than are wanted: a product of matrices rounds, and the nearest are measured again without one."""
CONTROL = re.compile(r"[\[<].+[\]>]")
"""How tokens are written that aren't words, though no tokenizer lists them as special: [unused7], <0x0A>."""


@dataclass(frozen=True)
class Nearest:
    """The words that stand nearest to each row of a prompt, the nearest first."""

    ids: Tensor
    """(virtual, k)"""
    embeddings: Tensor
    """(virtual, k, width)"""
    squared: Tensor
    """(virtual, k): squared Euclidean distances."""


class WordEmbeddings:
    """The embeddings of a model that are words', as its body reads them; no module, for the model has them already."""

    def __init__(self, embedding: nn.Module, ids: Sequence[int]) -> None:
        self.embedding, self.ids = embedding, torch.tensor(ids, dtype=torch.long)

    @torch.no_grad()
    def nearest(self, rows: Tensor, count: int = 1) -> Nearest:
        """The `count` words nearest to each row (virtual, width), by Euclidean distance; of equals the first."""
        rows = rows.detach().float()
        with torch.autocast(rows.device.type, enabled=False):
            best, chosen = rows.new_zeros(len(rows), 0), rows.new_zeros(len(rows), 0, dtype=torch.long)
            for start in range(0, len(self.ids), AT_ONCE):
                some = self.ids[start : start + AT_ONCE].to(rows.device)
                words = self.words(some)
                squares = words.square().sum(1) - 2 * rows @ words.T  # less the row's own, which all of them share
                best = torch.cat([best, squares], 1)
                chosen = torch.cat([chosen, some.expand(len(rows), -1)], 1)
                best, order = best.topk(min(count + SPARE, best.shape[1]), largest=False)
                chosen = chosen.gather(1, order)
            words = self.words(chosen)
            exact = (rows[:, None] - words).square().sum(2)
            squared, order = exact.sort(stable=True, dim=1)
            order = order[:, :count]
            return Nearest(chosen.gather(1, order), words.gather(1, order[:, :, None].expand(-1, -1, words.shape[2])),
                           squared[:, :count])

    def words(self, ids: Tensor) -> Tensor:
        """(…) -> (…, width)"""
        found: Tensor = self.embedding(ids.flatten()[None])[0].float()
        return found.view(*ids.shape, -1)


def projected(rows: Tensor, table: WordEmbeddings) -> Tensor:
    """Each row's nearest word in its place, to the bit; the gradient goes to the row (Wen et al. 2023, algorithm 1).

    The soft prompt is moved by the gradient at the words, and never seen by the model.
    """
    words = table.nearest(rows).embeddings[:, 0].to(rows.dtype)
    return words + (rows - rows.detach())  # the latter is 0


def strayed(rows: Tensor, table: WordEmbeddings) -> Tensor:
    """The mean over the rows of the squared distance to the nearest word, which stays where it is."""
    return (rows - table.nearest(rows).embeddings[:, 0]).square().sum(1).mean()


def plain_tokens(tokenizer: PreTrainedTokenizerBase | None, rows: int) -> list[int]:
    """The ids below `rows` that are words or pieces of words: no special token, no [unused1], no <0x0A>."""
    if tokenizer is None:
        return list(range(rows))
    special = set(tokenizer.all_special_ids)
    return sorted({number for word, number in tokenizer.get_vocab().items()
                   if number < rows and number not in special and not CONTROL.fullmatch(word)})


def table_of(embedding: Any, tokenizer: PreTrainedTokenizerBase | None) -> WordEmbeddings:
    """The words of a model with this embedding and tokenizer."""
    return WordEmbeddings(embedding, plain_tokens(tokenizer, int(embedding.weight.shape[0])))


def listed(rows: Tensor, table: WordEmbeddings, count: int) -> list[list[tuple[int, float, float]]]:
    """Of each row, its nearest words as (id, cosine, distance), the nearest by distance first."""
    found = table.nearest(rows, count)
    cosines = cosine_similarity(rows.float()[:, None], found.embeddings, dim=2)
    return [list(zip(*(part[i].tolist() for part in (found.ids, cosines, found.squared.sqrt())), strict=True))
            for i in range(len(rows))]
