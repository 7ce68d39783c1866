"""Contrastive learning: two dropout views of a text are close, other texts are far (SimCSE)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, Samples, Setup, Sums, token
from llmkit.objectives.shared.embedding import Pooling, describe, embed, found
from llmkit.objectives.shared.showing import neighbours, plain, rows_of
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError, RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")


@dataclass(config=OPTIONS)
class Contrastive(Objective):
    """An embedding of texts, without labels (Gao, Yao & Chen 2021): dropout is the only noise."""

    pooling: Pooling = "mean"
    """What of the last hidden states is the embedding: their mean, or the one of [CLS]."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """What cosines are divided by."""

    shapes = frozenset({"encoder"})
    head = "AutoModel"
    packings = ("none",)
    whole = True
    looked_at = 64
    idle = True  # a pooler that nothing reads

    def assemble(
        self, model: nn.Module, family: type[Family], tokenizer: PreTrainedTokenizerBase, folder: Path | None,
    ) -> nn.Module:
        """The model; a warning where nothing in it is left to chance."""
        config: Any = model.config
        fields = config.to_dict()
        rates = {name: rate for name, rate in fields.items() if "dropout" in name and isinstance(rate, float | int)}
        adapted = any(type(part).__name__ == "Dropout" and part.p for part in model.modules())  # an adapter's own
        if folder is None and not adapted and not any(rates.values()):
            names = ", ".join(f"{name}: 0.1" for name in rates)
            log.warning("contrastive: the model has no dropout, so both views of a text are the same, and it only "
                        "learns to tell texts apart%s", f"; set backbone.config: {{{names}}}" if names else "")
        return model

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """A document, or a part of one, between [CLS] and [SEP]; one of two tokens can be halved for an evaluation."""
        for role in ("cls", "sep"):
            token(tokenizer, role, "contrastive")
        if max_length < 4:
            raise RequestError(f"data.max_length: {max_length} leaves no room for a text between [CLS] and [SEP].")
        return Layout(length=max_length - 2, room=max_length, shortest=2, positions=lambda lengths: lengths + 2)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """The text as it is; the two views are made by dropout, in the loss.

        the cat sat  ->  [CLS] the cat sat [SEP]
        """
        ids = [tokenizer.cls_token_id, *segment.tolist(), tokenizer.sep_token_id]
        return {"input_ids": np.array(ids, dtype=np.int64)}

    @property
    def unteachable(self) -> str:
        """It compares texts with each other, and gives no answer of one."""
        return "it compares the rows of a step with each other, and a model says nothing of one row alone"

    def targets(self, batch: Batch) -> Sums:
        """One text a row."""
        import torch

        return {"loss": torch.tensor(len(batch["input_ids"]), device=batch["input_ids"].device)}

    def represent(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """Two embeddings of each row, from two passes with their own dropout: (rows, 2, width)."""
        import torch

        return torch.stack([self.embed(model, batch, family), self.embed(model, batch, family)], 1)

    def embed(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """One embedding a row: (rows, width)."""
        return embed(model, batch, family, self.pooling)

    def compare(self, representations: Tensor) -> Sums:
        """Find each first view's second among those of all rows (eq. 4 of the paper)."""
        import torch
        from torch.nn.functional import cross_entropy, normalize

        if len(representations) < 2:
            raise RequestError("training.global_batch_size: contrastive compares the rows of a step; take 2 or more.")
        first, second = normalize(representations.float(), dim=-1).unbind(1)
        cosines = first @ second.T / self.temperature
        return {"loss": cross_entropy(cosines, torch.arange(len(first), device=first.device), reduction="sum")}

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """The loss where these rows are all there are."""
        return self.compare(self.represent(model, batch, family))

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """Of some texts, those of the batch whose embeddings are nearest."""
        texts = [plain(row[1:-1], tokenizer) for row in rows_of(batch["input_ids"], batch)]
        return neighbours(self.embed(model, batch, family), texts) if len(texts) > 1 else []

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[tuple[Any, Any]]]:
        """A pair of embeddings a row: of its text's first and second half. They are compared once all are there."""
        import torch

        halves = [self.embed(model, part, family).float().cpu() for part in halved(batch)]
        pairs = list(zip(halves[0].tolist(), halves[1].tolist(), strict=True))
        whole = all(half.isfinite().all() for half in halves)
        return {"loss": torch.tensor(0.0 if whole else torch.nan, device=batch["input_ids"].device)}, pairs

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """How well a text's second half is found among all second halves, given the first.

        `loss` as in training, with all rows as negatives; `accuracy`: the right one is the closest; `alignment` and
        `uniformity` (Wang & Isola 2020, eq. 1 and 2, alpha = 2, t = 2): less is better.
        """
        import torch
        from torch.nn.functional import normalize

        if len(pairs) < 2:
            raise DataError("data.validation: contrastive compares rows; there is only one.")
        pairs = sorted(pairs)  # the same sums in the same order, however rows were shared
        halves = zip(*pairs, strict=True)
        first, second = (normalize(torch.tensor(half, dtype=torch.float64), dim=-1) for half in halves)
        near = []
        for start in range(0, len(first), 1024):
            rows = slice(start, start + 1024)
            others = torch.exp(-2 * (2 - 2 * first[rows] @ first.T))
            others.scatter_(1, torch.arange(start, start + len(others))[:, None], 0)
            near.append(others.sum(1))
        count = len(first)
        return {**found(first, second, self.temperature),
                "alignment": float((first - second).square().sum(1).mean()),
                "uniformity": float((torch.cat(near).sum() / (count * (count - 1))).log())}

    def describe(self, folder: Path, setup: Setup) -> None:
        """Write the files by which sentence-transformers opens the model with its pooling."""
        describe(folder, self.pooling)


def halved(batch: Batch) -> tuple[Batch, Batch]:
    """The first and the second half of each row's text, each between the row's first and last token.

    [CLS] a b c [SEP]  ->  [CLS] a [SEP],  [CLS] b c [SEP]
    """
    import torch

    ids = batch["input_ids"]
    lengths = batch["attention_mask"].sum(1) if "attention_mask" in batch else ids.new_full((len(ids),), ids.shape[1])
    halves: list[list[Tensor]] = [[], []]
    for row, length in zip(ids, lengths.tolist(), strict=True):
        middle = 1 + (length - 2) // 2
        for part, (start, stop) in zip(halves, ((1, middle), (middle, length - 1)), strict=True):
            part.append(torch.cat([row[:1], row[start:stop], row[length - 1 : length]]))
    out = []
    for part in halves:
        padded = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        places = torch.arange(padded.shape[1], device=ids.device)
        mask = places[None] < torch.tensor([len(one) for one in part], device=ids.device)[:, None]
        out.append({"input_ids": padded, "attention_mask": mask.long()})
    return out[0], out[1]
