"""Denoising: spoil a text, write it whole again (BART)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.tokenizer_files import rows_for
from llmkit.data.tokens import Ids
from llmkit.objectives.base import Objective, Samples, token
from llmkit.objectives.shared.showing import written
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn
    from transformers import PreTrainedTokenizerBase

ENDS = (".", "!", "?", "。", "！", "？", "…")


@dataclass(config=OPTIONS)
class Denoising(Objective):
    """Text infilling, sentence permutation, token deletion (Lewis et al. 2020, §2.2)."""

    mask_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of the tokens that are inside masked spans."""
    poisson_lambda: Annotated[float, Field(gt=0)] = 3.0
    """Mean length of a span; each becomes one mask, one of no tokens a mask more."""
    permute_sentence_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the sentences that change places."""
    delete_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the tokens that are taken out without a trace."""

    shapes = frozenset({"encoder-decoder"})
    head = "AutoModelForSeq2SeqLM"

    def missing(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """A mask, which T5's and Marian's tokenizers lack."""
        return {} if tokenizer.mask_token_id is not None else {"mask_token": "<mask>"}

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """Each side between <s>, where the tokenizer has one, and </s>; inserted masks are left out of a full row."""
        end = token(tokenizer, "eos", "denoising")
        token(tokenizer, "mask", "denoising")
        around = 1 + (tokenizer.bos_token_id is not None)
        if max_length < around + 2:
            raise RequestError(f"data.max_length: {max_length} is too short for denoising.")
        between = (end,) if packing == "blocks" else ()
        return Layout(length=max_length - around, room=max_length, after=between, shortest=2,
                      positions=lambda lengths: lengths + around)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Spoil a segment.

        a b c . d e .  ->  inputs <s> d <mask> . a b <mask> </s>, labels <s> a b c . d e . </s>

        In a block, each document between two </s> is spoilt by itself, and these stay.
        """
        ids, end = segment.astype(np.int64), tokenizer.eos_token_id
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        stops = np.flatnonzero(ids == end)
        pieces = np.split(ids, np.sort(np.concatenate([stops, stops + 1])))
        spoilt = [piece if end in piece else self.spoil(piece, rng, tokenizer) for piece in pieces if len(piece)]
        labels = np.concatenate([begin, ids, [end]]).astype(np.int64)
        return {
            "input_ids": np.concatenate([begin, *spoilt, [end]]).astype(np.int64),
            "decoder_input_ids": np.concatenate([[tokenizer.pad_token_id], labels[:-1]]).astype(np.int64),
            "labels": labels,
        }

    def spoil(
        self, ids: NDArray[np.int64], rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase,
    ) -> NDArray[np.int64]:
        """Permute sentences, delete tokens, mask spans; no more tokens come out than went in."""
        spoilt = permuted(ids, sentence_ends(tokenizer), self.permute_sentence_ratio, rng)
        if self.delete_ratio:
            spoilt = spoilt[rng.permutation(len(spoilt)) >= round(self.delete_ratio * len(spoilt))]
        return infilled(
            spoilt, self.mask_ratio, self.poisson_lambda, int(tokenizer.mask_token_id), len(ids), rng)

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """What is read, and what has to be written, with the model's guess at each token."""
        return written(self.at_targets(model, batch, family), batch, tokenizer)


def infilled(
    ids: NDArray[np.int64], share: float, mean: float, mask: int, most: int, rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Replace spans by one mask each; their lengths are Poisson with this mean, their places random.

    Lengths are drawn until `share` of the tokens is used up, the last one cut to fit (fairseq's rule); a length of 0
    inserts a mask, as long as there are no more than `most` tokens. No span overlaps another.
    """
    left = math.ceil(share * len(ids))
    lengths: list[int] = []
    while left > 0:
        lengths.append(min(left, int(rng.poisson(mean))))
        left -= lengths[-1]
    spans = [length for length in lengths if length]
    clean = len(ids) - sum(spans)
    # the clean tokens go before, between and after the spans: a random place for each span among them
    places = np.sort(rng.integers(0, clean + 1, len(spans)))
    out: list[int] = []
    taken, kept = 0, 0
    for place, length in zip(places.tolist(), spans, strict=True):
        out += [*ids[taken : taken + place - kept].tolist(), mask]
        taken, kept = taken + place - kept + length, place
    out += ids[taken:].tolist()
    for _ in range(min(len(lengths) - len(spans), most - len(out))):
        out.insert(int(rng.integers(0, len(out) + 1)), mask)
    return np.array(out, dtype=np.int64)


def permuted(
    ids: NDArray[np.int64], ends: frozenset[int], share: float, rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Let a share of the sentences change places: a b . c . d e .  ->  d e . a b . c ."""
    stops = [i + 1 for i, number in enumerate(ids.tolist()) if number in ends]
    if not stops or stops[-1] < len(ids):
        stops.append(len(ids))
    sentences = [ids[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    chosen = rng.permutation(len(sentences))[: math.ceil(share * len(sentences))]
    order = np.arange(len(sentences))
    order[np.sort(chosen)] = chosen
    return np.concatenate([sentences[i] for i in order])


@lru_cache(maxsize=8)
def sentence_ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of tokens that end a sentence, by what they are decoded to."""
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[i] for i in range(rows_for(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if i not in special and text.rstrip().endswith(ENDS))
