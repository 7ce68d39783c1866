"""Floors in words: what each one is, which figure stays below it, and whether all answers are the same one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmkit.objectives.base import more_is_better

WORDS = {
    "majority class": "the most frequent label of training", "most frequent labels": "the labels that most training "
    "rows have", "mean": "the mean of the training rows", "a guess": "a choice by chance",
    "TF-IDF, logistic regression": "a linear model on the words of the texts",
    "TF-IDF, ridge regression": "a linear model on the words of the texts",
    "TF-IDF, cosine": "how many words two texts share", "most frequent tag": "always the tag that most words have",
    "most frequent tag of each word": "the tag that each word has most often in training",
    "most similar sentence": "the sentence that shares most words with the question",
    "no answer": "always that there is no answer", "the longest choice": "always the longest choice",
    "the first three sentences": "the first three sentences of the text", "the source copied": "the text as it is",
    "chance": "both answers are held equally likely, log 2 nats",
    "the share of replaced tokens": "each token is doubted as often as tokens are replaced",
    "the more frequent answer": "always the answer that most pairs have",
}
"""What the short name of a floor means."""
OF_THESE = {
    "majority class": "the most frequent label of these rows", "most frequent labels": "the labels that most rows have",
    "mean": "the mean of the rows"}
"""The same, where no training row is known."""

CHANCE, REPLACED = "chance", "the share of replaced tokens"
"""Floors that a model reaches which learned nothing of its rows: a loss is held against them with some room."""
ROOM = 0.01
"""A loss that is less than this share below such a floor is at it: validation rows are few."""


def in_words(what: str, learned: bool = True) -> str:
    """`majority class` -> `majority class: the most frequent label of training`; without training rows, of these."""
    meant = (WORDS if learned else {**WORDS, **OF_THESE}).get(what, "")
    return f"{what}: {meant}" if meant else what


def known(
    floors: Mapping[str, Mapping[str, float]], entropy: Any, figures: Mapping[str, Any],
) -> dict[str, Mapping[str, float]]:
    """The floors of a run, with the loss that word frequencies alone give (`entropy`, nats a token), where its own is
    of single tokens too: then its perplexity is exp(loss).
    """
    found = dict(floors)
    loss, perplexity = figures.get("loss"), figures.get("perplexity")
    if isinstance(entropy, float) and isinstance(loss, float) and isinstance(perplexity, float) and math.isclose(
            perplexity, math.exp(min(700.0, loss)), rel_tol=1e-3):
        found["word frequencies alone"] = {"loss": entropy}
    return {**found, **by_chance(figures)}


def by_chance(figures: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The floors of objectives that ask yes or no, by the figures of their evaluation; none of others.

    Of pairs of sentences the loss of chance is log 2 (both are as likely by construction); of replaced tokens, whose
    share is r, it is -r log r - (1 - r) log(1 - r).
    """
    share, majority = figures.get("replaced"), figures.get("majority")
    if isinstance(share, float) and isinstance(figures.get("discriminator"), float):
        kept = 1 - share
        entropy = -sum(part * math.log(part) for part in (share, kept) if part > 0)
        return {REPLACED: {"discriminator": entropy, "accuracy": max(share, kept)}}
    if isinstance(majority, float) and "perplexity" not in figures:
        return {CHANCE: {"loss": math.log(2)}, "the more frequent answer": {"accuracy": majority}}
    return {}


def best(metric: str, floors: Mapping[str, Mapping[str, float]]) -> tuple[str, float] | None:
    """The floor that is hardest to reach by a metric, (what, figure); None where there is none."""
    sign = 1 if more_is_better(metric) else -1
    known = [(sign * float(some[metric]), what) for what, some in floors.items() if some.get(metric) is not None]
    if not known:
        return None
    figure, what = max(known)
    return what, sign * figure


def below(
    figures: Mapping[str, float | None], floors: Mapping[str, Mapping[str, float]], learned: bool = True,
) -> list[str]:
    """A sentence for each figure that doesn't reach its hardest floor; `learned`: floors know the training rows.

    {"accuracy": 0.5}, {"majority class": {"accuracy": 0.6}}
    ->  accuracy 0.5000 is below its floor, 0.6000 (majority class: the most frequent label of training)
    """
    out = []
    for name, figure in figures.items():
        floor = best(name, floors)
        if floor is None or figure is None:
            continue
        what, least = floor
        room = ROOM * least if what in (CHANCE, REPLACED) and not more_is_better(name) else 0.0
        if (figure < least) if more_is_better(name) else (figure > least - room):
            side = "below" if more_is_better(name) else "above" if figure > least else "at"
            out.append(f"{name} {figure:.4f} is {side} its floor, {least:.4f} ({in_words(what, learned)})")
    return out


def one_answer(said: Sequence[Any]) -> str:
    """A sentence where all answers to several rows are one; "" where they differ."""
    first = str(said[0]) if said else ""
    if len(said) < 2 or any(str(answer) != first for answer in said):
        return ""
    return f"all {len(said):,} answers are the same: {first}"
