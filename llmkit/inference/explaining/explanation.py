"""All that can be shown of one answer: attention, what its tokens are worth, what each layer would say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from llmkit.inference.explaining.aim import in_words
from llmkit.inference.explaining.attention import AttentionMaps, attention, rolled_out, strongest
from llmkit.inference.explaining.gradients import INSTALL, MEAN, Gradients, installed, integrated_gradients
from llmkit.inference.explaining.lens import Lens, LensLayer, lens
from llmkit.inference.explaining.occlusion import Hiding, Occlusion, occlusion
from llmkit.inference.explaining.opening import open_subject
from llmkit.inference.explaining.rows import FileRow
from llmkit.inference.explaining.shown import ShownToken
from llmkit.inference.explaining.subject import LIKELIEST, Subject, name_of_answer
from llmkit.planning.soft_words import near_words
from llmkit.system.errors import RequestError, nearest
from llmkit.system.finite import check_all

Made = TypeVar("Made")
PARTS = ("attention", "tokens", "layers", "prompt")
"""What can be asked for."""
KNOWN = (
    "Attention says where a head looks, not why the model answers as it does: often quite other weights would have "
    "given the same answer (Jain & Wallace 2019, \"Attention is not Explanation\"). Whether it explains anything "
    "depends on what an explanation is for, and needs a test of its own (Wiegreffe & Pinter 2019, \"Attention is not "
    "not Explanation\"). Rollout rests on attention and knows nothing of values and feed-forward layers.",
    "Occlusion and integrated gradients ask the model about texts that nobody wrote. Two tokens that say the same "
    "thing may each seem worth nothing, and what hides a token (a mask, a gap) has a meaning of its own to the model.",
    "The logit lens reads lower layers with a head that was trained on the last one only: a layer may hold a word in a "
    "form that this head can't read.",
    "All of this is about one text. What is seen here is a guess about the model; try it on other texts, and change "
    "the text to see whether the answer changes as the picture says.")
"""What such pictures can't show."""


