"""Swap words of a text by a list of pairs, both ways: he runs -> she runs, 他 -> 她."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from llmkit.data.swapping.gender import GENDER
from llmkit.system.addresses import at_home
from llmkit.system.errors import DataError, RequestError, nearest

WIDE = ("\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
        "\U00020000-\U0002fa1f")
"""Scripts without spaces between words: Thai and its neighbours, kana, ideographs."""
ATOM = re.compile(f"[{WIDE}]|(?:[^\\W{WIDE}][\u0300-\u036f]*)+|[^\\w\\s]")
"""What words are compared by: a word between spaces or signs, a character of a script without spaces, a sign."""
BREAK = re.compile(r"\n\s*\n")
"""A blank line: no phrase goes over it."""
BUILTIN: Mapping[str, str] = {"gender": GENDER}
"""What can stand after `builtin:`, as the text of a list."""
ONE_WAY = "->"
USUAL = "write two words with a tab or a comma between them, as `he, she`, or `him -> her` for one way"


@dataclass(frozen=True)
class Word:
    """A word or phrase of a list."""

    text: str
    """As the list has it."""
    atoms: tuple[str, ...]
    gaps: tuple[bool, ...]
    """Whether there is space between two atoms."""

    @classmethod
    def of(cls, text: str) -> Word:
        """The word of a text: `father-in-law` has five atoms without gaps."""
        matches = list(ATOM.finditer(text))
        return cls(text, tuple(match[0] for match in matches),
                   tuple(one.end() < other.start() for one, other in pairwise(matches)))


@dataclass(frozen=True)
class Swaps:
    """A list of pairs that is ready to swap words; construct it through `read_swaps`."""

    path: str
    """What the recipe says: a file, or builtin:gender."""
    known: Mapping[tuple[str, ...], tuple[Word, Word]] = field(repr=False)
    """By the atoms of a word: it, and what takes its place."""
    longest: Mapping[str, int] = field(repr=False)
    """By the first atom in small letters: how many the longest word has that begins so."""
    digest: str
    """SHA-256 (hex) of the pairs: comments and their order don't count."""
    mode: str = "both"
    """both: a text is seen also with its words swapped; replace: half of the texts are seen so instead."""

    def spans(self, text: str) -> Iterator[tuple[int, int, str]]:
        """(first, stop, what takes its place) from left to right; the longest word of the list that fits is taken.

        A word in small letters is found however it is written, one with a capital only as it is. A word that is
        paired with itself stays, and nothing within it is swapped.
        """
        done = 0
        for match in ATOM.finditer(text):
            if match.start() < done or (most := self.longest.get(match[0].lower(), 0)) == 0:
                continue
            atoms = [(one[0], *one.span()) for one in islice(ATOM.finditer(text, match.start()), most)]
            length, pair = self._first(atoms, text)
            if pair is not None:
                done = atoms[length - 1][2]
                if pair[0].text != pair[1].text:
                    yield from _placed(atoms[:length], *pair, text)

    def _first(self, atoms: Sequence[tuple[str, int, int]], text: str) -> tuple[int, tuple[Word, Word] | None]:
        """(atoms of it, the pair) of the longest word that these atoms begin with; (0, None): with none."""
        written = tuple(atom for atom, *_ in atoms)
        small = tuple(atom.lower() for atom in written)
        for length in range(len(atoms), 0, -1):
            pair = self.known.get(written[:length]) or self.known.get(small[:length])
            if pair is not None and not BREAK.search(text, atoms[0][1], atoms[length - 1][2]):
                return length, pair
        return 0, None

    def __call__(self, text: str) -> str:
        """The text with its words swapped; as it is where it has none of them."""
        out, done = list[str](), 0
        for first, stop, new in self.spans(text):
            out += [text[done:first], new]
            done = stop
        return "".join([*out, text[done:]])


def _placed(
    atoms: Sequence[tuple[str, int, int]], word: Word, other: Word, text: str,
) -> Iterator[tuple[int, int, str]]:
    """Atom for atom where two words are built alike, so that line ends stay; else the whole of the one for the other.

    Old⏎man, `old man` and `old woman`  ->  Old⏎woman
    """
    if len(word.atoms) == len(other.atoms) and word.gaps == other.gaps:
        loud = len(atoms) > 1 and text[atoms[0][1] : atoms[-1][2]].isupper()
        for (atom, first, stop), before, after in zip(atoms, word.atoms, other.atoms, strict=True):
            if before != after:
                yield first, stop, after.upper() if loud else cased(after, atom, before)
    else:
        first, stop = atoms[0][1], atoms[-1][2]
        yield first, stop, cased(other.text, text[first:stop], word.text)


