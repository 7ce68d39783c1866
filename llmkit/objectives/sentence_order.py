"""Sentence order prediction: two segments that follow each other, in their order or swapped? (ALBERT)."""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.data.tokens import Ids
from llmkit.objectives.shared.pairs import Rows, order_pair
from llmkit.objectives.shared.relation import Relation
from llmkit.recipe.registry import OPTIONS


@dataclass(config=OPTIONS)
class SentenceOrder(Relation):
    """Tell whether two consecutive segments were swapped (Lan et al. 2020, §3.1)."""

    told_of = "order"
    elsewhere = False

    def cut(self, rows: Rows, row: int, rng: np.random.Generator) -> tuple[Ids, Ids, int]:
        """Cut a row in two; half the time, swap the two.

        the cat sat . it slept .  ->  [CLS] the cat sat . [SEP] it slept . [SEP], label 0
                                  or  [CLS] it slept . [SEP] the cat sat . [SEP], label 1
        """
        return order_pair(rows, row, rng)
