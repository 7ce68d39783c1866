"""Answers that are spans of a text: how alike two are, in English (SQuAD) and in Chinese (CMRC 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』")
"""What CMRC 2018's evaluation leaves out; its list has …… too, which two of … are."""


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and more than one space (Rajpurkar et al. 2016, §6.1).

    >>> normalized("The  Broncos, (2015)!")
    'broncos 2015'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def segments(text: str) -> list[str]:
    """Chinese characters, each by itself, and words of other scripts, without punctuation (Cui et al. 2019, §5.1).

    >>> segments("由Nexon开发。")
    ['由', 'nexon', '开', '发']
    """
    bare = "".join("" if char in MARKS else char for char in text.lower().strip())
    return re.findall(rf"{HAN.pattern}|(?:(?!{HAN.pattern})\w)+|[^\w\s]", bare)


def exact(answer: str, true: str, chinese: bool) -> float:
    """1 where the two are the same when normalised."""
    if chinese:
        a, b = ("".join(char for char in text.lower().strip() if char not in MARKS) for text in (answer, true))
        return float(a == b)
    return float(normalized(answer) == normalized(true))


def overlap(answer: str, true: str, chinese: bool) -> float:
    """F1 of the words they share; in Chinese, of the longest run of segments that both have.

    Where one is no answer: 1 if the other is none either (Rajpurkar et al. 2018).
    """
    a, b = (segments(text) if chinese else normalized(text).split() for text in (answer, true))
    if not a or not b:
        return float(a == b)
    same = longest_run(a, b) if chinese else sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b))


def longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest piece that two sequences share."""
    best, before = 0, [0] * (len(b) + 1)
    for one in a:
        now = [0] * (len(b) + 1)
        for i, other in enumerate(b):
            if one == other:
                now[i + 1] = before[i] + 1
        best, before = max(best, *now), now
    return best


def scores(answers: Sequence[str], true: Sequence[Sequence[str]], questions: Sequence[str]) -> dict[str, float]:
    """Exact match and F1, each with the best of a question's true answers; none is the empty text.

    Where some questions have answers and others none, also of each kind by itself. Most questions say by which rules.
    """
    chinese = 2 * sum(HAN.search(question) is not None for question in questions) > len(questions)
    kept = [[text for text in texts if (segments(text) if chinese else normalized(text))] or [""] for texts in true]
    figures = [(max(exact(one, text, chinese) for text in texts), max(overlap(one, text, chinese) for text in texts))
               for one, texts in zip(answers, kept, strict=True)]
    out = dict(zip(("exact_match", "f1"), mean(figures), strict=True))
    parts = {"HasAns": [one for one, texts in zip(figures, true, strict=True) if texts],
             "NoAns": [one for one, texts in zip(figures, true, strict=True) if not texts]}
    if all(parts.values()):
        for name, some in parts.items():
            out |= dict(zip((f"{name}_exact", f"{name}_f1"), mean(some), strict=True))
    return out


def mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The means of both sides."""
    count = max(1, len(pairs))
    return sum(a for a, _ in pairs) / count, sum(b for _, b in pairs) / count