def with_swapped(texts: Iterable[str], swaps: Swaps | None) -> Iterator[str]:
    """Each text, and after one that has words of the list itself with these swapped."""
    for text in texts:
        yield text
        if swaps is not None and (other := swaps(text)) != text:
            yield other


def cased(word: str, like: str, listed: str) -> str:
    """A word in the case of the one that it takes the place of; as the list has it where that one is as it is listed.

    she, He, he -> She;  she, HE, he -> SHE;  she, he, he -> she
    """
    if like == listed or like == like.lower():
        return word
    if like.isupper() and sum(map(str.isalpha, like)) > 1:
        return word.upper()
    if like[0].isupper():
        words = like.split()
        every = len(words) > 1 and all(part[0].isupper() for part in words)
        return " ".join(_capital(part) for part in word.split(" ")) if every else _capital(word)
    return word


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def read_swaps(name: str, mode: str = "both") -> Swaps:
    """The pairs of a file or of builtin:gender.

    name    a UTF-8 file with a pair a line, tab or comma between the two; `->` between them swaps the first only.
            What follows a # is a comment. A word that is paired with itself stays as it is wherever it stands.

    DataError, with the line, where a file can't be read so or a word has two counterparts; RequestError for a built-in
    list that isn't there.
    """
    if name.startswith("builtin:"):
        short = name.removeprefix("builtin:")
        if short not in BUILTIN:
            raise RequestError(f"data.augment.swap: no built-in list is called {short!r}; there is "
                               f"{', '.join(f'builtin:{one}' for one in BUILTIN)}, or name a file."
                               f"{nearest(short, BUILTIN)}")
        lines = BUILTIN[short].splitlines()
    else:
        lines = _lines(name)
    known: dict[tuple[str, ...], tuple[Word, Word]] = {}
    places: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines, 1):
        said = line.partition("#")[0].strip()
        for word, other in _pairs(said, f"{name}:{number}") if said else ():
            key = word.atoms
            if key in known and known[key][1].text != other.text:
                raise DataError(f"{name}:{number}: {word.text!r} would become {other.text!r}, and by line "
                                f"{places[key]} {known[key][1].text!r}; a word has one counterpart. Leave one out, or "
                                f"say `{other.text} {ONE_WAY} {word.text}` where only the other is to be swapped.")
            known.setdefault(key, (word, other))
            places.setdefault(key, number)
    if not any(word.text != other.text for word, other in known.values()):
        raise DataError(f"{name}: has no pairs of words; {USUAL}, a pair a line.")
    listed = sorted((word.text, other.text) for word, other in known.values())
    digest = hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()
    longest: dict[str, int] = {}
    for atoms in known:
        longest[atoms[0].lower()] = max(len(atoms), longest.get(atoms[0].lower(), 0))
    return Swaps(name, known, longest, digest, mode)


def _lines(name: str) -> list[str]:
    """The lines of a file; DataError where there is none, or it isn't UTF-8."""
    try:
        content = at_home(name).read_bytes()
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}:{line}: a list of pairs is read as UTF-8, and this line is none; save the file as "
                        "UTF-8.") from error
    except (OSError, ValueError) as error:  # a name with a null character
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"data.augment.swap: {name}: {why}; name a file with a pair of words a line, or "
                        "builtin:gender.") from error


def _pairs(said: str, place: str) -> list[tuple[Word, Word]]:
    """What a line says is swapped for what: both ways, or only the first for the second where it has an arrow."""
    between = next((sign for sign in (ONE_WAY, "\t", ",", "，") if sign in said), None)
    parts = [" ".join(part.split()) for part in said.split(between)] if between is not None else [said]
    if len(parts) != 2 or not all(parts):
        what = "one word" if len(parts) == 1 else "a word and nothing" if len(parts) == 2 else f"{len(parts)} words"
        raise DataError(f"{place}: here is {what}, {said!r}; {USUAL}.")
    word, other = map(Word.of, parts)
    for one in (word, other):
        if not any(atom[0].isalnum() for atom in one.atoms):
            raise DataError(f"{place}: {one.text!r} is no word; {USUAL}.")
    return [(word, other)] if between == ONE_WAY or word.text == other.text else [(word, other), (other, word)]
