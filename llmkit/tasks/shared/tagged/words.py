"""Words and the tokens that they are made of: in a text, and in windows over a long one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from llmkit.data.swapping.pairs import Swaps
from llmkit.data.tokens import encode
from llmkit.prompting.shared.template import HAN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+(?:['’-][^\W{HAN}]+)*|[^\w\s]")
"""What a word is in text that isn't cut into words; of Chinese, a character."""
CLOSE = re.compile(rf"[{HAN}\u3000-\u303f\uff01-\uff5e]")
"""Characters that are written without a space beside them: Chinese ones, and their punctuation."""


def joined(words: Sequence[str]) -> str:
    """Words as text: a space between two, but none beside a Chinese character."""
    text = ""
    for word in words:
        text += f" {word}" if text and not CLOSE.search(text[-1] + word[0]) else word
    return text


def swapped_words(words: Sequence[str], swaps: Swaps) -> list[str] | None:
    """So many words, with those of a list swapped; None where a phrase would become one of more or fewer words.

    Mr Smith and his wife  ->  Ms Smith and her husband
    """
    text, starts = "", list[int]()
    for word in words:
        text = joined([text, word]) if text else word
        starts.append(len(text) - len(word))
    out, at = [list[str]() for _ in words], 0
    done = 0
    for first, stop, new in swaps.spans(text):
        while at + 1 < len(words) and starts[at + 1] <= first:
            out[at].append(text[max(done, starts[at]) : starts[at] + len(words[at])])
            at += 1
        if stop > starts[at] + len(words[at]):
            return None
        out[at] += [text[max(done, starts[at]) : first], new]
        done = stop
    for place in range(at, len(words)):
        out[place].append(text[max(done, starts[place]) : starts[place] + len(words[place])])
    return list(map("".join, out))


def subwords(words: set[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The token ids of each word by itself, with the space that byte-level BPE has before it.

    A word that a tokenizer drops (a control character) is its unknown token.
    """
    listed = sorted(words)
    a, b, both = encode(tokenizer, ["a", "b", "a b"])
    leading = "" if both == [*a, *b] else " "
    ids = encode(tokenizer, [word if CLOSE.match(word) else leading + word for word in listed])
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.eos_token_id
    return {word: some or [int(unknown or 0)] for word, some in zip(listed, ids, strict=True)}


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    (bare,) = encode(tokenizer, ["a"])
    whole = list(tokenizer("a")["input_ids"])
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare):]


@dataclass(frozen=True)
class Window:
    """A part of a sentence, in words: it is read from start to stop, and tagged from first to last."""

    start: int
    stop: int
    first: int
    last: int


def windows(sizes: Sequence[int], room: int, stride: int) -> list[Window]:
    """Parts of a sentence of at most `room` tokens that share at most `stride`; each word is tagged in one of them.

    sizes     tokens of each word, none more than room

    Of words that two parts share, the first half is tagged in the first: each with what context there is around it.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    while not spans or spans[-1][1] < len(sizes):
        stop, used = start, 0
        while stop < len(sizes) and used + sizes[stop] <= room:
            used, stop = used + sizes[stop], stop + 1
        spans.append((start, stop))
        shared, start_again = 0, stop
        while (stop < len(sizes) and start_again - 1 > start and shared + sizes[start_again - 1] <= stride
               and shared + sizes[start_again - 1] + sizes[stop] <= room):
            start_again -= 1
            shared += sizes[start_again]
        start = start_again
    edges = [0, *((right + left + 1) // 2 for (_, left), (right, _) in pairwise(spans)), len(sizes)]
    return [Window(*span, first, last) for span, (first, last) in zip(spans, pairwise(edges), strict=True)]
