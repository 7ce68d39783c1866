"""Does an encoder still tell tokens apart? After a pretraining that went wrong all of them end in one vector."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llmkit.backbones.kernels.privates import by_sdpa
from llmkit.data.batches import Drawn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmkit.planning.settle import Settled
    from llmkit.training.session import Session

log = logging.getLogger("llmkit")

TEXTS, LONGEST = 8, 128
"""How many rows are looked at, and how many tokens of each at most: no more than a row of the recipe may have."""
ROGUE = 50
"""One dimension of so many is left out, those with the largest means: a few that are large in every token make all
cosines nearly 1 in healthy models too (Timkey and van Schijndel 2021, "Rogue Dimensions")."""
ALIKE = 0.999
"""The mean cosine of two tokens' vectors from which a model has collapsed.

MiniLM has .11, a BERT of 4 layers from random weights .30. The same BERT has .9998 where sentence_order at 1e-3 broke
it (loss .59, then .69 again), and .99996 on masked_lm's plateau, where it predicts word frequencies and nothing else.
Its embeddings then get a thousandth of the gradient that they get in one of random weights. At 3e-4 it has .89.
"""
NEARLY = 0.9
"""The mean cosine from which a model is on its way there, and fine-tuning starts late.

A BERT of 4 layers has .91 after 150 steps of next_sentence at 1e-3: its embeddings get a tenth of the gradient of
random weights, and after 120 steps of fine-tuning on SST-2 it says what is most frequent, with a new pooler too, where
random weights are at .62. At .89 (sentence_order at 3e-4) it moves, to .63 in 150 steps (random weights: .69); at .86
(replaced_token at 1e-3) its embeddings get 40 % of the gradient.
"""


def before_tuning(settled: Settled, model: PreTrainedModel, sets: Sequence[Any]) -> None:
    """Say where the pretrained encoder that a task starts from has collapsed."""
    base = settled.base
    if base is None or settled.recipe.task is None or settled.recipe.backbone.quantization_config is not None:
        return
    cosine = likeness(settled, model, sets)
    if cosine is not None and cosine > ALIKE:
        log.warning(
            "%s has collapsed: all tokens leave it as nearly the same vector (mean cosine %.5f), and such layers pass "
            "almost no gradient down, so this run will hardly learn. Pretrain it again at a lower rate, or start from "
            "random weights", base.name, cosine)
    elif cosine is not None and cosine > NEARLY:
        log.warning(
            "%s is close to collapse: its tokens leave it much alike (mean cosine %.2f; random weights have about .3), "
            "and such layers pass little gradient down, so this run may start late, a new pooler or not. Pretrain it "
            "longer or at a lower rate, or compare with random weights", base.name, cosine)


def after_pretraining(session: Session) -> None:
    """Say where the encoder that a pretraining leaves has collapsed; one in parts can't be asked by one process."""
    recipe = session.recipe
    if recipe.task is not None or recipe.tuning.adapter or session.spread.even:
        return
    cosine = likeness(session.settled, session.learner.tuned, session.sets.train)
    if cosine is not None and cosine > ALIKE:
        log.warning(
            "the model has collapsed: all tokens leave it as nearly the same vector (mean cosine %.5f), and such "
            "layers pass almost no gradient down: it is no start for fine-tuning. Mostly the rate was too high: train "
            "again with training.learning_rate=%.2g", cosine, (recipe.training.learning_rate or 0.0) / 3)
    elif cosine is not None and cosine > NEARLY:
        log.warning(
            "the model is close to collapse: its tokens leave it much alike (mean cosine %.2f; random weights have "
            "about .3). Fine-tuned it may start late: train longer, or with training.learning_rate=%.2g",
            cosine, (recipe.training.learning_rate or 0.0) / 3)


def likeness(settled: Settled, model: PreTrainedModel, sets: Sequence[Any]) -> float | None:
    """The mean cosine of a few training rows' tokens; None of other models than encoders, and of rows of several texts.

    A decoder's vectors are alike in health too: GPT-2's have a cosine of .99 in its top layer (Ethayarajh 2019, §4.1).
    """
    if settled.family.shape != "encoder":
        return None
    drawn = Drawn(sets, seed=0)
    rows = [drawn[0, row].get("input_ids") for row in range(min(TEXTS, len(drawn)))]
    if any(row is None or row.ndim != 1 for row in rows):
        return None
    # rows of several texts, as of choices, are longer
    longest = min(LONGEST, settled.recipe.data.max_length or LONGEST)
    ids = [torch.as_tensor(row[:longest]).long() for row in rows if row is not None]
    return mean_cosine(without_rogues(states(model, ids)))


def states(model: PreTrainedModel, rows: Sequence[Tensor]) -> Tensor:
    """The last hidden state of every token of some rows of ids: (tokens, width). Nothing is drawn, nothing learned."""
    was, device = model.training, next(model.parameters()).device
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.inference_mode(), by_sdpa(model):
            body: Any = model.base_model
            hidden: Tensor = body(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
    finally:
        model.train(was)
    return hidden[mask.bool().to(device)].float()


def without_rogues(vectors: Tensor) -> Tensor:
    """Vectors (count, width) without the dimensions whose means are largest: (count, width less a fiftieth)."""
    width = vectors.shape[1]
    kept = vectors.mean(0).abs().argsort(stable=True)[: width - width // ROGUE]
    return vectors[:, kept]


def mean_cosine(vectors: Tensor) -> float | None:
    """The mean cosine of every two of some vectors (count, width): 1 where all point the same way; None of one alone.

    The vectors at length 1 sum to s, and |s|² is what all pairs have, each vector with itself included.
    """
    count = len(vectors)
    if count < 2:
        return None
    whole = normalize(vectors.double(), dim=1).sum(0).square().sum().item()
    return float((whole - count) / (count * (count - 1)))
