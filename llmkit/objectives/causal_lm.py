"""Causal language modelling: predict each token from those before it (GPT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, Samples, Sums, part, seen_by, vocabulary
from llmkit.objectives.shared.places import at, chosen
from llmkit.objectives.shared.showing import gone_on
from llmkit.recipe import Positive
from llmkit.recipe.registry import OPTIONS
from llmkit.system.devices import on_host, sent
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

PARTS = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


@dataclass(config=OPTIONS)
class CausalLM(Objective):
    """Predict the next token (Bengio et al. 2003; Radford et al. 2018)."""

    add_eos_token: bool = True
    """Whether the end of a document is learned too, as a token after it."""
    negatives: Positive | None = None
    """Compare each target with so many sampled tokens of the vocabulary, not with all (Jean et al. 2015)."""
    fill_in_the_middle: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the segments whose middle goes to the end (Bavarian et al. 2022)."""
    spm_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of those, the share that begins with the suffix: suffix, prefix, middle."""

    shapes = frozenset({"decoder"})
    head = "AutoModelForCausalLM"
    goes_on = True

    def missing(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Tokens that mark the parts of a text whose middle is at the end."""
        if not self.fill_in_the_middle:
            return {}
        known = tokenizer.get_vocab()
        marks = [mark for mark in PARTS if mark not in known]
        return {"extra_special_tokens": marks} if marks else {}

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Each document between its begin and end tokens; the last token of a segment is only a target."""
        end = tokenizer.eos_token_id
        begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        marks = len(PARTS) if self.fill_in_the_middle else 0
        if max_length < marks + 2:
            raise RequestError(f"data.max_length: {max_length} leaves no room beside the three marks of "
                               "fill_in_the_middle.")
        return Layout(
            length=max_length + 1 - marks, room=max_length, overlap=1, shortest=2,
            positions=lambda lengths: lengths - 1 + marks,
            before=() if begin is None else (begin,), after=() if end is None or not self.add_eos_token else (end,))

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Labels are the inputs one step ahead.

        <s> the cat sat  ->  inputs <s> the cat, labels the cat sat

        With fill_in_the_middle, <s> stays in front and </s> behind:

        <s> the cat sat </s>  ->  <s> <prefix> the <suffix> sat <middle> cat </s>
        """
        ids = segment.astype(np.int64)
        if self.fill_in_the_middle and rng.random() < self.fill_in_the_middle:
            ids = self.rearranged(ids, rng, tokenizer)
        elif not self.fill_in_the_middle:
            return {"input_ids": segment[:-1], "labels": segment[1:].astype(np.int64)}
        return {"input_ids": ids[:-1], "labels": ids[1:]}

    def rearranged(
        self, ids: NDArray[np.int64], rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase,
    ) -> NDArray[np.int64]:
        """Cut a segment in three at two random places, and put the middle last (§3 of the paper: PSM and SPM)."""
        edge = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        first = int(ids[0] in edge)
        last = len(ids) - int(len(ids) > 1 and ids[-1] in edge)
        one, two = np.sort(rng.integers(first, last + 1, 2)).tolist()
        before, middle, after = ids[first:one], ids[one:two], ids[two:last]
        front, mid, back = (int(tokenizer.convert_tokens_to_ids(mark)) for mark in PARTS)  # type: ignore[arg-type]
        # the paper's SPM keeps both marks in front: suffix first, then prefix and middle as one text
        body = ([front], [back], after, [mid], before, middle) if rng.random() < self.spm_rate else (
            [front], before, [back], after, [mid], middle)
        return np.concatenate([ids[:first], *body, ids[last:]]).astype(np.int64)

    def finish(self, row: Features, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """The row's negatives, which all of its targets are compared with."""
        if self.negatives is None:
            return row
        return {**row, "negatives": log_uniform(self.negatives, vocabulary(tokenizer).rows, rng)}

    # ---- loss ----

    @property
    def unteachable(self) -> str:
        """Sampled tokens are no distribution."""
        return "" if self.negatives is None else (
            "with negatives, a target is compared with a few sampled tokens, and a teacher answers with the whole "
            "vocabulary; leave negatives out")

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """Cross-entropy; with negatives, against the sampled tokens."""
        if "negatives" not in batch:
            return super().loss(model, batch, family)
        inputs = dict(batch)
        labels, negatives = inputs.pop("labels"), inputs.pop("negatives")
        wanted = chosen(labels)
        name = family.heads[self.head]
        with seen_by(model, name, wanted) as hidden:
            family.outputs(model, inputs)
        counts = (on_host(labels) != -100).sum(1).tolist()
        return {"loss": sampled_softmax(hidden[0], part(model, name), at(labels, wanted), negatives, counts)}

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """How the model goes on with the beginning of each row."""
        return gone_on(model, batch, family, tokenizer)

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[tuple[Any, Any]]]:
        """By the whole vocabulary, however it was trained."""
        return super().judge(model, {k: v for k, v in batch.items() if k != "negatives"}, family)


def log_uniform(count: int, words: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ids drawn with P(k) = (log(k + 2) - log(k + 1)) / log(words + 1): Zipf's law, if ids go by frequency.

    A trained BPE numbers its merges from the most frequent on, so they nearly do. (TensorFlow's
    log_uniform_candidate_sampler.)
    """
    drawn: NDArray[np.int64] = np.exp(rng.random(count) * np.log(words + 1)).astype(np.int64) - 1
    return drawn.clip(0, words - 1)


def sampled_softmax(
    hidden: Tensor, head: nn.Module, labels: Tensor, negatives: Tensor, counts: Sequence[int],
) -> Tensor:
    """Cross-entropy of targets against sampled tokens, summed (Bengio & Senécal 2008; Jean et al. 2015).

    hidden (targets, width), labels (targets,), negatives (rows, N), counts: how many targets each row has. The
    logit of a sampled token is corrected by the log of how often it is expected in the sample, N q(k): together they
    estimate what all other tokens add to the softmax's sum, and approach it as N grows. A sampled token that is the
    target is left out.
    """
    import torch
    from torch.nn.functional import cross_entropy, embedding

    table: Tensor = head.weight  # type: ignore[assignment]
    bias: Any = head.bias
    words, count = len(table), negatives.shape[1]

    def expected(ids: Tensor) -> Tensor:
        return torch.log(count * (torch.log1p(1 / (ids.double() + 1)) / np.log(words + 1))).float()

    own = (hidden * embedding(labels, table)).sum(-1).float()
    parts = torch.split(hidden, list(counts))  # targets stand row by row
    rows = sent(torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)), hidden.device)
    others = torch.cat([some @ table[sample].T for some, sample in zip(parts, negatives, strict=True)]).float()
    if bias is not None:
        own, others = own + bias[labels], others + bias[negatives][rows]
    others = others - expected(negatives)[rows]
    others = others.masked_fill(negatives[rows] == labels[:, None], -torch.inf)
    logits = torch.cat([own[:, None], others], 1)
    return cross_entropy(logits, torch.zeros_like(labels), reduction="sum")
