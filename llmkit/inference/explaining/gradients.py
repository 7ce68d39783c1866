"""Integrated gradients: what each token's embedding adds from a text of nothing on (Sundararajan et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llmkit.inference.explaining.subject import AT_ONCE, LABELS, Subject, places_of
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

INSTALL = "pip install 'llmkit-train[explain]'"
STEPS, MOST_STEPS = 64, 1024
"""Points of the integral to start with; they are doubled until it is complete, and at most so many."""
NEAR = 0.01
"""How complete: what is missing of the difference to the baseline, as a share of it."""
MEAN = "the mean of all words"
SMALL = 1e-3
"""Of a difference that is near 0, this much in nats."""


@dataclass(frozen=True)
class Gradients:
    """What each token adds to the logarithm of the answer's probability; the sum is what all of them add."""

    baseline: str
    """What stands for each token of the text where nothing is said: [MASK], <pad>, the mean of all words."""
    values: tuple[float, ...]
    """Of each token that is read; special ones stand in the baseline as they are, so that theirs is 0."""
    difference: float
    """The answer of the text, less that of the baseline: what the values sum to (completeness)."""
    steps: int
    """Points of the integral."""
    beside: tuple[float, ...] = ()
    """Of each token that only other choices have; one of the question is counted in the rows of all choices."""

    @property
    def missing(self) -> float:
        """By how much the sum fails the difference: an error of the integral."""
        return self.difference - sum(self.values) - sum(self.beside)

    @property
    def complete(self) -> bool:
        """Whether so little is missing that it doesn't matter."""
        return abs(self.missing) <= max(NEAR * abs(self.difference), SMALL)


def installed() -> bool:
    """Whether captum is there."""
    return find_spec("captum") is not None


def integrated_gradients(subject: Subject) -> Gradients:
    """Attribute the answer to the tokens that are read, from a baseline in which all of the text is hidden.

    RequestError where captum isn't installed, or there is nothing to be explained.
    """
    import torch

    subject.weighed()
    if not installed():
        raise RequestError(f"integrated gradients need captum: {INSTALL}; occlusion and rollout do without.")
    from captum.attr import IntegratedGradients

    table, turned, whole = _table(subject.base, subject), subject.family.shape == "permuted", subject.whole
    embedded = _embedded(subject, table, whole["input_ids"])  # (rows, positions, width)
    ids, name = _baseline(subject)
    places = [places_of(embedded.shape[1], ids.shape[1], mask[None], subject) for mask in whole["attention_mask"]]
    hidden = embedded.new_zeros(embedded.shape[:2]).bool()
    for row, place in _of_the_text(subject):
        hidden[row, places[row][place]] = True
    empty = _embedded(subject, table, ids)
    if name == MEAN or not bool(empty[hidden].any()):  # from zeros a norm by length jumps, and no sum is complete
        empty[hidden], name = _mean(subject, table), MEAN

    def answer(points: Tensor) -> Tensor:
        rows = points.flatten(0, 1)
        with _instead(table, rows.transpose(0, 1) if turned else rows):
            return subject.score(subject.repeated(len(points)))

    with torch.no_grad():
        difference = float(answer(embedded[None])[0] - answer(empty[None])[0])
    size, steps = _points_at_once(subject, embedded.shape[0] * embedded.shape[1]), STEPS
    while True:
        found = IntegratedGradients(answer).attribute(embedded[None], empty[None], n_steps=steps,
                                                      internal_batch_size=size)
        values = found.detach().sum(-1)[0].double().cpu()  # (rows, positions)
        own, beside = _shared([[float(row[place]) for place in some] for row, some in zip(values, places, strict=True)],
                              subject)
        made = Gradients(name, own, difference, steps, beside)
        if made.complete or steps >= MOST_STEPS:
            return made
        steps *= 2


def _of_the_text(subject: Subject) -> list[tuple[int, int]]:
    """(row, place) of each token that can be nothing."""
    if subject.choices is None:
        return [(0, place) for place in subject.places]
    return [(row, place) for row, some in enumerate(subject.choices.spots) for place, spot in enumerate(some)
            if spot is not None]


def _shared(values: list[list[float]], subject: Subject) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the row that is explained, a question's tokens with their shares in other rows; and what others have alone."""
    choices = subject.choices
    if choices is None:
        return tuple(values[0]), ()
    chosen = subject.weighed().index
    own = tuple(values[chosen][place] if spot is None else sum(values[row][at] for row, at in choices.same(spot))
                for place, spot in enumerate(choices.spots[chosen]))
    counted = {at for spot in choices.spots[chosen] if spot is not None for at in choices.same(spot)}
    return own, tuple(values[row][place] for row, place in choices.others(chosen) if (row, place) not in counted)


def _table(base: Any, subject: Subject) -> nn.Module:
    """The embeddings of what is read: an encoder's own where there is a decoder too."""
    reader = base.get_encoder() if subject.family.shape == "encoder-decoder" else base
    found: nn.Module = reader.get_input_embeddings()
    return found


def _baseline(subject: Subject) -> tuple[Tensor, str]:
    """The ids of a text of nothing, (rows, tokens), and what it is made of."""
    tokenizer, ids = subject.tokenizer, subject.whole["input_ids"].clone()
    if tokenizer.mask_token_id is not None and subject.family.shape != "decoder":
        number, name = int(tokenizer.mask_token_id), str(tokenizer.mask_token)
    elif tokenizer.pad_token_id is not None and subject.family.shape == "encoder-decoder":
        number, name = int(tokenizer.pad_token_id), str(tokenizer.pad_token)
    else:
        return ids, MEAN
    for row, place in _of_the_text(subject):
        ids[row, place] = number
    return ids, name


def _mean(subject: Subject, table: nn.Module) -> Tensor:
    """The mean of what the table has for all words: (width)"""
    import torch

    words = torch.arange(len(subject.tokenizer), device=subject.inputs["input_ids"].device)
    with torch.no_grad():
        found: Tensor = table(words.clamp(max=subject.base.config.get_text_config().vocab_size - 1)[None])[0].mean(0)
    return found


def _embedded(subject: Subject, table: nn.Module, ids: Tensor) -> Tensor:
    """What the model makes of ids before its first layer, as it calls its table: (rows, positions, width)."""
    import torch

    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kept.append(output)

    hook = table.register_forward_hook(keep, prepend=True)  # before what a soft prompt puts in
    try:
        with torch.no_grad():
            subject.ask({**subject.whole, "input_ids": ids})
    finally:
        hook.remove()
    found = kept[0].transpose(0, 1) if subject.family.shape == "permuted" else kept[0]
    return found.detach().clone()


@contextmanager
def _instead(table: nn.Module, rows: Tensor) -> Iterator[None]:
    """Let a table give these embeddings the first time that it is asked: the decoder may share it with the encoder."""
    left = [rows]

    def give(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return left.pop() if left else output

    hook = table.register_forward_hook(give, prepend=True)
    try:
        yield
    finally:
        hook.remove()


def _points_at_once(subject: Subject, positions: int) -> int:
    """Points that are computed together; one by one where a classifier knows no padding, and refuses several rows."""
    alone = subject.kind == LABELS and subject.base.config.get_text_config().pad_token_id is None
    return 1 if alone else max(1, AT_ONCE // positions)
