"""A text cut into passages that can be found one by one: its paragraphs, and the sentences of those that are long."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

from llmkit.data.sentences import sentences

BREAK = "\u2029"
"""Parts two paragraphs, as a blank line does."""
HEADING = 16
"""Tokens of a paragraph that is taken for a heading where no full stop ends it: it goes with what follows."""
ITEM = re.compile(r"\s+\S|[|*+>#•·-]|\d+[.)]\s")
WIDEST = 10
"""Characters that count as a token at least: a line of base64 is one unknown word to some tokenizers."""

Span: TypeAlias = tuple[int, int]
Unit: TypeAlias = Literal["paragraph", "line", "whole"]
Count: TypeAlias = Callable[[Sequence[str]], Sequence[int]]
"""Texts to the number of their tokens."""


class _Piece(NamedTuple):
    """A part of a text that isn't cut any more."""

    start: int
    stop: int
    tokens: int
    paragraph: int
    """Which paragraph it is of."""
    heading: bool


def passages(text: str, count: Count, most: int, unit: Unit = "paragraph") -> list[Span]:
    """Where each passage of a text starts and stops; each has at most `most` tokens.

    A passage is a paragraph, with the heading above it. One that is too long is cut between sentences (code, a list or
    a table: between lines), and what follows a cut repeats the last ones before it, a fifth of a passage at most; what
    is still too long is cut between words. What has no token (an invisible space) is left out. `line`: where the text
    has no blank lines, each line is a paragraph. `whole`: the text is about one thing, as a row of a table is, and is
    cut only where it is too long.
    """
    blocks = list(_paragraphs(text, by_line=unit == "line"))
    headed = _has_gaps(text, blocks)
    pieces: list[_Piece] = []
    for number, (span, size) in enumerate(zip(blocks, _sizes(text, blocks, count), strict=True)):
        if size <= most:
            opens = headed and size < HEADING and text[span[1] - 1] not in ".!?。！？…"
            pieces.append(_Piece(*span, size, number, opens))
        else:
            ways = [_lines, _sentences] if _is_list(text, span) else [_sentences, _lines]
            pieces += (_Piece(*part, tokens, number, False) for part, tokens in _cut(text, span, count, most, ways))
    return list(_packed([piece for piece in pieces if piece.tokens], most, unit == "whole"))


def _packed(pieces: Sequence[_Piece], most: int, whole: bool) -> Iterator[Span]:
    """Pieces put together while they fit and belong together."""
    first = 0
    while first < len(pieces):
        last, total = first + 1, pieces[first].tokens
        while last < len(pieces) and total + pieces[last].tokens <= most and (
                whole or pieces[last - 1].heading or pieces[last].paragraph == pieces[last - 1].paragraph):
            total += pieces[last].tokens
            last += 1
        yield pieces[first].start, pieces[last - 1].stop
        before = first
        first = last
        if last < len(pieces) and (whole or pieces[last].paragraph == pieces[last - 1].paragraph):
            said_twice = 0
            while first - 1 > before:
                said_twice += pieces[first - 1].tokens
                if said_twice > most // 5 or said_twice + pieces[last].tokens > most:
                    break
                first -= 1


def _paragraphs(text: str, by_line: bool) -> Iterator[Span]:
    """Lines between blank ones; where there is no blank one and `by_line` is said, each line."""
    lines = list(_filled(text))
    if by_line and not _has_gaps(text, lines):
        yield from lines
        return
    start = stop = -1
    for line in lines:
        if start >= 0 and _apart(text, stop, line[0]):
            yield start, stop
            start = -1
        start = line[0] if start < 0 else start
        stop = line[1]
    if start >= 0:
        yield start, stop


def _filled(text: str) -> Iterator[Span]:
    """The lines that aren't blank, without the space behind them."""
    at = 0
    for part in text.split("\n"):
        for line in part.split(BREAK):
            kept = len(line.rstrip())
            if kept:
                yield at, at + kept
            at += len(line) + 1


def _apart(text: str, stop: int, start: int) -> bool:
    between = text[stop:start]
    return between.count("\n") > 1 or BREAK in between


def _has_gaps(text: str, spans: Sequence[Span]) -> bool:
    return any(_apart(text, one[1], other[0]) for one, other in pairwise(spans))


def _cut(
    text: str, span: Span, count: Count, most: int, ways: Sequence[Callable[[str, Span], list[Span]]]
) -> Iterator[tuple[Span, int]]:
    """Cut a part that is too long by the first way, what is still too long by the next, and in halves at last."""
    parts = ways[0](text, span) if ways else _halves(text, span)
    for part, size in zip(parts, _sizes(text, parts, count), strict=True):
        if size <= most or part[1] - part[0] < 2:
            yield part, size
        else:
            yield from _cut(text, part, count, most, ways[1:])


def _sizes(text: str, spans: Sequence[Span], count: Count) -> list[int]:
    tokens = count([text[start:stop] for start, stop in spans])
    return [max(size, (stop - start) // WIDEST) for size, (start, stop) in zip(tokens, spans, strict=True)]


def _is_list(text: str, span: Span) -> bool:
    """Whether most lines are indented, or begin with what begins items, rows of a table and quoted lines."""
    lines = text[span[0] : span[1]].split("\n")
    return 2 * sum(ITEM.match(line) is not None for line in lines) > len(lines)


def _sentences(text: str, span: Span) -> list[Span]:
    found, at = [], span[0]
    for sentence in sentences(text[span[0] : span[1]], "punctuation"):
        start = text.index(sentence, at)
        at = start + len(sentence)
        found.append((start, at))
    return found


def _lines(text: str, span: Span) -> list[Span]:
    return [(span[0] + start, span[0] + stop) for start, stop in _filled(text[span[0] : span[1]])]


def _halves(text: str, span: Span) -> list[Span]:
    """At the space that is nearest to the middle; without one, in the middle."""
    middle = (span[0] + span[1]) // 2
    before, after = text.rfind(" ", span[0] + 1, middle), text.find(" ", middle, span[1] - 1)
    near = [place for place in (before, after) if place >= 0]
    place = min(near, key=lambda place: abs(place - middle)) if near else middle
    return [(span[0], place), (place + bool(near), span[1])]
