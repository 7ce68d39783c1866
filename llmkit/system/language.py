"""In which language a sentence is said: English is what the code writes, and a catalogue has its translations.

Code says a sentence as it is, and where it is shown it is looked up: `no row 7 in a.csv` was written by the f-string
`no row {number} in {path}`, so the catalogue's entry `no row {0} in {1}` translates it, whatever stands in it. Only
sentences are translated: names of fields, values, places (`recipe.yaml:3: `) and JSON stay. What has no entry stays
English, and the whole of it: never half.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ENGLISH = "en"
LANGUAGE = "LLMKIT_LANG"
"""The environment variable that says the language, whatever the locale is."""
FOLDER = Path(__file__).parent / "messages"
"""A catalogue a language: zh.po."""
HOLE = re.compile(r"\{(\d+)([!~#]?)\}")
"""Where a value is put: with `!` it is a sentence itself, which has to have a translation too; with `~` it is a word
that only English needs there, as a plural's s, and is left out; with `#` it is a number, so that `{0} rows` is not also
said of `the last rows`."""
PROSE = re.compile(r"(?<![\w./-])[a-z']{2,} [a-z']{2,} [a-z']{2,}(?![\w./=-])|[.?!] [A-Z][a-z]")
"""Three English words, or where a sentence begins: a value that has them would leave a line half translated."""
COUNT = re.compile(r"-?[\d.,]+( [kMGTPE])?")
PLURAL = re.compile(r"(e?s|is|are|was|were|has|have|it|them|its|their|isn't|aren't)?")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|«[^»]*»")
LIST = re.compile(r"[\w./*<>|-]+(?:(?:, | or | and )[\w./*<>|-]+)+")
"""Names, `a, b or c`."""
TRIED = 40
"""Ways to divide a sentence among the holes of an entry that are tried."""
MOST = 200
"""Sentences within a line that are looked up before it stays English: some milliseconds."""
DEEPEST = 6
"""Sentences within sentences."""
ENDS = MappingProxyType({".": "。", ";": "；"})
"""What a sentence may end with that its entry doesn't have."""
LONGEST = 3000
"""Characters of a line that is looked up."""


class Utterance:
    """An entry of a catalogue: `no row {0} in {1}` and its translation.

    >>> Utterance("no row {0} in {1}", "{1} 里没有第 {0} 行").literals
    ('no row ', ' in ', '')
    """

    def __init__(self, english: str, translation: str) -> None:
        self.english, self.translation = english, translation
        self.literals = tuple(HOLE.split(english.strip())[::3])
        self.weight = sum(map(len, self.literals))
        told = {int(number) for number, mark in HOLE.findall(translation) if mark == "!"}
        self.told = tuple(number in told for number in range(len(self.literals) - 1))

    def divided(self, text: str) -> Iterator[list[str]]:
        """What may have stood in the holes, so that the text came out; nothing where it didn't."""
        if text.startswith(self.literals[0]) and text.endswith(self.literals[-1]) and all(
                literal in text for literal in self.literals):
            yield from _divided(text[len(self.literals[0]):], self.literals[1:], self.told)


def _divided(text: str, literals: tuple[str, ...], told: tuple[bool, ...]) -> Iterator[list[str]]:
    """A value that is a sentence has as much of the text as it can, any other as little."""
    if len(literals) == 1:
        if text.endswith(literals[0]):
            yield [text[: len(text) - len(literals[0])]]
        return
    for start in _starts(text, literals[0], told[0]):
        for values in _divided(text[start + len(literals[0]):], literals[1:], told[1:]):
            yield [text[:start], *values]


def _starts(text: str, literal: str, last: bool) -> Iterator[int]:
    """Where a literal stands in a text, from the start or from the end."""
    if last:
        start = text.rfind(literal)
        while start >= 0:
            yield start
            start = text.rfind(literal, 0, start + len(literal) - 1) if start else -1
        return
    start = text.find(literal)
    while start >= 0:
        yield start
        start = text.find(literal, start + 1)


def languages() -> list[str]:
    """What messages can be had in: English, and a language a catalogue."""
    return [ENGLISH, *sorted(path.stem for path in FOLDER.glob("*.po"))]


