"""Decoding: one token after the other, each text by a chance of its own, until something ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmkit.inference.writing.sampling import drawn, logprobs_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from llmkit.inference.writing.text import Text


class Forward(Protocol):
    """What computes the logits of a batch of texts, one token after the other."""

    def read(self, ids: Tensor) -> Tensor:
        """The logits (rows, vocabulary) behind the prompts, (rows, length)."""

    def step(self, ids: Tensor) -> Tensor:
        """The logits (rows, vocabulary) behind all that stands in each row, (rows, length): a token more each time."""

    def keep(self, rows: Tensor, count: int) -> None:
        """Go on with some of the `count` rows."""


class Prepared:
    """A model's own forward, with what transformers' `generate` carries from step to step."""

    def __init__(self, model: Any, config: Any, inputs: dict[str, Any]) -> None:
        self.model, self.config, self.inputs = model, config, inputs

    def read(self, ids: Tensor) -> Tensor:
        """The logits behind the prompts; what a cache already holds isn't read again."""
        return self._behind(self.model._prefill(ids, self.config, self.inputs))

    def step(self, ids: Tensor) -> Tensor:
        """The logits behind the last token of each row."""
        following = self.model.prepare_inputs_for_generation(
            ids, next_sequence_length=1 if self.inputs["use_cache"] else None, **self.inputs)
        return self._behind(self.model(**following, return_dict=True))

    def _behind(self, outputs: Any) -> Tensor:
        self.inputs = self.model._update_model_kwargs_for_generation(
            outputs, self.inputs, is_encoder_decoder=self.model.config.is_encoder_decoder)
        logits: Tensor = outputs.logits[:, -1].clone()  # the prompt's logits may be large
        return logits

    def keep(self, rows: Tensor, count: int) -> None:
        """Go on with some of the `count` rows."""
        self.inputs = _only(self.inputs, rows, count)


def steps(
    model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any, *,
    texts: Sequence[Text], chance: Sequence[np.random.Generator] | None, top: int,
    stopped: Callable[[], bool] | None, forward: Forward | None, **inputs: Any,
) -> Tensor:
    """The loop over tokens, which transformers' `generate` calls with everything prepared (its `custom_generate`).

    It differs from transformers' own in that each row draws from a chance of its own, that log probabilities are the
    raw ones, and that a row that has ended is no longer computed. `forward` stands in for the model's own.
    """
    import torch

    ids, rows = input_ids, list(range(len(texts)))  # the rows that are still written
    forward = forward or Prepared(model, generation_config, inputs)
    logits = forward.read(ids)
    while True:
        raw = logits.float()  # (rows, vocabulary)
        scores = raw
        if logits_processor and len(rows) == len(texts):
            scores = logits_processor(ids, raw)
        elif logits_processor:  # these know every row from the start
            every = raw.new_zeros(len(texts), raw.shape[1])
            every[rows] = raw
            scores = logits_processor(ids, every)[rows]
        tokens = scores.argmax(-1) if chance is None else drawn(scores, [chance[row] for row in rows])
        logprobs, likeliest = logprobs_of(raw, tokens, top)
        for row, token, logprob, others in zip(rows, tokens.tolist(), logprobs, likeliest, strict=True):
            texts[row].add(token, logprob, others)
        written = ids.new_full((len(texts), 1), generation_config.pad_token_id)
        written[rows, 0] = tokens
        ids = torch.cat([ids, written], 1)
        going = [i for i, row in enumerate(rows) if not texts[row].reason]
        if not going or (stopped is not None and stopped()):
            break
        if len(going) < len(rows):
            forward.keep(torch.tensor(going, device=ids.device), len(rows))
            rows = [rows[i] for i in going]
        logits = forward.step(ids[rows])
    for row in rows:
        texts[row].close("stopped")
    return ids


def _only(inputs: dict[str, Any], rows: Tensor, count: int) -> dict[str, Any]:
    """What `generate` carries from step to step, of some of its `count` rows."""
    from torch import Tensor
    from transformers import Cache
    from transformers.utils.generic import ModelOutput

    def some(value: Any) -> Any:
        if isinstance(value, Cache):
            value.batch_select_indices(rows)
        elif isinstance(value, ModelOutput):
            return type(value)(**{name: some(one) for name, one in value.items()})
        elif isinstance(value, Tensor) and value.dim() and len(value) == count:
            return value[rows]
        return value

    return {name: some(value) for name, value in inputs.items()}