@dataclass(frozen=True)
class Explanation:
    """An answer of a model to a text, and what it rests on; a part that wasn't asked for, or can't be had, is None."""

    subject: Subject
    likeliest: tuple[tuple[str, float], ...] = ()
    """Answers that the model gives, the likeliest first: (name, probability); of a number, that number."""
    probability: float | None = None
    """Of the answer that is explained."""
    maps: tuple[AttentionMaps, ...] | None = None
    rollout: tuple[list[float], list[float]] | None = None
    """Shares of the tokens that are read, and of those that were written."""
    occlusion: Occlusion | None = None
    gradients: Gradients | None = None
    lens: Lens | None = None
    prompt: Mapping[str, Any] | None = None
    """The words that the virtual tokens of a soft prompt are nearest to."""
    notes: list[str] = field(default_factory=list)
    """What couldn't be shown, and why."""

    @property
    def worth(self) -> dict[str, tuple[float | None, ...]]:
        """What each token that is read is worth, by the way of weighing it."""
        found: dict[str, tuple[float | None, ...]] = {}
        if self.occlusion is not None:
            found["occlusion"] = self.occlusion.values
        if self.gradients is not None:
            found["integrated gradients"] = tuple(
                None if token.special else value
                for token, value in zip(self.subject.tokens, self.gradients.values, strict=True))
        if self.rollout is not None:
            found["rollout"] = tuple(self.rollout[0])
        return found

    @property
    def beside(self) -> dict[str, tuple[float | None, ...]]:
        """What each token is worth that only other choices have, by the same ways."""
        if not self.subject.beside:
            return {}
        return {**({} if self.occlusion is None else {"occlusion": self.occlusion.beside}),
                **({} if self.gradients is None else {"integrated gradients": self.gradients.beside})}

    @property
    def units(self) -> dict[str, str]:
        """What the figures of each way are."""
        number = self.subject.aim is not None and self.subject.aim.kind == "number"
        unit = "of the number" if number else "nats"
        hidden = "" if self.occlusion is None else {"mask": "hidden by the mask token", "remove": "taken away"}[
            self.occlusion.how]
        baseline = "" if self.gradients is None else self.gradients.baseline
        return {"occlusion": f"{unit} lost where it is {hidden}",
                "integrated gradients": (f"{unit} added, from {baseline}" if baseline != MEAN
                                         else f"{unit} added, from the mean of all words"),
                "rollout": "share of what reaches the answer"}

    @property
    def title(self) -> str:
        """`label positive, probability 0.93`"""
        return in_words(self.subject.aim, self.probability)

    def as_json(self) -> dict[str, Any]:
        """All of it as one document."""
        subject = self.subject
        document: dict[str, Any] = {
            "model": subject.name, "opened_as": subject.kind, "text": subject.text, "tokens": _listed(subject.tokens)}
        if subject.written:
            document["written"] = _listed(subject.written)
        if subject.row:
            document["row"] = dict(subject.row)
        if subject.beside:
            document["other_choices"] = [{"choice": choice, "id": token.id, "text": token.text}
                                         for choice, token in subject.beside]
        if subject.aim is not None:
            aim = subject.aim
            document["explained"] = {
                "kind": aim.kind, "name": aim.name, **({} if aim.is_span else {"index": aim.index}),
                "probability" if aim.kind != "number" else "value": self.probability,
                **({"of": aim.of} if aim.of else {}), **({"read_at": aim.read_at} if aim.read_at else {})}
            document["likeliest"] = [{"name": name, "probability": value} for name, value in self.likeliest]
        if self.occlusion is not None:
            document["occlusion"] = {"how": self.occlusion.how, "values": self.occlusion.values,
                                     **({"written": self.occlusion.written} if subject.written else {}),
                                     **({"other_choices": self.occlusion.beside} if subject.beside else {})}
        if self.gradients is not None:
            document["integrated_gradients"] = {
                "baseline": self.gradients.baseline, "steps": self.gradients.steps, "values": self.gradients.values,
                "difference": self.gradients.difference, "missing": self.gradients.missing,
                **({"other_choices": self.gradients.beside} if subject.beside else {})}
        if self.rollout is not None:
            document["rollout"] = {"values": self.rollout[0],
                                   **({"written": self.rollout[1]} if subject.written else {})}
        if self.maps is not None:
            document["attention"] = [
                {"side": one.side, "queries": [token.text for token in one.queries],
                 "keys": [token.text for token in one.keys], "weights": one.weights.tolist()} for one in self.maps]
        if self.lens is not None:
            document["layers"] = {
                "says": "the next word" if self.lens.next else "the word that stands there",
                "positions": [token.text for token in self.lens.positions],
                "layers": [_as_json(layer) for layer in self.lens.layers]}
        if self.prompt is not None:
            document["prompt"] = dict(self.prompt)
        return {**document, "notes": self.notes, "known": list(KNOWN)}


