"""Occlusion: what a prediction loses where one token is hidden or taken away (Zeiler & Fergus 2014; Li et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmkit.inference.explaining.subject import AT_ONCE, Subject
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

Hiding = Literal["mask", "remove"]


@dataclass(frozen=True)
class Occlusion:
    """What each token is worth: the logarithm of the answer's probability with it, less that without it."""

    how: Hiding
    values: tuple[float | None, ...]
    """Of each token that is read; None of special ones, which stay."""
    written: tuple[float | None, ...] = ()
    """Of each that a decoder has written: these are taken away."""


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
    places = subject.places
    with torch.no_grad():
        whole = float(subject.score(subject.inputs)[0])
        inside = aim.where if aim.is_word and not subject.written else None
        told: list[float] = []
        for some in _batches(places, len(subject.ids)):
            told += _asked(subject, some, way, inside)
        behind = [i for i, piece in enumerate(subject.written) if not piece.special]
        after = [float(subject.score(_shorter(subject, i), aim.where - 1)[0]) for i in behind]
    values, written = dict(zip(places, told, strict=True)), dict(zip(behind, after, strict=True))
    return Occlusion(way, tuple(whole - values[i] if i in values else None for i in range(len(subject.ids))),
                     tuple(whole - written[i] if i in written else None for i in range(len(subject.written))))


def _batches(places: list[int], length: int) -> Iterator[list[int]]:
    size = max(1, AT_ONCE // length)
    yield from (places[i : i + size] for i in range(0, len(places), size))


def _asked(subject: Subject, places: list[int], way: Hiding, inside: int | None) -> list[float]:
    """What is said of the text without each of some tokens; `inside` is where a word is asked for among these."""
    if way == "mask":
        inputs = subject.repeated(len(places))
        ids = inputs["input_ids"].clone()
        for row, place in enumerate(places):
            ids[row, place] = int(subject.tokenizer.mask_token_id or 0)
        rows: list[float] = subject.score({**inputs, "input_ids": ids}).tolist()
        return rows
    told: dict[int, float] = {}
    for ahead in (True, False):  # where a token before the word is taken away, the word moves
        some = [place for place in places if (inside is not None and place <= inside) == ahead]
        if some:
            where = None if inside is None else inside - ahead
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