def chosen() -> str:
    """`zh` where LLMKIT_LANG or else the locale says so (LC_ALL, LC_MESSAGES, LANG, in gettext's order), else `en`."""
    wanted = os.environ.get(LANGUAGE) or _locale()
    name = re.split(r"[_.@-]", wanted.lower())[0]
    return name if name in languages() and _shown(name) else ENGLISH


def _locale() -> str:
    said = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    if said.partition(".")[0] in ("", "C", "POSIX"):
        return ENGLISH
    return (os.environ.get("LANGUAGE") or "").partition(":")[0] or said


def _shown(name: str) -> bool:
    """Whether stderr can show the letters of a language: a stream in ASCII or Latin-1 can't show Chinese."""
    try:
        "行".encode(getattr(sys.stderr, "encoding", None) or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return name == ENGLISH
    return True


def unknown() -> str | None:
    """What to say of an LLMKIT_LANG that there are no messages in; else None."""
    wanted = os.environ.get(LANGUAGE)
    if not wanted or re.split(r"[_.@-]", wanted.lower())[0] in languages():
        return None
    return f"{LANGUAGE}={wanted}: messages are in {' and '.join(languages())}; English is used."


def read(path: Path) -> dict[str, str]:
    """The entries of a .po file, English to translation; those not translated yet are left out.

    msgid "no row {0} in {1}"
    msgstr "{1} 里没有第 {0} 行"

    Raises ValueError for what is no such file, with the line.
    """
    texts: dict[str, str] = {}
    out: dict[str, str] = {}
    field = ""
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), 'msgid ""'], 1):
        word, _, quoted = line.strip().partition(" ") if not line.startswith('"') else (field, "", line.strip())
        if not line.strip() or line.startswith("#"):
            continue
        if word not in ("msgid", "msgstr") or not quoted.startswith('"'):
            raise ValueError(f"{path}:{number}: neither msgid nor msgstr, and no text goes on here.")
        if line.startswith("msgid"):
            if texts.get("msgid") in out:
                raise ValueError(f"{path}:{number}: the entry before is there twice: {texts['msgid']!r}.")
            if texts.get("msgid") and texts.get("msgstr"):
                out[texts["msgid"]] = texts["msgstr"]
            texts.clear()
        if not line.startswith('"'):
            field, texts[word] = word, ""
        texts[field] += json.loads(quoted)
    return out


class Catalogue(NamedTuple):
    """All entries of a language."""

    plain: dict[str, str]
    """Those without a hole."""
    holed: tuple[Utterance, ...]
    """The others, what has most words of its own first."""


@cache
def catalogue(name: str) -> Catalogue:
    """The catalogue of a language."""
    entries = read(FOLDER / f"{name}.po")
    holed = [Utterance(*entry) for entry in entries.items() if HOLE.search(entry[0])]
    return Catalogue({english.strip(): translation for english, translation in entries.items()},
                     tuple(sorted(holed, key=lambda one: -one.weight)))


def translate(text: str, name: str | None = None) -> str:
    """A text in the language that is chosen, line by line; a line of which it has no translation stays as it is."""
    name = name or chosen()
    if name == ENGLISH:
        return text
    return "\n".join(_line(line, name) for line in text.split("\n"))


def exactly(text: str) -> str:
    """A text without values in the language that is chosen: help, of which there is much on one page."""
    name = chosen()
    return text if name == ENGLISH else catalogue(name).plain.get(text.strip(), text)


def _line(line: str, name: str) -> str:
    words = line.strip()
    if not words or len(words) > LONGEST:
        return line
    before = line[: len(line) - len(line.lstrip())]
    found = Translation(name).sentence(words)
    return line if found is None else before + found


