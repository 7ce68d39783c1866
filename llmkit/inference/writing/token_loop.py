"""Decoding: one token after the other, each text by a chance of its own, until something ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from llmkit.backbones.kernels import privates
from llmkit.inference.writing.sampling import Choosing, choose, chooses, columns, others, penalized, told
from llmkit.system.devices import sent
from llmkit.system.finite import stopped as not_finite

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

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
        with _unasked(ids):
            return self._behind(privates.prefill(self.model, ids, self.config, self.inputs))

    def step(self, ids: Tensor) -> Tensor:
        """The logits behind the last token of each row."""
        with _unasked(ids):
            return self._behind(self.model(**self._following(ids), return_dict=True))

    def _following(self, ids: Tensor) -> dict[str, Any]:
        """What the model is called with, to see the last token of each row."""
        following: dict[str, Any] = self.model.prepare_inputs_for_generation(
            ids, next_sequence_length=1 if self.inputs["use_cache"] else None, **self.inputs)
        return following

    def _behind(self, outputs: Any) -> Tensor:
        self.inputs = privates.carried(self.model, outputs, self.inputs)
        logits: Tensor = outputs.logits[:, -1].clone()  # the prompt's logits may be large
        return logits

    def keep(self, rows: Tensor, count: int) -> None:
        """Go on with some of the `count` rows."""
        self.inputs = _only(self.inputs, rows, count)


class Fixed(Prepared):
    """A model's compiled forward over a cache that has all its places from the start (transformers' StaticCache).

    What it is called with has one shape, so that a GPU can replay it as a CUDA graph: rows that have ended stay.
    """

    def __init__(self, model: Any, config: Any, inputs: dict[str, Any]) -> None:
        super().__init__(model, config, inputs)
        self.call, self.count = privates.compiled_call(model, config, inputs), 0
        self.rows: Tensor | None = None
        """Those that are still written; None: all."""

    def step(self, ids: Tensor) -> Tensor:
        """The logits behind the last token of each row that is still written."""
        last = ids[:, -1:]
        if self.rows is not None:
            last = ids.new_full((self.count, 1), self.config.pad_token_id).index_copy_(0, self.rows, last)
        with _unasked(ids):
            following = self._following(last)
        logits = self._behind(self.call(**following, return_dict=True))
        return logits if self.rows is None else logits.index_select(0, self.rows)

    def keep(self, rows: Tensor, count: int) -> None:
        """Heed some of the `count` rows that were heeded so far."""
        self.count = self.count or count
        self.rows = rows if self.rows is None else self.rows.index_select(0, rows)


def _unasked(ids: Tensor) -> AbstractContextManager[None]:
    """What a model is called in, so that transformers doesn't wait for a device to see what is known here."""
    return nullcontext() if ids.device.type == "cpu" else privates.unasked()


def step(
    logits: Tensor, texts: Sequence[WrittenText], process: Callable[[Tensor], Tensor] | None = None
) -> None:
    """One token more of each text, from the logits (rows, vocabulary), float32, behind it.

    Texts choose each by its own settings and its own chance; their log probabilities are the raw ones. `process`:
    what else is done to scores before a token is chosen, (rows, vocabulary) -> (rows, vocabulary). What the host is
    told of a device's logits, it reads at once. NumberError where a row has no numbers.
    """
    import torch

    alike: dict[Choosing, list[int]] = {}
    for row, text in enumerate(texts):
        alike.setdefault(text.how, []).append(row)
    scores = _without_repetition(logits, texts)
    scores = _formed(scores if process is None else process(scores), logits, texts)
    tokens = torch.empty(len(texts), dtype=torch.long, device=logits.device)
    for how, rows in alike.items():
        chances = [chance for row in rows if (chance := texts[row].chance) is not None]
        chosen = choose(_rows(scores, rows), how, chances)
        tokens = chosen if len(alike) == 1 else tokens.index_copy_(0, sent(rows, tokens.device), chosen)
    tops = [text.top for text in texts if text.top is not None]
    most = min(max(tops, default=0), logits.shape[1])
    finite = logits.amax(-1).isfinite()
    said = [finite[:, None].double(), tokens[:, None].double(), *([columns(logits, tokens, most)] if tops else ())]
    numbers = torch.cat(said, 1).tolist()
    if not all(row[0] for row in numbers):
        raise not_finite("writing")
    logprobs, likeliest = told([row[2:] for row in numbers], most) if tops else ([], [])
    for row, text in enumerate(texts):
        token = int(numbers[row][1])
        if text.top is None:
            text.add(token)
        else:
            text.add(token, logprobs[row], likeliest[row][: text.top])


def _rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of a tensor, the first before the second; all of them as they are."""
    return tensor if len(rows) == len(tensor) else tensor.index_select(0, sent(rows, tensor.device))


def _without_repetition(logits: Tensor, texts: Sequence[WrittenText]) -> Tensor:
    """Logits (rows, vocabulary) with each text's own penalty on what it said before."""
    import torch

    scores = logits
    for row, text in enumerate(texts):
        if text.how.repetition_penalty != 1:
            scores = logits.clone() if scores is logits else scores
            seen = sent([*(() if text.quotes else text.prompt), *text.ids], logits.device, torch.long)
            scores[row] = penalized(logits[row], seen, text.how.repetition_penalty)
    return scores


def _formed(scores: Tensor, logits: Tensor, texts: Sequence[WrittenText]) -> Tensor:
    """Scores (rows, vocabulary) without the tokens that a text's form doesn't allow.

    Where other rules leave none of those that it allows, these rules don't count.
    """
    import torch

    held = [(row, text.constraint) for row, text in enumerate(texts) if text.constraint is not None]
    if not held:
        return scores
    scores = scores.clone()
    for row, constraint in held:
        hidden = sent(~constraint.allowed(scores.shape[1]), scores.device)
        left = scores[row].masked_fill(hidden, float("-inf"))
        scores[row] = torch.where(left.isfinite().any(), left, logits[row].masked_fill(hidden, float("-inf")))
    return scores


def steps(
    model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any, *,
    texts: Sequence[WrittenText], stopped: Callable[[], bool] | None, forward: Forward | None, **inputs: Any,
) -> Tensor:
    """The loop over tokens, which transformers' `generate` calls with everything prepared (its `custom_generate`).

    It differs from transformers' own in that each row draws from a chance of its own, that log probabilities are the
    raw ones, and that a row that has ended is no longer computed (but where a compiled step has one shape). `forward`
    stands in for the model's own. The host waits for a device once a step: for the tokens, or for the logits of one
    that doesn't choose.
    """
    import torch

    ids, rows = input_ids, list(range(len(texts)))  # the rows that are still written
    own = Fixed if generation_config.cache_implementation == "static" else Prepared
    _know_prompts(texts, ids, None if model.config.is_encoder_decoder else inputs.get("attention_mask"))
    processors = others(logits_processor)
    forward = forward or own(model, generation_config, inputs)

    def process(scores: Tensor) -> Tensor:
        every = scores
        if len(rows) < len(texts):  # these know every row from the start
            every = scores.new_zeros(len(texts), scores.shape[1]).index_copy_(0, sent(rows, scores.device), scores)
        return _rows(processors(ids, every.to(ids.device)).to(scores.device), rows)

    logits = forward.read(ids)
    while True:
        written = [generation_config.pad_token_id] * len(texts)
        logits = logits.float() if chooses(ids.device) else logits.float().cpu()
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
