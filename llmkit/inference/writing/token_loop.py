"""Decoding: one token after the other, each text by a chance of its own, until something ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmkit.backbones.kernels import privates
from llmkit.inference.writing.sampling import Choosing, choose, logprobs_of, others, penalized
from llmkit.system.devices import sent
from llmkit.system.finite import check_scores

if TYPE_CHECKING:
    from torch import Tensor

    from llmkit.inference.writing.text import WrittenText


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
        return self._behind(privates.prefill(self.model, ids, self.config, self.inputs))

    def step(self, ids: Tensor) -> Tensor:
        """The logits behind the last token of each row."""
        following = self.model.prepare_inputs_for_generation(
            ids, next_sequence_length=1 if self.inputs["use_cache"] else None, **self.inputs)
        return self._behind(self.model(**following, return_dict=True))

    def _behind(self, outputs: Any) -> Tensor:
        self.inputs = privates.carried(self.model, outputs, self.inputs)
        logits: Tensor = outputs.logits[:, -1].clone()  # the prompt's logits may be large
        return logits

    def keep(self, rows: Tensor, count: int) -> None:
        """Go on with some of the `count` rows."""
        self.inputs = _only(self.inputs, rows, count)


def step(
    logits: Tensor, texts: Sequence[WrittenText], process: Callable[[Tensor], Tensor] | None = None
) -> None:
    """One token more of each text, from the logits (rows, vocabulary), float32, behind it.

    Texts choose each by its own settings and its own chance; their log probabilities are the raw ones. `process`:
    what else is done to scores before a token is chosen, (rows, vocabulary) -> (rows, vocabulary).
    """
    import torch

    alike: dict[Choosing, list[int]] = {}
    for row, text in enumerate(texts):
        alike.setdefault(text.how, []).append(row)
    scores, tokens = logits, torch.empty(len(texts), dtype=torch.long, device=logits.device)
    for how, rows in alike.items():
        for row in rows if how.repetition_penalty != 1 else ():
            scores = logits.clone() if scores is logits else scores
            before = () if texts[row].quotes else texts[row].prompt
            seen = torch.tensor([*before, *texts[row].ids], dtype=torch.long, device=logits.device)
            scores[row] = penalized(logits[row], seen, how.repetition_penalty)
    scores = scores if process is None else process(scores)
    scores = _formed(scores, logits, texts)
    for how, rows in alike.items():
        these = scores if len(alike) == 1 else scores[rows]
        tokens[rows] = choose(these, how, [chance for row in rows if (chance := texts[row].chance) is not None])
    chosen = tokens.tolist()
    told = [row for row, text in enumerate(texts) if text.top is not None]
    known: dict[int, tuple[float, list[tuple[int, float]]]] = {}
    if told:
        most = max(texts[row].top or 0 for row in told)
        every = len(told) == len(texts)
        logprobs, likeliest = logprobs_of(
            logits if every else logits[told], tokens if every else tokens[told], most)
        known = dict(zip(told, zip(logprobs, likeliest, strict=True), strict=True))
    for row, text in enumerate(texts):
        logprob, best = known.get(row, (None, []))
        text.add(chosen[row], logprob, best[: text.top])


def _formed(scores: Tensor, logits: Tensor, texts: Sequence[WrittenText]) -> Tensor:
    """Scores (rows, vocabulary) without the tokens that a text's form doesn't allow.

    Where other rules leave none of those that it allows, these rules don't count.
    """
    held = [(row, text.constraint) for row, text in enumerate(texts) if text.constraint is not None]
    if not held:
        return scores
    scores = scores.clone()
    for row, constraint in held:
        hidden = ~constraint.allowed(scores.shape[1]).to(scores.device)
        scores[row] = scores[row].masked_fill(hidden, float("-inf"))
        if not scores[row].isfinite().any():
            scores[row] = logits[row].masked_fill(hidden, float("-inf"))
    return scores


def steps(
    model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any, *,
    texts: Sequence[WrittenText], stopped: Callable[[], bool] | None, forward: Forward | None, **inputs: Any,
) -> Tensor:
    """The loop over tokens, which transformers' `generate` calls with everything prepared (its `custom_generate`).

    It differs from transformers' own in that each row draws from a chance of its own, that log probabilities are the
    raw ones, and that a row that has ended is no longer computed. `forward` stands in for the model's own. Tokens are
    chosen on the host, which waits for a device's logits once a step.
    """
    import torch

    ids, rows = input_ids, list(range(len(texts)))  # the rows that are still written
    _know_prompts(texts, ids, None if model.config.is_encoder_decoder else inputs.get("attention_mask"))
    processors = others(logits_processor)
    forward = forward or Prepared(model, generation_config, inputs)

    def process(scores: Tensor) -> Tensor:
        if len(rows) == len(texts):
            return processors(ids, scores.to(ids.device)).cpu()  # type: ignore[no-any-return]
        every = scores.new_zeros(len(texts), scores.shape[1])  # these know every row from the start
        every[rows] = scores
        return processors(ids, every.to(ids.device)).cpu()[rows]  # type: ignore[no-any-return]

    logits = forward.read(ids)
    while True:
        written = [generation_config.pad_token_id] * len(texts)
        logits = logits.float().cpu()
        check_scores(logits, "writing")
        step(logits, [texts[row] for row in rows], process if processors else None)
        for row in rows:
            written[row] = texts[row].last
        ids = torch.cat([ids, sent(written, ids.device, ids.dtype)[:, None]], 1)
        going = [i for i, row in enumerate(rows) if not texts[row].reason]
        if not going or (stopped is not None and stopped()):
            break
        if len(going) < len(rows):
            forward.keep(sent(going, ids.device), len(rows))
            rows = [rows[i] for i in going]
        logits = forward.step(ids if len(rows) == len(texts) else ids[sent(rows, ids.device)])
    for row in rows:
        texts[row].close("stopped")
    return ids


def _know_prompts(texts: Sequence[WrittenText], ids: Tensor, mask: Tensor | None) -> None:
    """Tell each text the ids before it, (rows, length), without padding."""
    ids, mask = ids.cpu(), None if mask is None else mask.cpu()
    for row, text in enumerate(texts):
        text.prompt = (ids[row] if mask is None else ids[row][mask[row].bool()]).tolist()


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