class Translation:
    """A line on its way into a language."""

    def __init__(self, name: str) -> None:
        self.catalogue = catalogue(name)
        self.left = MOST
        self.done: dict[str, str | None] = {}

    def sentence(self, text: str, depth: int = 0) -> str | None:
        """The translation of a sentence: by an entry, after the place or value that it is about, or as several."""
        if text in self.done:
            return self.done[text]
        self.done[text] = None  # where it stands within itself
        if depth <= DEEPEST and self.left > 0:
            self.left -= 1
            self.done[text] = (self.entry(text, depth) or self.placed(text, depth) or self.several(text, depth)
                               or self.valued(text) or self.ended(text, depth))
        return self.done[text]

    def entry(self, text: str, depth: int) -> str | None:
        """By the entry that has most words of its own."""
        if text in self.catalogue.plain:
            return self.catalogue.plain[text]
        for message in self.catalogue.holed:
            for values in islice(message.divided(text), TRIED):
                if (filled := self.filled(message, values, depth)) is not None:
                    return filled
        return None

    def filled(self, message: Utterance, values: list[str], depth: int) -> str | None:
        """The translation with its values; None where one of them is English that stays."""
        ready: dict[str, str] = {}
        end = ""
        for number, mark in HOLE.findall(message.translation):
            value = values[int(number)]
            if mark == "~":
                if not PLURAL.fullmatch(value):
                    return None
                value = ""
            elif mark == "#":
                if not COUNT.fullmatch(value):
                    return None
            elif mark and value.strip():
                inner = self.sentence(value.strip(), depth + 1)
                if inner is None:
                    return None
                value = inner
            elif is_prose(value):
                return None
            elif int(number) == len(values) - 1 and message.english.endswith("}") and value.endswith("."):
                value, end = value[:-1], "。"  # the sentence's own end, which its entry doesn't have
            if not mark:
                value = self.listed(value)
            ready[number + mark] = value
        return HOLE.sub(lambda hole: ready[hole[1] + hole[2]], message.translation) + end

    def listed(self, value: str) -> str:
        """`'a' or 'b'`, `lora and full`: what joins them is translated, where it isn't quoted."""
        if not LIST.fullmatch(QUOTED.sub("x", value)):
            return value
        words = {f" {word} ": f" {self.catalogue.plain[word]} " for word in ("or", "and")}
        quoted, between = QUOTED.findall(value), QUOTED.split(value)
        for english, translation in words.items():
            between = [piece.replace(english, translation) for piece in between]
        return "".join(left + right for left, right in zip(between, [*quoted, ""], strict=True))

    def placed(self, text: str, depth: int) -> str | None:
        """`recipe.yaml:3: training.seed: ` stays before what is said of it; `majority class: ` is translated too."""
        for colon in re.finditer(": ", text):
            place, rest = text[: colon.start()], text[colon.end():]
            if " " in place:  # a field or a file of that name stays
                place = self.catalogue.plain.get(place, place)
            if is_prose(place):
                return None
            if found := self.sentence(rest, depth + 1):
                return f"{place}: {found}"
        return None

    def valued(self, text: str) -> str | None:
        """`-5 should be greater than 0.`: what pydantic says stands after the value that it says it of."""
        parts = re.fullmatch(r"(.{1,80}?) (should .*)\.", text)
        said = self.entry(parts[2], DEEPEST) if parts else None
        return f"{parts[1]} {said}。" if parts and said else None

    def ended(self, text: str, depth: int) -> str | None:
        """`Got unexpected extra argument(s) (b).`: its entry has no full stop, and a line of ours ends with one.

        So it is with the semicolon, where notes are put together.
        """
        mark = ENDS.get(text[-1:])
        found = self.entry(text[:-1], depth) if mark and not text.endswith("..") else None
        return f"{found}{mark}" if found else None

    def several(self, text: str, depth: int) -> str | None:
        """`It is so. Do that.`: where each of them has a translation."""
        for end in re.finditer(r"(?<=[.?!;]) ", text):
            first, rest = text[: end.start()], text[end.end():]
            if (before := self.sentence(first, depth + 1)) and (after := self.sentence(rest, depth + 1)):
                return before + after
        return None


def is_prose(text: str) -> bool:
    """Whether a value is English that would stand among words of another language; what is quoted doesn't count.

    >>> is_prose("'the cat sat'"), is_prose("masked_lm, causal_lm"), is_prose("there is no such file")
    (False, False, True)
    """
    return PROSE.search(QUOTED.sub("", text)) is not None
