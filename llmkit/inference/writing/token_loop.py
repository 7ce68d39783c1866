"""Decoding: one token after the other, each text by a chance of its own, until something ends it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Scored:
    """A token and its log probability (natural logarithm) under the model, before any option changed it."""

    token: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()
    """What else could have stood here, the likeliest first."""

    def as_json(self) -> dict[str, Any]:
        """`{"token": …, "logprob": …, "top": [{"token": …, "logprob": …}]}`."""
        top = [{"token": token, "logprob": logprob} for token, logprob in self.likeliest]
        return {"token": self.token, "logprob": self.logprob, **({"top": top} if top else {})}


@dataclass(frozen=True)
class Completion:
    """One text that the model wrote."""

    text: str
    tokens: int
    """Tokens of the text, the end token not counted."""
    finish_reason: str
    """`stop`: the model ended it, or a stop string did; `length`: it was cut; `stopped`: whoever asked ended it."""
    score: float | None = None
    """Mean log probability a token (natural logarithm) under the model, before options changed it; None: no token."""
    logprobs: tuple[Scored, ...] | None = None
    """The same of each token, where it was asked for."""
    ids: tuple[int, ...] = ()
    """The tokens of the text."""

    def as_json(self) -> dict[str, Any]:
        """`{"text": …, "tokens": …, "finish_reason": …, "score": …}`, and `logprobs` where they were asked for."""
        told: dict[str, Any] = {
            "text": self.text, "tokens": self.tokens, "finish_reason": self.finish_reason, "score": self.score}
        if self.logprobs is not None:
            told["logprobs"] = [one.as_json() for one in self.logprobs]
        return told


class Text:
    """One text while it is written: knows what ends it, and hands on its characters once they are whole."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], ends: Collection[int], room: int,
        send: Callable[[str], None] | None = None,
    ) -> None:
        self.tokenizer, self.stop, self.ends, self.room, self.send = tokenizer, stop, ends, room, send
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.likeliest: list[list[tuple[int, float]]] = []
        self.reason = ""
        """Why it ended; empty while it is written."""
        self.cut: int | None = None
        """Characters before a stop string."""
        self.sent = 0

    def add(self, token: int, logprob: float | None = None, likeliest: Sequence[tuple[int, float]] = ()) -> None:
        """The next token."""
        if token in self.ends:
            self.reason = "stop"
        else:
            self.ids.append(token)
            if logprob is not None:
                self.logprobs.append(logprob)
                self.likeliest.append(list(likeliest))
            if self.stop:
                text = decoded(self.tokenizer, self.ids)
                found = [at for at in map(text.find, self.stop) if at >= 0]
                if found:
                    self.cut, self.reason = min(found), "stop"
            if not self.reason and len(self.ids) >= self.room:
                self.reason = "length"
        if self.send is not None:
            self._hand_on()

    def _hand_on(self) -> None:
        # All is decoded each time, for what a token reads as may depend on the tokens before it.
        text = decoded(self.tokenizer, self.ids)[: self.cut]
        if not self.reason:
            # A character of several tokens decodes to the replacement character until its last one is there.
            text = text.rstrip("\ufffd")
            if self.tokenizer.clean_up_tokenization_spaces:  # " n't" and " ," lose their spaces once they are whole
                text = " ".join(text.split(" ")[:-2])
            text = text[: len(text) - max((begun(text, stop) for stop in self.stop), default=0)]
        if len(text) > self.sent and self.send is not None:
            self.send(text[self.sent:])
            self.sent = len(text)

    def close(self, reason: str) -> None:
        """Nothing follows any more."""
        self.reason = self.reason or reason
        if self.send is not None:
            self._hand_on()

    def ended(self, row: list[int]) -> bool:
        """Whether it has ended, whatever the row says."""
        return bool(self.reason)

    def ends_in(self, row: list[int], start: int) -> bool:
        """Whether a stop string stands at the end of a row, which has the prompt before `start`."""
        if not self.stop:
            return False
        longest = max(len(stop.encode()) for stop in self.stop)  # a token has a byte at least
        return any(stop in decoded(self.tokenizer, row[max(start, len(row) - longest - 1):]) for stop in self.stop)

    def completion(self, asked: bool) -> Completion:
        """What was written; `asked`: with the log probability of each token."""
        text = decoded(self.tokenizer, self.ids)[: self.cut]
        kept = len(self.ids)
        while self.cut is not None and kept and len(decoded(self.tokenizer, self.ids[:kept - 1])) >= self.cut:
            kept -= 1  # tokens of which nothing is left
        mean = sum(self.logprobs[:kept]) / kept if kept else None
        each = None
        if asked:
            each = tuple(
                scored(self.tokenizer, token, logprob, likeliest)
                for token, logprob, likeliest in zip(self.ids[:kept], self.logprobs, self.likeliest, strict=False))
        return Completion(text, kept, self.reason, mean, each, tuple(self.ids[:kept]))


