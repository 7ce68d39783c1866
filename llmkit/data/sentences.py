"""A document cut into sentences: at its lines where it has several, at its punctuation otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator

CLOSING = "\"'”’»」』】》〉）)\\]"
FULL = "。！？；…"
# . ! ? end a sentence before a space, ! and ? before a Chinese character too, the Chinese marks wherever they are
END = re.compile(
    f"[{FULL}]+[{FULL}.!?]*[{CLOSING}]*|[.!?]+[{CLOSING}]*(?=\\s|$)|[!?]+[{CLOSING}]*(?=[\u4e00-\u9fff])")
ABBREVIATED = re.compile(r"(?:^|[\s(.\"'“])(?:[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|vs|cf|Fig|Sr|Jr|approx)\.$")


def sentences(text: str, way: str = "auto") -> list[str]:
    r"""The sentences of a document, without the space around them.

    `lines`: every line that isn't blank (the format of BERT's own data). `punctuation`: after . ! ? … 。！？； and the
    quotes and brackets that close there; a full stop inside a number, after an initial (J. Smith, e.g.) or after a few
    titles (Dr., Mr.) ends nothing. `auto`: lines where there are several, punctuation where there is one.

    >>> sentences("Pi is 3.14. Ask Dr. J. Smith! “Why?” he said.")
    ['Pi is 3.14.', 'Ask Dr. J. Smith!', '“Why?”', 'he said.']
    >>> sentences("今天下雨。“真的？”他问；没人回答……")
    ['今天下雨。', '“真的？”', '他问；', '没人回答……']
    >>> sentences("one. two.\nthree.")
    ['one. two.', 'three.']
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if way == "lines" or (way == "auto" and len(lines) > 1):
        return lines
    found, start = [], 0
    for match in END.finditer(text):
        if text[match.start()] == "." and ABBREVIATED.search(text, max(start, match.start() - 8), match.start() + 1):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    return [sentence for sentence in (*found, text[start:].strip()) if sentence]


# ---- where a text that was cut may end ----

STOPS = "。！？…．।؟۔։።။។"
"""Marks that end a sentence in Chinese, Japanese, Hindi, Arabic, Urdu, Armenian, Amharic, Burmese and Khmer."""
ENDING = re.compile(f"[{STOPS}.!?]+[{CLOSING}*_]*")
OPENING = " \t\n\"'“‘«「『【《〈（(\\[*_—-"
LISTED = re.compile(r"^[ \t]*(?:(?:[-*+•]|\(?\d+[.)])[ \t]+\S.*|(?:\d+、|[（(]?[一二三四五六七八九十]+[）)、])\S.*|"
                    r"\|.*\|[ \t]*)\n", re.MULTILINE)
"""A line of a list or a table: it is whole by itself."""
KNOWN = re.compile(
    r"(?:(?:^|\n)[ \t]*\(?\d+|(?:^|[\s(\"'“‘])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|vs|cf|Fig|Sr|Jr|"
    r"approx|Nos?|Vol|Gen|Col|Capt|Lt|Sgt|Rev|Mt|Inc|Ltd|Co|Corp|Jan|Feb|Aug|Sept?|Oct|Nov|Dec|al|pp|eds?|bzw|usw|Nr|"
    r"Mme|Mlle))\.$")
"""What a full stop behind it is no end of: a list's number, an initial, "e.g.", titles, months, firms."""
CODE = re.compile(r"^(?:\t| {4,})\S|^\s*(?:def|class|import|from|return|function|const|let|var|public|private|static|"
                  r"#include|using|package|SELECT|INSERT|<\?php|</?[a-z]+[ >])|[{}][ \t]*$|\);[ \t]*$|"
                  r"^\s*[\w.\[\]]+ ?[+*/-]?= ?\S|\w\(.*\):?[ \t]*$", re.MULTILINE)
"""A line that no sentence looks like."""


def sentence_ends(text: str, last: bool) -> Iterator[int]:
    """How many characters there are up to the end of each whole sentence, and of each line of a list or a table.

    `last`: nothing follows the text; else only the ends that hold whatever follows.
    """
    for match in ENDING.finditer(text):
        if _ends(text, match, last):
            yield match.end()
    for match in LISTED.finditer(text):
        yield match.end() - 1


def _ends(text: str, match: re.Match[str], last: bool) -> bool:
    """Whether a sentence ends at marks."""
    after, marks = text[match.end():], match[0].rstrip(f"{CLOSING}*_")
    following = after.lstrip(OPENING)
    if not following and not last and "\n" not in after:
        return False  # who knows what comes: a digit, a small letter, a quote that closes
    if following[:1].islower():
        return False  # "Why?" he asked ... and left.
    if set(marks) == {"…"} and marks == match[0] and after[:1].strip():
        return False  # 他想……也许
    if set(marks) <= set(".!?"):
        glued = bool(after[:1].strip()) and not ("." not in marks and after[0] >= "\u2e80")
        if glued or (marks == "." and KNOWN.search(text, max(0, match.start() - 16), match.start() + 1)):
            return False
        return bool(after) or marks != "." or not text[:match.start()][-1:].isdigit()  # "3." may become 3.14
    return True


def whole_until(text: str) -> int:
    r"""How many characters of a text are whole sentences; all where it has none, or goes on with what looks like code.

    A text that was cut ends best where its last sentence does. Sentences end at their marks in any script, with the
    quotes and brackets that close there; a full stop within a number, after an initial or a title ends nothing, nor
    does a mark that a small letter follows. Lines of lists and tables are whole.

    >>> text = 'Dr. Lee saw a cat. "Who are you?" he asked. The cat said that it'
    >>> text[:whole_until(text)]
    'Dr. Lee saw a cat. "Who are you?" he asked.'
    >>> whole_until("小猫说：“你好。”它又"), whole_until("no end yet"), whole_until("Do it. \n    print(i")
    (8, 10, 18)
    """
    end = max(sentence_ends(text, last=True), default=0)
    tail = text[end:]
    left_whole = not end or not tail.strip() or text.count("```") % 2 or CODE.search(tail)
    return len(text) if left_whole else end
