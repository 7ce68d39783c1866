"""Occlusion: what a prediction loses where one token is hidden or taken away (Zeiler & Fergus 2014; Li et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from llmkit.inference.explaining.aim import Aim
from llmkit.inference.explaining.choices import Choices, Spot
from llmkit.inference.explaining.subject import AT_ONCE, Subject
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

Hiding = Literal["mask", "remove"]
Place = TypeVar("Place", int, Spot)


@dataclass(frozen=True)
class Occlusion:
    """What each token is worth: the logarithm of the answer's probability with it, less that without it."""

    how: Hiding
    values: tuple[float | None, ...]
    """Of each token that is read; None of special ones, which stay."""
    written: tuple[float | None, ...] = ()
    """Of each that a decoder has written: these are taken away."""
    beside: tuple[float, ...] = ()
    """Of each that only other choices have; a token of the question is hidden in all of them at once."""


def usual_hiding(subject: Subject) -> Hiding:
    """By the mask token where the model knows what that means, as encoders do; else tokens are taken away."""
    return "mask" if subject.tokenizer.mask_token_id is not None and subject.family.shape != "decoder" else "remove"


def occlusion(subject: Subject, how: Hiding | None = None) -> Occlusion:
    """Hide each token of the text by itself and ask again.

    RequestError where there is nothing to be explained, no mask token to hide by, or nothing left but one token.
    """
    import torch

    aim, way = subject.weighed(), how or usual_hiding(subject)
    if way == "mask" and subject.tokenizer.mask_token_id is None:
        raise RequestError(f"--hide mask: the tokenizer of {subject.name} has no mask token; --hide remove takes "
                           "tokens away.")
    if way == "remove" and len(subject.ids) < 2:
        raise RequestError("--hide remove: of a text of one token nothing would be left.")
    if subject.choices is not None:
        return _among(subject, subject.choices, way)
    places = [i for i in subject.places if way == "mask" or subject.written or i not in aim.held]
    with torch.no_grad():
        whole = float(subject.score(subject.inputs)[0])
        told: list[float] = []
        for some in _batches(places, len(subject.ids)):
            told += _asked(subject, some, way)
        behind = [i for i, piece in enumerate(subject.written) if not piece.special]
        after = [float(subject.score(_shorter(subject, i), aim.without(i))[0]) for i in behind]
    values, written = dict(zip(places, told, strict=True)), dict(zip(behind, after, strict=True))
    return Occlusion(way, tuple(whole - values[i] if i in values else None for i in range(len(subject.ids))),
                     tuple(whole - written[i] if i in written else None for i in range(len(subject.written))))


def _among(subject: Subject, choices: Choices, way: Hiding) -> Occlusion:
    """Of the choice that is explained and its question, and of what its rivals have for themselves."""
    import torch

    chosen = subject.weighed().index
    own = [spot for spot in choices.spots[chosen] if spot is not None]
    others = [choices.spots[row][place] for row, place in choices.others(chosen)]
    spots = [*own, *(spot for spot in others if spot is not None)]
    mask = int(subject.tokenizer.mask_token_id or 0) if way == "mask" else None
    values: list[float] = []
    with torch.no_grad():
        whole = float(subject.score(subject.whole)[0])
        for some in _batches(spots, choices.size):
            values += subject.score(choices.hidden([(spot,) for spot in some], mask)).tolist()
    told = dict(zip(spots, values, strict=True))
    return Occlusion(way, tuple(None if spot is None else whole - told[spot] for spot in choices.spots[chosen]),
                     beside=tuple(whole - told[spot] for spot in others if spot is not None))


def _batches(places: list[Place], length: int) -> Iterator[list[Place]]:
    size = max(1, AT_ONCE // length)
    yield from (places[i : i + size] for i in range(0, len(places), size))


def _asked(subject: Subject, places: list[int], way: Hiding) -> list[float]:
    """What is said of the text without each of some tokens."""
    aim = subject.weighed()
    if way == "mask":
        inputs = subject.repeated(len(places))
        ids = inputs["input_ids"].clone()
        for row, place in enumerate(places):
            ids[row, place] = int(subject.tokenizer.mask_token_id or 0)
        rows: list[float] = subject.score({**inputs, "input_ids": ids}).tolist()
        return rows
    moved: dict[Aim, list[int]] = {}  # where a token before the answer is taken away, the answer moves
    for place in places:
        moved.setdefault(aim if subject.written else aim.without(place), []).append(place)
    told: dict[int, float] = {}
    for where, some in moved.items():
        told |= zip(some, subject.score(_without(subject, some), where).tolist(), strict=True)
    return [told[place] for place in places]


def _without(subject: Subject, places: list[int]) -> dict[str, Tensor]:
    """The text once for each of some tokens, without it: (places, tokens - 1)."""
    import torch

    size = len(subject.ids)
    kept = torch.tensor([[i for i in range(size) if i != place] for place in places],
                        device=subject.inputs["input_ids"].device)
    return {name: tensor.expand(len(places), -1) if name == "decoder_input_ids" else tensor[0][kept]
            for name, tensor in subject.inputs.items()}


def _shorter(subject: Subject, place: int) -> dict[str, Tensor]:
    """What is read as it is, and what was written without one token."""
    ids = subject.inputs["decoder_input_ids"]
    import torch

    return {**subject.inputs, "decoder_input_ids": torch.cat([ids[:, :place], ids[:, place + 1:]], 1)}
