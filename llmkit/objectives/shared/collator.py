"""An objective as the data collator of anybody's own loop: token ids in, a batch out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from llmkit import recipe as recipes
from llmkit.objectives.base import Objective, Setup, Text
from llmkit.recipe import registry
from llmkit.system.errors import DataError, RequestError

if TYPE_CHECKING:
    from llmkit.data.batches import Batch, Features


def listed(missing: Mapping[str, Any]) -> str:
    """Tokens that a tokenizer lacks, in words: mask_token <mask>; 100 tokens, <extra_id_0> … <extra_id_99>."""
    several = [tokens for tokens in missing.values() if isinstance(tokens, list)]
    one = [f"{role} {token}" for role, token in missing.items() if not isinstance(token, list)]
    return ", ".join([*one, *(f"{len(tokens)} tokens, {tokens[0]} … {tokens[-1]}" if len(tokens) > 1 else str(tokens[0])
                              for tokens in several)])


class DataCollator:
    """Draws rows for an objective and pads them to a batch: a `collate_fn` for torch's DataLoader.

        collator = llmkit.DataCollator("masked_lm", tokenizer, mlm_probability=0.3)
        loader = DataLoader(rows, batch_size=16, collate_fn=collator)      # rows: [{"input_ids": [7, 12, …]}, …]

    objective    the name of an objective that learns from texts by themselves, with its options as in a recipe
    family       the backbone's, which must be of a shape that the objective fits: gpt2 for causal_lm, t5 …
    max_length   positions of a row at most; what is longer is cut
    seed         with `epoch` and a row's own ids, it decides all chance: the same row of the same epoch is drawn in the
                 same way in any worker, process and order. Set `epoch` before each pass; a Trainer doesn't.

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
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise RequestError(f"tokenizer: a tokenizer of transformers is needed, not a {type(tokenizer).__name__}.")
        self.objective: Objective = recipes.plugin("objective", {"name": objective, **options}, "DataCollator")
        if "blocks" not in self.objective.packings:
            raise RequestError(f"{objective} makes its rows from more than one text; train it by llmkit.fit.")
        if missing := self.objective.missing(tokenizer):
            raise RequestError(f"{objective}: the tokenizer lacks {listed(missing)}; add what "
                               "collator.objective.missing(tokenizer) says by tokenizer.add_special_tokens, and resize "
                               "the model's embeddings.")
        self.family = registry.find("backbones", family)
        recipes.fit_together(self.objective, family, self.family)
        layout = self.objective.layout(tokenizer, max_length, "none")
        self.before, self.after, self.length, self.shortest = (
            layout.before, layout.after, layout.length, layout.shortest)
        self.setup = Setup(tokenizer, self.family, max_length, "none", seed)
        # shared with workers, which may live through all passes
        self.passes = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """Which pass over the rows it is."""
        return int(self.passes)

    @epoch.setter
    def epoch(self, number: int) -> None:
        self.passes.fill_(number)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Rows, each with its `input_ids`, to one batch; other fields are left aside."""
        if not rows:
            raise DataError("a batch needs one row at least.")
        return self.objective.collate([self.draw(row, number) for number, row in enumerate(rows)], self.setup.tokenizer)

    def draw(self, row: Mapping[str, Any], number: int = 0) -> Features:
        """One row's features, of one length each; DataError where it has no ids, or too few to learn from."""
        if "input_ids" not in row:
            raise DataError(f"row {number}: has no input_ids; it has {', '.join(map(str, row)) or 'no field'}.")
        given = np.asarray(row["input_ids"])
        whole = given.ndim == 1 and (given.dtype.kind in "iu" or not len(given))
        if not whole or (len(given) and not 0 <= given.min() <= given.max() < len(self.setup.tokenizer)):
            raise DataError(f"row {number}: input_ids must be a list of whole numbers from 0 to "
                            f"{len(self.setup.tokenizer) - 1}, the tokenizer's.")
        segment = np.array([*self.before, *given, *self.after][: self.length], np.int64)
        if len(segment) < self.shortest:
            raise DataError(f"row {number}: {len(segment)} tokens are too few to learn from; {self.shortest} or more.")
        content = int.from_bytes(blake2b(segment.tobytes(), digest_size=8).digest(), "little")
        rng = np.random.default_rng((self.setup.seed, self.epoch, content))
        return Text(self.objective, [[segment]], self.setup).draw(0, rng)
