"""Words with their tags behind a slash, a sentence a line: 人民网/nz 讯/ng (People's Daily), The/at dog/nn (Brown)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from llmkit.data.files import Place
from llmkit.data.formats.base import FileReader, lines
from llmkit.system.errors import DataError
from llmkit.tasks.shared.tagged.conll import CELL, Sentence

WORD_AND_TAG = re.compile(r"(.+)/([A-Za-z][\w$*+-]*|[^\w\s/]+)")
"""A word and its tag; of either/or/cc, the last slash counts. A tag is letters, or a mark (Brown's ./.)."""
CLOSED = re.compile(r"(.+?)\]/?([A-Za-z]+\d?)?")
"""A word and its tag at the end of a name in brackets: 电视台/n]nt."""
ARTICLE = re.compile(r"\d{8}-\d{2}-\d{3}-\d{3}")
"""What stands before each line of People's Daily: day, page, article, paragraph."""
SOUND = re.compile(r"\{[a-z]+\d\}")
"""How a character is spoken, where it could be in two ways: 长{chang2}."""
LOOKED_AT = 200
"""Lines from which it is told how a file is written."""
EVEN = 0.9
"""The share of what stands between spaces that must be a word and its tag."""


def is_slashed(path: Path, reader: FileReader) -> bool:
    """Whether the lines of a file are words with tags behind a slash; a file of a word a line, 1/2 CD, isn't."""
    rows = [CELL.findall(line) for _, line in islice(lines(path, reader), LOOKED_AT)]
    cells = [_read(cell) for row in rows for cell in row]
    several = sum(len(row) > 1 for row in rows) * 2 > sum(map(bool, rows))
    return bool(cells) and several and sum(cell is not None for cell in cells) >= EVEN * len(cells)


def sentences(path: Path, reader: FileReader, answered: bool, notes: list[str]) -> Iterator[Sentence]:
    """The sentence of each line. A word without a tag is a DataError, to `reader.spare`.

    [中央/n 电视台/n]nt 报道/v  ->  中央 电视台 报道, n n v

    What brackets say of several words, articles' numbers and how characters are spoken is passed over, and told in
    `notes` at the end.
    """
    left = Counter[str]()
    for number, line in lines(path, reader):
        place, words, tags = Place(str(path), number), list[str](), list[str]()
        bad = None
        for cell in CELL.findall(line):
            found = _read(cell)
            if found is None:
                bad = bad or cell
                continue
            word, tag, names = found
            left["names"] += names
            if not words and ARTICLE.fullmatch(word):
                left["articles"] += 1
                continue
            spoken = SOUND.sub("", word)
            left["sounds"] += spoken != word
            words.append(spoken or word)
            tags.append(tag)
        if bad is not None:
            reader.spare(DataError(f"{place}: {bad!r} has no tag; here a word is word/TAG, and a line is a sentence."))
        elif words:
            yield Sentence(words, tags if answered else None, place)
    of = {"names": "{count} names in brackets ([…]nt), whose words have tags of their own, are passed over",
          "articles": "{count} numbers of articles before a line are passed over",
          "sounds": "{count} notes of how a character is spoken are passed over"}
    said = [words.format(count=f"{left[kind]:,}") for kind, words in of.items() if left[kind]]
    note = f"{path}: " + "; ".join(["words with tags behind a slash, a sentence a line", *said])
    if note not in notes:
        notes.append(note)


def _read(cell: str) -> tuple[str, str, int] | None:
    """(word, tag, names in brackets that end there); None where there is no tag."""
    names = 0
    while (match := CLOSED.fullmatch(cell)) is not None and WORD_AND_TAG.fullmatch(match[1].split("]", 1)[0]):
        cell, names = match[1], names + 1
    match = WORD_AND_TAG.fullmatch(cell)
    if match is None:
        return None
    word = match[1]
    while len(word) > 1 and word[0] == "[":
        word = word[1:]
    return word, match[2], names
