"""Next sentence prediction: does the second segment follow the first, or is it from elsewhere? (BERT)."""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.data.tokens import Ids
from llmkit.objectives.shared.pairs import Rows, next_pair
from llmkit.objectives.shared.relation import Relation
from llmkit.recipe.registry import OPTIONS


@dataclass(config=OPTIONS)
class NextSentence(Relation):
    """Tell whether B follows A (Devlin et al. 2019, §3.1, task 2)."""

    told_of = "next"
    elsewhere = True

    def cut(self, rows: Rows, row: int, rng: np.random.Generator) -> tuple[Ids, Ids, int]:
        """Cut a row in two; half the time, what follows is of another document.

        the cat sat . it slept .  ->  [CLS] the cat sat . [SEP] it slept . [SEP], label 0
                                  or  [CLS] the cat sat . [SEP] prices fell . [SEP], label 1
        """
        return next_pair(rows, row, rng)
