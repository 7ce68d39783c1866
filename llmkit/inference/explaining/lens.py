"""The logit lens: what each layer would say if it were the last (nostalgebraist 2020, "interpreting GPT").

No family has code here: the model runs with the last layer's output replaced by that of another, so that its own final
norm and head make words of it. With its own output, this is the model's answer to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import stacks_of
from llmkit.inference.explaining.shown import ShownToken, shown
from llmkit.inference.explaining.subject import Subject
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

TOP = 5
"""Words that are kept of each layer and position."""


@dataclass(frozen=True)
class LensWord:
    """A word that a layer would say."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class LensLayer:
    """What a layer would say at each position."""

    layer: int
    """0 is what goes into the first layer."""
    words: tuple[tuple[LensWord, ...], ...]
    """Of each position, the likeliest first."""
    aim: float | None
    """The probability of the word that is explained, where there is one."""
    rank: int | None
    """Its rank among all words, from 1."""


@dataclass(frozen=True)
class Lens:
    """Every layer from the lowest."""

    layers: tuple[LensLayer, ...]
    positions: tuple[ShownToken, ...]
    """What stands at each position."""
    next: bool
    """Whether a position says the word after it; else the one that stands there."""


def lens(subject: Subject) -> Lens:
    """What each layer would say; RequestError where the head says no words, or the layers can't be found."""
    import torch

    layers = _layers(subject)
    with torch.no_grad():
        heard = _heard(subject, layers)
        found = []
        for number, hidden in enumerate(heard):
            with _last_says(layers, len(heard) - 1, hidden):
                out = subject.model(**subject.inputs)
            logits = (out["prediction_logits"] if "prediction_logits" in out else out["logits"])[0].float()
            found.append(_layer(number, logits.softmax(-1), subject))
    return Lens(tuple(found), subject.written or subject.tokens, subject.family.shape != "encoder")


def _layers(subject: Subject) -> list[nn.Module]:
    """The layers whose last one the head reads."""
    if not subject.says_words:
        raise RequestError(f"--what layers: {subject.name} is opened as {subject.kind}, whose head says no words; a "
                           "causal, masked or encoder-decoder language model has layers that would.")
    if subject.family.shape == "permuted":
        raise RequestError(f"--what layers: {subject.name} predicts words in a stream of its own, which its layers "
                           "alone don't say; --what attention can be shown.")
    stacks = stacks_of(subject.base, subject.family)
    if not stacks or not stacks[-1]:
        raise RequestError(f"--what layers: where the layers of a {subject.family.model_type} are isn't known here; "
                           "--what attention or tokens can be shown.")
    return [subject.base.get_submodule(name) for name in stacks[-1]]


def _heard(subject: Subject, layers: list[nn.Module]) -> list[Tensor]:
    """What goes into the first layer, and what comes out of each; a layer that is called again counts again."""
    heard: list[Tensor] = []

    def before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not heard:
            heard.append(inputs[0] if inputs else named["hidden_states"])

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        heard.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True),
             *(layer.register_forward_hook(after) for layer in layers)]
    try:
        subject.model(**subject.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return heard


@contextmanager
def _last_says(layers: list[nn.Module], calls: int, hidden: Tensor) -> Iterator[None]:
    """Let the last of so many calls of the layers return some hidden states."""
    count = 0

    def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal count
        count += 1
        if count < calls:
            return output
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hooks = [layer.register_forward_hook(replace) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layer(number: int, chances: Tensor, subject: Subject) -> LensLayer:
    """The likeliest words of probabilities (positions, vocabulary)."""
    best = chances.topk(min(TOP, chances.shape[-1]))
    texts = iter(shown(best.indices.flatten().tolist(), subject.tokenizer))  # all at once: a tokenizer is asked once
    words = tuple(tuple(LensWord(word, next(texts).text, value) for word, value in zip(ids, values, strict=True))
                  for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True))
    if subject.aim is None:
        return LensLayer(number, words, None, None)
    own = chances[subject.aim.where]
    aim = own[subject.aim.index]
    return LensLayer(number, words, float(aim), 1 + int((own > aim).sum()))

