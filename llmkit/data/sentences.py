"""A document cut into sentences: at its lines where it has several, at its punctuation otherwise."""

from __future__ import annotations

import re

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