def explain(
    model: str | Path, text: str | FileRow, *, what: Sequence[str] = PARTS, pair: str | None = None,
    written: str | None = None, target: str | None = None, context: str | None = None, choices: Sequence[str] = (),
    at: str | None = None, hide: Hiding | None = None, layer: int | None = None, head: int | None = None,
) -> Explanation:
    """Open a model, read a text, and look at what its answer rests on.

    what          of attention, tokens, layers and prompt; with all of them, what can't be shown is a note
    pair          the second text of a classifier that reads two
    written       what an encoder-decoder has written so far
    target        the label, word or answer that is explained; the likeliest where nothing is said
    context       of a question, where its answer is looked for
    choices       among which one is the answer
    at            the word whose tag is explained; of an answer in a text, start or end
    hide          how occlusion hides a token: mask or remove
    layer, head   from 1: only these of the attention

    RequestError for what was asked for by name and can't be shown, with the reason.
    """
    for part in what:
        if part not in PARTS:
            raise RequestError(f"--what {part}: can't be shown.{nearest(part, (*PARTS, 'all'))}")
    every = set(what) == set(PARTS)
    if "attention" not in what and (layer is not None or head is not None):
        raise RequestError(f"--{'head' if layer is None else 'layer'}: is of attention, which isn't shown.")
    subject = open_subject(model, text, pair=pair, written=written, target=target, context=context, choices=choices,
                           at=at)
    notes = list(subject.notes)

    def made(make: Callable[[], Made], needed: bool) -> Made | None:
        """A part; where it can't be had and nobody asked for it by name, a note."""
        try:
            return make()
        except RequestError as error:
            if needed:
                raise
            notes.append(str(error))
            return None

    maps = None if {"attention", "tokens"}.isdisjoint(what) else made(
        lambda: attention(subject), "attention" in what and not every)
    found = None if "tokens" not in what else made(lambda: occlusion(subject, hide), not every or hide is not None)
    if found is not None and found.how == "remove" and subject.aim is not None and subject.aim.held:
        stay = ", ".join(repr(subject.tokens[place].text) for place in subject.aim.read_at)
        notes.append(f"occlusion takes no token away where the answer is said; these have no figure: {stay}")
    slopes = None
    if found is not None and installed():
        slopes = integrated_gradients(subject)
        if not slopes.complete:
            notes.append(f"integrated gradients: after {slopes.steps:,} steps the integral still misses "
                         f"{slopes.missing:.4f} of {slopes.difference:.4f}; take its figures with care.")
    elif found is not None:
        notes.append(f"integrated gradients need captum: {INSTALL}")
    layers = None if "layers" not in what else made(lambda: lens(subject), not every)
    prompt = None
    if "prompt" in what and not (every and not subject.virtual_tokens):  # of a model with none, nothing is said
        prompt = made(lambda: near_words(model), not every)
    seen = None if maps is None or "attention" not in what else tuple(narrowed(one, layer, head) for one in maps)
    likeliest, probability = _answers(subject)
    whole = Explanation(subject, likeliest, probability, seen, None if maps is None else rolled_out(maps, subject),
                        found, slopes, layers, prompt, notes)
    check_all([probability or 0.0, *([value for value in one if value is not None] for one in whole.worth.values())],
              subject.name)
    return whole


def narrowed(maps: AttentionMaps, layer: int | None, head: int | None) -> AttentionMaps:
    """One layer, one head of each, or one head of one; RequestError where there are fewer."""
    weights = maps.weights
    for axis, (name, number) in enumerate((("layer", layer), ("head", head))):
        if number is None:
            continue
        if not 1 <= number <= weights.shape[axis]:
            raise RequestError(f"--{name} {number}: there are {weights.shape[axis]}, numbered from 1.")
        weights = weights.take([number - 1], axis)
    return replace(maps, weights=weights, layer=layer or 1, head=head or 1)


def _answers(subject: Subject) -> tuple[tuple[tuple[str, float], ...], float | None]:
    """The likeliest answers with their probabilities, and the probability of the one that is explained."""
    import torch

    if subject.aim is None:
        return (), None
    with torch.no_grad():
        if subject.aim.is_span:
            return subject.likeliest, float(subject.score(subject.whole)[0].exp())
        said = subject.answers(subject.whole)[0]
    if subject.aim.kind == "number":
        return (), float(said[subject.aim.index])
    chances = said.exp()
    best = chances.topk(min(LIKELIEST, len(chances)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple((name_of_answer(subject, i), value) for i, value in pairs), float(chances[subject.aim.index])


def _listed(tokens: Sequence[ShownToken]) -> list[dict[str, Any]]:
    return [{"id": token.id, "text": token.text, "special": token.special} for token in tokens]


def _as_json(layer: LensLayer) -> dict[str, Any]:
    document: dict[str, Any] = {"layer": layer.layer, "top": [[
        {"token": word.text, "id": word.id, "probability": word.probability} for word in some] for some in layer.words]}
    return document if layer.rank is None else {**document, "explained": {"probability": layer.aim, "rank": layer.rank}}


def looks(maps: AttentionMaps, layer: int, head: int) -> str:
    """A head in words: its three strongest links.

    film → dull 0.83, [CLS] → dull 0.71, a → film 0.66
    """
    weights = maps.weights[layer, head]
    best = sorted(((value, query, key) for query, links in enumerate(strongest(weights)) for key, value in links),
                  key=lambda link: -link[0])[:3]
    return ", ".join(f"{maps.queries[query].text} → {maps.keys[key].text} {value:.2f}" for value, query, key in best)
