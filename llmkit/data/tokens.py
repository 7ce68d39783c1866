"""Documents to token ids: computed once, cached by content, and mapped into memory, not read."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data import tokenizer as tokenizers
from llmkit.data.encoder import Encoder, Unknown, Written, places
from llmkit.data.encoder import Ids as Ids
from llmkit.data.encoder import encode as encode
from llmkit.data.mapped import mapped, portable
from llmkit.data.sentences import sentences
from llmkit.data.sources import Reader
from llmkit.data.swapping.pairs import with_swapped
from llmkit.data.words import Phrases, bare, check
from llmkit.system import cache
from llmkit.system.errors import DataError, PlaceError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = "1"  # part of every key: raise it when what is written changes
PIECE = 1_000_000  # characters encoded at once; a longer document is cut where no token can be
SMALL = 64 << 10
"""Bytes of a file that is read: one that is mapped has a descriptor, of which a process has a thousand or some more."""
STRETCH = 1_000_000  # tokens counted at once
AT_ONCE = 1000  # texts that a tokenizer gets together
LINE, SPACE = re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True)
class Documents:
    """Documents as slices of one array of ids: document `i` is `ids[starts[i]:stops[i]]`, without special tokens."""

    ids: Ids
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    digests: NDArray[np.uint64]
    """A hash of each document's text."""
    sentences: NDArray[np.int64] | None = None
    """Where sentences start in `ids`, of all documents that these were taken from; None where nobody asked."""
    own: NDArray[np.uint64] | None = None
    """Where words are swapped, a hash of each document's own text: of a swapped one, `digests` has its original's."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getstate__(self) -> dict[str, Any]:
        return portable(vars(self))  # a loader's worker maps the tokens too

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(mapped(state))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each document."""
        return self.stops - self.starts

    def split(self, share: float, seed: int) -> tuple[Documents, Documents]:
        """(training, validation): documents drawn by a hash of seed and content; of a single document, its end."""
        if self.swapped.any():
            return self._split_swapped(share, seed)
        if len(self) == 1:
            cut = self.starts + (self.lengths * (1 - share)).astype(np.int64)
            if self.sentences is not None:  # not within a sentence
                cut = np.append(self.sentences, self.stops)[np.searchsorted(self.sentences, cut)].clip(max=self.stops)
            return replace(self, stops=cut), replace(self, starts=cut)
        held = self.drawn(seed) < np.uint64(int(share * 2**64))
        return self.where(~held), self.where(held)

    def _split_swapped(self, share: float, seed: int) -> tuple[Documents, Documents]:
        """Swapped documents are on the side of their originals, and none is held out."""
        if (~self.swapped).sum() == 1:
            raise RequestError("data.validation: of a single document its end is held out, and with data.augment the "
                               "rest would be seen swapped; give validation sources of its own, or cut the text into "
                               "documents (data.document: paragraph).")
        held = self.drawn(seed) < np.uint64(int(share * 2**64))
        return self.where(~held), self.where(held & ~self.swapped)

    @property
    def swapped(self) -> NDArray[np.bool_]:
        """Which documents are others with their words swapped."""
        return np.zeros(len(self), np.bool_) if self.own is None else self.own != self.digests

    def drawn(self, seed: int) -> NDArray[np.uint64]:
        """A number for each document, evenly drawn from all of 64 bits by the seed and its text."""
        return _mix(self.digests ^ _mix(np.array([seed], dtype=np.uint64)))

    def where(self, chosen: NDArray[Any]) -> Documents:
        """Some of the documents: those that are true, or those with these numbers, in their order."""
        return replace(self, starts=self.starts[chosen], stops=self.stops[chosen], digests=self.digests[chosen],
                       own=None if self.own is None else self.own[chosen])

    def entropy(self, most: int = 10_000_000) -> float:
        """Entropy of the unigram distribution in nats a token: what a model knows that knows only frequencies."""
        return entropy([self], most)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@dataclass
class Marked(Reader):
    """A source whose tokens say where words or sentences start; construct it through `marked`."""

    words: str | None = None
    """Who says what a word is, `tokenizer` or `jieba`: ids are uint32, and a high bit marks the first of a word."""
    sentences: str | None = None
    """What a sentence is: auto, lines or punctuation; each is tokenized by itself."""
    phrases: Phrases | None = None
    """What is a word besides."""

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the source's fingerprint and of what is marked in it."""
        who = f"jieba {version('jieba')}" if self.words == "jieba" else self.words
        besides = "" if self.phrases is None else f" {self.phrases.digest}"
        return hashlib.sha256(f"{super().fingerprint()} {who} {self.sentences}{besides}".encode()).hexdigest()