def scored(
    tokenizer: PreTrainedTokenizerBase, token: int, logprob: float, likeliest: Sequence[tuple[int, float]],
) -> Scored:
    """A token and the likeliest ones, by what they read as."""
    return Scored(decoded(tokenizer, [token], False), logprob,
                  tuple((decoded(tokenizer, [one], False), other) for one, other in likeliest))


class Until:
    """Tells transformers which rows have ended: by what they are, and all of them once `stopped` says so."""

    def __init__(self, ended: Callable[[list[int]], bool], stopped: Callable[[], bool] | None) -> None:
        self.ended, self.ask, self.stopped = ended, stopped, False

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(batch, length) -> (batch)"""
        import torch

        self.stopped = self.stopped or (self.ask is not None and self.ask())
        return torch.tensor([self.stopped or self.ended(row) for row in ids.tolist()], device=ids.device)


class Feed:
    """What transformers calls with each new token of a single text."""

    def __init__(self, text: Text) -> None:
        self.text, self.prompted = text, False

    def put(self, value: Tensor) -> None:
        """The prompt comes first."""
        for token in value.flatten().tolist() if self.prompted else ():
            if not self.text.reason:
                self.text.add(token)
        self.prompted = True

    def end(self) -> None:
        """Why it ended, only the caller knows."""


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


def drawn(scores: Tensor, chance: Sequence[np.random.Generator]) -> Tensor:
    """One token a row from softmax(scores), each row by its own chance. (batch, vocabulary) -> (batch)

    An exponential race: the first of independent arrivals at rates p is token i with probability p_i. Unlike a point on
    the cumulative sum, the winner hardly ever changes where the scores do by a rounding error, as in another batch.
    """
    import torch

    arrivals = np.stack([one.standard_exponential(scores.shape[1]) for one in chance])
    return (scores.softmax(-1).double() / torch.from_numpy(arrivals).to(scores.device)).argmax(-1)


def logprobs_of(logits: Tensor, tokens: Tensor, top: int) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """Of each row, the log probability of its token and of its likeliest tokens. (rows, vocabulary), (rows)"""
    total = logits.logsumexp(-1, keepdim=True)
    found = (logits.gather(-1, tokens[:, None]) - total)[:, 0].tolist()
    if not top:
        return found, [[] for _ in found]
    best = logits.topk(min(top, logits.shape[-1]))
    pairs = zip(best.indices.tolist(), (best.values - total).tolist(), strict=True)
    return found, [list(zip(*pair, strict=True)) for pair in pairs]


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


def padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool, device: str) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (batch, longest) each."""
    import torch

    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids.to(device), mask.to(device)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skip: bool = True) -> str:
    """The text of ids, without tokens that stand for no text unless `skip` is false."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip))


def begun(text: str, stop: str) -> int:
    """How many characters of a stop string a text ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
