"""An objective as the data collator of anybody's own loop: token ids in, a batch out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit import recipe as recipes
from llmkit.objectives.base import Objective, Setup, Text
from llmkit.recipe import registry
from llmkit.system.errors import DataError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmkit.data.batches import Batch, Features


class DataCollator:
    """Draws rows for an objective and pads them to a batch: a `collate_fn` for torch's DataLoader or a Trainer.

        collator = llmkit.DataCollator("masked_lm", tokenizer, mlm_probability=0.3)
        loader = DataLoader(rows, batch_size=16, collate_fn=collator)      # rows: [{"input_ids": [7, 12, …]}, …]

    objective    the name of an objective that learns from texts by themselves, with its options as in a recipe
    family       the backbone's, where that matters: with which token a decoder starts (t5, bart)
    max_length   positions of a row at most; what is longer is cut
    seed         with `epoch` and a row's own ids, it decides all chance: the same row of the same epoch is drawn in the
                 same way in any worker, process and order. Set `epoch` before each pass.

    `input_ids` are those of a text without special tokens. A batch holds tensors of (rows, longest), in transformers'
    names: `input_ids`, `labels` (-100 where nothing is asked), `attention_mask` where a row is padded. Labels stand
    where they are predicted: those of decoders are shifted already, so their loss is a plain cross-entropy, or
    `collator.objective.loss(model, batch, collator.family)`, which sums it. RequestError where the objective makes its
    rows from more than one text, or the tokenizer lacks a token that it needs.
    """

    def __init__(
        self, objective: str, tokenizer: PreTrainedTokenizerBase, family: str = "bert", max_length: int = 128,
        seed: int = 42, **options: Any,
    ) -> None:
        self.objective: Objective = recipes.plugin("objective", {"name": objective, **options}, "DataCollator")
        if "blocks" not in self.objective.packings:
            raise RequestError(f"{objective} makes its rows from more than one text; train it by llmkit.fit.")
        if missing := self.objective.missing(tokenizer):
            raise RequestError(f"{objective}: the tokenizer lacks {', '.join(missing)}; add them by "
                               f"tokenizer.add_special_tokens({missing!r:.200}), and resize the model's embeddings.")
        self.family = registry.find("backbones", family)
        self.layout = self.objective.layout(tokenizer, max_length, "none")
        self.setup = Setup(tokenizer, self.family, max_length, "none", seed)
        self.epoch = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Rows, each with its `input_ids`, to one batch; other fields are left aside."""
        return self.objective.collate([self.draw(row, number) for number, row in enumerate(rows)], self.setup.tokenizer)

    def draw(self, row: Mapping[str, Any], number: int = 0) -> Features:
        """One row's features, of one length each; DataError where it has no ids, or too few to learn from."""
        if "input_ids" not in row:
            raise DataError(f"row {number}: has no input_ids; it has {', '.join(map(str, row)) or 'no field'}.")
        ids = [*self.layout.before, *map(int, row["input_ids"]), *self.layout.after][: self.layout.length]
        if len(ids) < self.layout.shortest:
            raise DataError(f"row {number}: {len(ids)} tokens are too few to learn from; {self.layout.shortest} are "
                            "needed.")
        segment = np.array(ids, np.int64)
        content = int.from_bytes(blake2b(segment.tobytes(), digest_size=8).digest(), "little")
        rng = np.random.default_rng((self.setup.seed, self.epoch, content))
        return Text(self.objective, [[segment]], self.setup).draw(0, rng)