def marked(
    readers: Sequence[Reader], words: str | None = None, sentences: str | None = None, phrases: Phrases | None = None,
) -> list[Reader]:
    """The sources, read with marks of words or sentences; RequestError where what finds words is missing."""
    if words is not None:
        check(words)
    out: list[Reader] = []
    for reader in readers:
        made = Marked(reader.source, reader.label)
        vars(made).update(vars(reader), words=words, sentences=sentences, phrases=phrases)
        out.append(made)
    return out


def tokenize(reader: Reader, tokenizer: PreTrainedTokenizerBase, plain: bool = False) -> Documents:
    """Every document of a source as token ids without special tokens, from the cache where they are.

    With `plain`, control tokens that are written in a text are text.
    """
    parts = (FORMAT, reader.fingerprint(), tokenizers.fingerprint(tokenizer), *(["split"] if plain else []))
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    folder = cache.once("tokens", key, lambda staging: _write(reader, tokenizer, staging, plain))
    try:
        documents, unknown = _read(folder, reader), Unknown(tokenizer)
        about = json.loads((folder / "about.json").read_text())
        if "unknown" in about:
            unknown.tokens, (unknown.count, unknown.examples) = about["tokens"], about["unknown"]
        else:  # written by an earlier version
            for start in range(0, len(documents.ids), STRETCH):
                unknown.see(documents.ids[start : start + STRETCH], ())
        written = Written(tokenizer, plain)
        if "controls" in about:
            written.counts.update(about["controls"])
        else:  # likewise
            for start in range(0, len(documents.ids), STRETCH):
                written.see_ids(documents.ids[start : start + STRETCH])
        for said in (unknown.note(), written.note(), found_phrases(reader, about)):
            note = f"{reader.name}: {said}"
            reader.notes += [note] if said and note not in reader.notes else []
        return documents
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise PlaceError(f"{reader.label}: this process may open no more files, and each large source needs some; "
                             "allow more (ulimit -n), or name many files by one pattern: corpora/*.txt.") from error
        why = " ".join(str(error).split())[:200]
        raise PlaceError(f"{folder}: these cached tokens are damaged ({why}); delete the folder.") from error


def found_phrases(reader: Reader, about: dict[str, Any]) -> str:
    """How many of a dictionary's phrases are in a source, in words; nothing where none were looked for."""
    phrases = reader.phrases if isinstance(reader, Marked) else None
    if phrases is None:
        return ""
    different, times = about["phrases"]
    return (f"{different:,} of the {len(phrases.known):,} phrases of {phrases.path} are there, {times:,} times; each "
            "is hidden as a whole")


def _read(folder: Path, reader: Reader) -> Documents:
    """What `_write` wrote."""
    about = json.loads((folder / "about.json").read_text())
    reader.bad.update(dict.fromkeys(about.get("bad", ())))
    if about["dtype"] not in ("uint16", "uint32"):
        raise ValueError(f"ids of type {about['dtype']}")
    path = folder / "ids.bin"
    large = path.stat().st_size > SMALL
    ids: Ids = np.asarray(np.memmap(path, about["dtype"], "r")) if large else np.fromfile(path, about["dtype"])
    offsets, digests = (_array(folder / f"{name}.npy") for name in ("offsets", "digests"))
    path = folder / "sentences.npy"
    starts = _array(path) if path.is_file() else None
    if len(ids) != about["tokens"] or offsets[-1] != about["tokens"]:
        raise ValueError(f"{len(ids):,} ids, where {about['tokens']:,} are said to be")
    path = folder / "own.npy"
    return Documents(ids, offsets[:-1], offsets[1:], digests, starts, _array(path) if path.is_file() else None)


def _array(path: Path) -> NDArray[Any]:
    """An array of a file, mapped where it is large; as a plain one: a slice of a memmap takes five times as long."""
    return np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > SMALL else None))


