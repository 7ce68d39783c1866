"""What a text is like before anything learns from it: duplicates, scripts, lengths, unknown tokens."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit import recipe as recipes
from llmkit.data.encoder import IDEOGRAPHS, Unknown, encode
from llmkit.data.sources import Reader, open_source
from llmkit.planning.settle import settle
from llmkit.planning.vocabulary import speak
from llmkit.recipe import Source
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEAR, LIKE, SHINGLE, HASHES = 100_000, 0.8, 5, 128
"""Near duplicates: the most documents that are compared, the Jaccard similarity of their shingles from which on they
are some, words in a shingle, and hashes of a MinHash (Broder 1997; Lee et al. 2022, §4.2)."""
SHOWN, WIDE = 5, 60
"""Pairs that are shown, and characters of each text."""
LOOKED_AT = 2000
"""Characters of a document whose scripts are counted."""
TRIED = 2000
"""Documents, the first, whose start the tokenizer is tried on."""
ALONE = f"{IDEOGRAPHS}\u3040-\u30ff"
"""Characters that are written without spaces between words: each counts as one."""
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+")
TOGETHER = {"HIRAGANA": "JAPANESE KANA", "KATAKANA": "JAPANESE KANA", "CJK": "CHINESE CHARACTERS"}


@dataclass
class Look:
    """What is counted while the documents go by."""

    lengths: list[int] = field(default_factory=list)
    scripts: Counter[str] = field(default_factory=Counter)
    seen: dict[bytes, int] = field(default_factory=dict)
    """Hash of a text to the number of its first document."""
    places: list[str] = field(default_factory=list)
    """Where the first documents stand, as many as are compared."""
    texts: list[str] = field(default_factory=list)
    exact: list[tuple[int, int]] = field(default_factory=list)
    repeated: int = 0
    characters_repeated: int = 0

    def see(self, text: str, place: str) -> None:
        """Count a document."""
        number = len(self.lengths)
        self.lengths.append(len(text))
        self.scripts.update(scripts(text[:LOOKED_AT]))
        key = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
        first = self.seen.setdefault(key, number)
        if number < NEAR:
            self.places.append(place)
            self.texts.append(text)
        if first != number:
            self.repeated += 1
            self.characters_repeated += len(text)
            if number < NEAR and len(self.exact) < SHOWN:
                self.exact.append((first, number))


def quality(what: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Look at all documents of a source, or of the training text of a recipe.

    Returns {"source", "documents", "characters", "lengths": {"min", "median", "mean", "p90", "p99", "max"} of their
    characters, "scripts": {name: share of the letters}, "exact": {"documents", "share", "characters_share",
    "examples"}, "near": {"compared", "documents", "share", "similarity", "examples"} or None where datasketch isn't
    there, "unknown": {"tokens", "count", "share", "examples", "characters_per_token"} or None without a tokenizer,
    "notes"}. An example is
    [place, place, the start of the second text]. Errors as of `open_source`.
    """
    readers, tokenizer, notes = opened(what, settings)
    look, tried = Look(), list[str]()
    for text, place in documents(readers):
        look.see(text, place)
        if tokenizer is not None and len(tried) < TRIED:
            tried.append(text[:LOOKED_AT])
    sizes, letters = np.array(look.lengths, np.int64), look.scripts.total()
    near, said = near_duplicates(look)
    found = {
        "source": ", ".join(reader.label for reader in readers), "documents": len(sizes),
        "characters": int(sizes.sum()), "lengths": {
            "min": int(sizes.min()), "median": float(np.median(sizes)), "mean": float(sizes.mean()),
            "p90": float(np.percentile(sizes, 90)), "p99": float(np.percentile(sizes, 99)), "max": int(sizes.max())},
        "scripts": {name: count / letters for name, count in look.scripts.most_common()},
        "exact": {"documents": look.repeated, "share": look.repeated / len(sizes),
                  "characters_share": look.characters_repeated / max(1, int(sizes.sum())),
                  "examples": [shown(look, *pair) for pair in look.exact]},
        "near": near, "unknown": None if tokenizer is None else unknown_share(tokenizer, tried)}
    notes += [*(note for reader in readers for note in reader.notes), *said]
    return {**found, "notes": list(dict.fromkeys(notes))}


def opened(what: str, settings: Sequence[str]) -> tuple[list[Reader], PreTrainedTokenizerBase | None, list[str]]:
    """(sources, the recipe's tokenizer, what there is to say) of a recipe, or of a source without one."""
    is_recipe = what in recipes.packaged() or Path(what).suffix in (".yaml", ".yml")
    if not is_recipe:
        if settings:
            raise RequestError(f"--set {settings[0]}: is a field of a recipe, and {what} is a source; name a recipe.")
        return [open_source(Source(what), at="")], None, [
            "unknown tokens aren't counted: a source has no tokenizer; name a recipe for that"]
    settled = settle(recipes.load(what, settings), of_any_size=True)
    return list(settled.train), speak(settled), []


def documents(readers: Iterable[Reader]) -> Iterator[tuple[str, str]]:
    """The text of each document, and where it stands."""
    for reader in readers:
        yield from ((text, str(place)) for text, place in reader.documents())


def scripts(text: str) -> Counter[str]:
    """How many letters of a text are of which script, by their names in Unicode.

    >>> scripts("the 猫 кот")
    Counter({'LATIN': 3, 'CYRILLIC': 3, 'CHINESE CHARACTERS': 1})
    """
    out: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        if letter.isalpha():
            name = unicodedata.name(letter, "UNNAMED").split()[0].partition("-")[0]
            out[TOGETHER.get(name, name)] += count
    return out


def shingles(text: str) -> set[bytes]:
    """The runs of SHINGLE words of a text, lower-cased; a Chinese character, or one of kana, is a word."""
    words = WORD.findall(text.lower())
    runs = range(max(1, len(words) - SHINGLE + 1))
    return {" ".join(words[i : i + SHINGLE]).encode() for i in runs} if words else set()


def near_duplicates(look: Look) -> tuple[dict[str, Any] | None, list[str]]:
    """(documents that are much like one before them, what there is to say); None where datasketch isn't installed."""
    try:
        from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]
    except ImportError:
        return None, ["near duplicates aren't looked for: that needs datasketch: pip install 'llmkit-train[quality]'"]
    index, count, examples = MinHashLSH(threshold=LIKE, num_perm=HASHES), 0, list[list[str]]()
    kept: dict[int, Any] = {}
    for number, text in enumerate(look.texts):
        if not (parts := shingles(text)):
            continue
        sketch = MinHash(num_perm=HASHES, seed=1)
        sketch.update_batch(parts)
        like = [first for first in sorted(index.query(sketch)) if kept[first].jaccard(sketch) >= LIKE]
        if like:
            count += 1
            if " ".join(text.split()) != " ".join(look.texts[like[0]].split()) and len(examples) < SHOWN:
                examples.append(shown(look, like[0], number))
            continue
        kept[number] = sketch
        index.insert(number, sketch)
    compared = len(look.texts)
    said = [] if compared == len(look.lengths) else [
        f"near duplicates are looked for in the first {compared:,} of {len(look.lengths):,} documents; for a whole "
        "corpus see docs/large_text.md"]
    return {"compared": compared, "documents": count, "share": count / max(1, compared), "similarity": LIKE,
            "examples": examples}, said


def shown(look: Look, first: int, number: int) -> list[str]:
    """[where the first stands, where the second stands, how the second begins]"""
    place = look.places[first] if first < len(look.places) else f"document {first + 1}"
    return [place, look.places[number], " ".join(look.texts[number].split())[:WIDE]]


def unknown_share(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> dict[str, Any]:
    """How many tokens of some texts the tokenizer doesn't know, and how many characters one has."""
    unknown = Unknown(tokenizer)
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        unknown.see(ids, [text])
    return {"tokens": unknown.tokens, "count": unknown.count, "share": unknown.count / max(1, unknown.tokens),
            "examples": unknown.examples, "characters_per_token": sum(map(len, texts)) / max(1, unknown.tokens)}