def _write(reader: Reader, tokenizer: PreTrainedTokenizerBase, folder: Path, plain: bool) -> None:
    words, way = (reader.words, reader.sentences) if isinstance(reader, Marked) else (None, None)
    phrases = reader.phrases if isinstance(reader, Marked) else None
    encoder, unknown, written = Encoder(tokenizer, words, plain, phrases), Unknown(tokenizer), Written(tokenizer, plain)
    offsets, digests, starts = array("q", [0]), bytearray(), array("q")  # starts of sentences
    own = bytearray()
    with (folder / "ids.bin").open("wb") as out:
        for texts, originals in _batches(reader):
            parts = [(i, part) for i, text in enumerate(texts)
                     for part in ([text] if way is None else sentences(text, way))]
            pieces = [(i, piece, n == 0) for i, part in parts for n, piece in enumerate(cut(part, PIECE))]
            ids, sizes = encoder([piece for _, piece, _ in pieces])
            unknown.see(ids, texts)
            if plain:
                written.see(texts)
            else:
                written.see_ids(ids)
            ends, of = offsets[-1] + np.cumsum(sizes), np.array([i for i, *_ in pieces], np.int64)
            if way is not None:
                opens = np.array([first for *_, first in pieces], np.bool_) & (sizes > 0)
                starts.frombytes((ends - sizes)[opens].tobytes())
            lengths = np.bincount(of, sizes, len(texts)).astype(np.int64)
            offsets.frombytes((offsets[-1] + np.cumsum(lengths)).tobytes())
            ids.tofile(out)
            digests += _digests(originals)
            own += b"" if reader.swaps is None else _digests(texts)
    np.save(folder / "offsets.npy", np.frombuffer(offsets, np.int64))
    np.save(folder / "digests.npy", np.frombuffer(digests, np.uint64))
    if reader.swaps is not None:
        np.save(folder / "own.npy", np.frombuffer(own, np.uint64))
    if way is not None:
        np.save(folder / "sentences.npy", np.frombuffer(starts, np.int64))
    about: dict[str, Any] = {"dtype": encoder.dtype.name, "tokens": offsets[-1],
                             "unknown": [unknown.count, unknown.examples], "controls": written.counts}
    if phrases is not None:
        about["phrases"] = [len(encoder.seen), encoder.seen.total()]
    if reader.spares:
        about["bad"] = list(reader.bad)
    (folder / "about.json").write_text(json.dumps(about))


def _batches(reader: Reader, size: int = 1_000_000) -> Iterator[tuple[list[str], list[str]]]:
    """Documents in groups of about `size` characters, each beside what it was before its words were swapped."""
    texts, originals = list[str](), list[str]()
    held = 0
    for original, _ in reader.documents():
        for text in with_swapped([original], reader.swaps):
            texts.append(text)
            originals.append(original)
            held += len(text)
        if held >= size:
            yield texts, originals
            texts, originals, held = [], [], 0
    if texts:
        yield texts, originals


def _digests(texts: Sequence[str]) -> bytes:
    """Eight bytes of hash a text."""
    return b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)


def shortened(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each text with special tokens, at most `most`; and how many too many each longer text had."""
    encoded: list[list[int]] = []
    for start in range(0, len(texts), AT_ONCE):  # what a tokenizer says of a token takes a hundred times its id's room
        encoded += tokenizer(list(texts[start : start + AT_ONCE]))["input_ids"]
    over = []
    for i, ids in enumerate(encoded):
        if len(ids) > most:
            over.append(len(ids) - most)
            encoded[i] = tokenizer(texts[i], truncation=True, max_length=most)["input_ids"]
    return encoded, over


def cut(text: str, most: int) -> list[str]:
    """Cut a long text where no token reaches across: after a line's end, or else before a space.

    Both stand alone between words: byte-level BPE takes several spaces for one token, but not the last before a word.

    >>> cut("one two three", 6)
    ['one', ' two', ' three']
    """
    pieces = []
    start = 0
    while len(text) - start > most:
        window = text[start : start + most + 1]
        place = max((m.end() for m in LINE.finditer(window)), default=0)
        place = place or max((m.start() for m in SPACE.finditer(window)), default=0)
        if place == 0:
            space = SPACE.search(text, start + most)
            place = (space.start() if space else len(text)) - start
        pieces.append(text[start : start + place])
        start += place
    return [*pieces, text[start:]] if start < len(text) else pieces


def entropy(sets: list[Documents], most: int = 10_000_000) -> float:
    """Entropy, in nats a token, of the unigram distribution of several sets of documents.

    Of more than `most` tokens, about so many are counted, in stretches that lie evenly over the text.
    """
    every = max(1, -(-sum(int(documents.lengths.sum()) for documents in sets) // most))
    counts = np.zeros(0, dtype=np.int64)
    for documents in sets:
        ends = np.cumsum(documents.lengths)
        for start in range(0, int(ends[-1]) if len(ends) else 0, every * STRETCH):
            counted = np.bincount(bare(_stretch(documents, ends, start, min(start + STRETCH, int(ends[-1])))))
            counts = np.pad(counts, (0, max(0, len(counted) - len(counts))))
            counts[: len(counted)] += counted
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log(share)).sum())


def _stretch(documents: Documents, ends: NDArray[np.int64], start: int, stop: int) -> Ids:
    """Tokens start to stop of all documents, one after the other; `ends` says where each ends there."""
    reached = slice(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1)
    first, last = np.array(documents.starts[reached]), np.array(documents.stops[reached])
    last[-1] -= ends[reached][-1] - stop
    first[0] = documents.stops[reached][0] - (ends[reached][0] - start)
    return documents.ids[places(first, last - first)]


def total(sets: list[Documents], what: str) -> int:
    """Tokens in several sets of documents; DataError where there are none."""
    tokens = sum(int(documents.lengths.sum()) for documents in sets)
    if tokens == 0:
        raise DataError(f"{what}: there is no text to learn from.")
    return tokens
