"""Documents to token ids: computed once, cached by content, and mapped into memory, not read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmkit.data import tokenizer as tokenizers
from llmkit.data.encoder import Ids as Ids
from llmkit.data.encoder import Unknown, Written, places
from llmkit.data.encoder import encode as encode
from llmkit.data.large.coding import Coder, Sheaf, Texts, batched
from llmkit.data.large.coding import cut as cut
from llmkit.data.large.cutting import Noted, TextStretch, pairs_of, read_by, stretches
from llmkit.data.large.working import in_order
from llmkit.data.mapped import mapped, portable
from llmkit.data.sources import Place, Reader
from llmkit.data.tokenizer_files import rows_for
from llmkit.data.words import Phrases, bare, check
from llmkit.system import cache
from llmkit.system.errors import DataError, PlaceError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = "2"  # part of every key: raise it when what is written changes
SMALL = 64 << 10
"""Bytes of a file that is read: one that is mapped has a descriptor, of which a process has a thousand or some more."""
STRETCH = 1_000_000  # tokens counted at once
MANY = 2**22
"""Documents from which on what is made of each lies in the cache, not in the memory of every process."""
SIDES = ("starts", "stops", "digests", "own", "edges")
"""What `Documents` says of each document."""
AT_ONCE = 1000  # texts that a tokenizer gets together


@dataclass(frozen=True)
class Range:
    """What ids a tokenizer has: in a file that is damaged others may be, and a model has no row for these."""

    tokens: int
    label: str
    """What is damaged then."""
    way_out: str

    def __call__(self, ids: Ids) -> Ids:
        """The ids; DataError where one is out of range."""
        if len(ids) and (most := int(bare(ids).max())) >= self.tokens:
            raise DataError(f"{self.label}: holds the id {most:,}, and the largest of its tokenizer is "
                            f"{self.tokens - 1:,}: it is damaged. {self.way_out}")
        return ids


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
    edges: NDArray[np.int64] | None = None
    """Of a source that is in shards, the number of each one's first document, and how many there are in all."""
    key: str = ""
    """What they are known by, for what is made of them and kept; "" where nothing is kept."""
    bound: Range | None = None
    """What ids are compared with when they are read; None where nobody said."""

    def read(self, start: int, stop: int) -> Ids:
        """The ids of a stretch; DataError where one is out of range."""
        ids = self.ids[start:stop]
        return ids if self.bound is None else self.bound(ids)

    def at(self, where: NDArray[np.int64]) -> Ids:
        """The ids at some places; DataError where one is out of range."""
        ids = self.ids[where]
        return ids if self.bound is None else self.bound(ids)

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

    @property
    def tokens(self) -> int:
        """Tokens in all of them, counted without an array of their lengths."""
        return sum(int((self.stops[i : i + STRETCH] - self.starts[i : i + STRETCH]).sum())
                   for i in range(0, len(self), STRETCH))

    @property
    def kept(self) -> bool:
        """Whether what is made of them is kept on disk, and mapped from there: where they are many."""
        return bool(self.key) and len(self) > MANY

    @property
    def count_of_shards(self) -> int:
        """In how many shards they are."""
        return 1 if self.edges is None else len(self.edges) - 1

    def shard(self, number: int) -> Documents:
        """The documents of one shard; nothing is copied."""
        assert self.edges is not None
        here = slice(int(self.edges[number]), int(self.edges[number + 1]))
        return replace(self, starts=self.starts[here], stops=self.stops[here], digests=self.digests[here],
                       own=None if self.own is None else self.own[here], edges=None, key="")

    def split(self, share: float, seed: int) -> tuple[Documents, Documents]:
        """(training, validation): documents drawn by a hash of seed and content; of a single document, its end."""
        if self.swapped.any():
            return self._split_swapped(share, seed)
        if len(self) == 1:
            cut = self.starts + (self.lengths * (1 - share)).astype(np.int64)
            if self.sentences is not None:  # not within a sentence
                cut = np.append(self.sentences, self.stops)[np.searchsorted(self.sentences, cut)].clip(max=self.stops)
            return replace(self, stops=cut), replace(self, starts=cut)
        most = np.uint64(int(share * 2**64))
        held = np.concatenate([np.zeros(0, np.bool_), *(
            mixed(self.digests[i : i + STRETCH], seed) < most for i in range(0, len(self), STRETCH))])
        learned, only = (self._side(side, f"{self.key} {name} {share} of {seed}")
                         for side, name in ((~held, "without"), (held, "only")))
        return learned, only

    def _side(self, chosen: NDArray[np.bool_], key: str) -> Documents:
        """The documents of one side; of many, in files that are mapped."""
        if not self.kept:
            return replace(self.where(chosen), key=key if self.key else "")

        def write(folder: Path) -> None:
            for name, array in vars(self.where(chosen)).items():
                if name in SIDES and array is not None:
                    np.save(folder / f"{name}.npy", array)

        folder = cache.once("sides", hashlib.sha256(key.encode()).hexdigest(), write)
        arrays: dict[str, Any] = {path.stem: array_in(path) for path in folder.glob("*.npy")}
        return replace(self, **arrays, key=key)

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
        return mixed(self.digests, seed)

    def where(self, chosen: NDArray[Any]) -> Documents:
        """Some of the documents: those that are true, or those with these numbers, in their order."""
        edges = self.edges
        if edges is not None and chosen.dtype == np.bool_:
            edges = np.cumsum([0, *(np.count_nonzero(chosen[a:b]) for a, b in pairwise(edges.tolist()))])
        elif edges is not None:  # in an order of their own
            edges = None
        return replace(self, starts=self.starts[chosen], stops=self.stops[chosen], digests=self.digests[chosen],
                       own=None if self.own is None else self.own[chosen], edges=edges, key="")

    def entropy(self, most: int = 10_000_000) -> float:
        """Entropy of the unigram distribution in nats a token: what a model knows that knows only frequencies."""
        return entropy([self], most)


def mixed(digests: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A number for each text, evenly drawn from all of 64 bits by the seed and its hash."""
    return _mix(digests ^ _mix(np.array([seed], dtype=np.uint64)))


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


class TokenOrigin:
    """Where a source's tokens come from that are there already, with all that a source of rows says of itself."""

    kind: ClassVar[str] = "tokens"

    @property
    def words(self) -> str | None:
        """Who marked where words start in them, tokenizer or jieba; None where nobody did."""
        return None

    def tokenized(self, reader: Reader, tokenizer: PreTrainedTokenizerBase, plain: bool) -> Documents:
        """The documents; RequestError where they were made by another tokenizer, or otherwise than it is asked now."""
        raise NotImplementedError

    def rows(self, spare: object) -> Iterator[tuple[dict[str, Any], Place]]:
        """None: what a text was can't be had from ids."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash of the tokens."""
        raise NotImplementedError

    def features(self) -> None:
        """It says nothing of columns."""


def tokenize(reader: Reader, tokenizer: PreTrainedTokenizerBase, plain: bool = False) -> Documents:
    """Every document of a source as token ids without special tokens, from the cache where they are.

    With `plain`, control tokens that are written in a text are text.
    """
    if isinstance(reader.origin, TokenOrigin):
        return reader.origin.tokenized(reader, tokenizer, plain)
    parts = (FORMAT, reader.fingerprint(), tokenizers.fingerprint(tokenizer), *(["split"] if plain else []))
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def make(staging: Path) -> None:
        write(reader, tokenizer, staging, plain)

    folder = cache.once("tokens", key, make)
    with readable(reader, folder):
        documents, about = read(folder, reader), json.loads((folder / "about.json").read_text())
        tell(reader, tokenizer, plain, about, lambda: (
            documents.ids[start : start + STRETCH] for start in range(0, len(documents.ids), STRETCH)))
    bound = Range(rows_for(tokenizer), str(folder), "Delete the folder; it is made anew.")
    return replace(documents, key=key, bound=bound)


@contextmanager
def readable(reader: Reader, folder: Path) -> Iterator[None]:
    """While the block runs, what is wrong with files of tokens is said by the folder that they are in: PlaceError."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise PlaceError(f"{reader.label}: this process may open no more files, and each large source needs some; "
                             "allow more (ulimit -n), or name many files by one pattern: corpora/*.txt.") from error
        why = " ".join(str(error).split())[:200]
        raise PlaceError(f"{folder}: these cached tokens are damaged ({why}); delete the folder.") from error


def tell(
    reader: Reader, tokenizer: PreTrainedTokenizerBase, plain: bool, about: dict[str, Any],
    ids: Callable[[], Iterable[Ids]],
) -> None:
    """Note in a reader what was counted in its tokens; `ids` are counted now where an earlier version didn't."""
    unknown, written = Unknown(tokenizer), Written(tokenizer, plain)
    if "unknown" in about:
        unknown.tokens, (unknown.count, unknown.examples) = about["tokens"], about["unknown"]
    else:
        for stretch in ids():
            unknown.see(stretch, ())
    if "controls" in about:
        written.counts.update(about["controls"])
    else:
        for stretch in ids():
            written.see_ids(stretch)
    for said in (unknown.note(), written.note(), found_phrases(reader, about)):
        note = f"{reader.name}: {said}"
        reader.notes += [note] if said and note not in reader.notes else []


def found_phrases(reader: Reader, about: dict[str, Any]) -> str:
    """How many of a dictionary's phrases are in a source, in words; nothing where none were looked for."""
    phrases = reader.phrases if isinstance(reader, Marked) else None
    if phrases is None:
        return ""
    different, times = about["phrases"]
    return (f"{different:,} of the {len(phrases.known):,} phrases of {phrases.path} are there, {times:,} times; each "
            "is hidden as a whole")


def read(folder: Path, reader: Reader) -> Documents:
    """What `write` wrote."""
    about = json.loads((folder / "about.json").read_text())
    reader.bad.update(dict.fromkeys(about.get("bad", ())))
    used, unused = about.get("columns", ((), ()))
    reader.used.update(used)
    reader.unused.update(dict.fromkeys(unused))
    if about["dtype"] not in ("uint16", "uint32"):
        raise ValueError(f"ids of type {about['dtype']}")
    path = folder / "ids.bin"
    large = path.stat().st_size > SMALL
    ids: Ids = np.asarray(np.memmap(path, about["dtype"], "r")) if large else np.fromfile(path, about["dtype"])
    offsets, digests = (array_in(folder / f"{name}.npy") for name in ("offsets", "digests"))
    path = folder / "sentences.npy"
    starts = array_in(path) if path.is_file() else None
    if len(ids) != about["tokens"] or offsets[-1] != about["tokens"]:
        raise ValueError(f"{len(ids):,} ids, where {about['tokens']:,} are said to be")
    path = folder / "own.npy"
    return Documents(ids, offsets[:-1], offsets[1:], digests, starts, array_in(path) if path.is_file() else None)


def array_in(path: Path) -> NDArray[Any]:
    """An array of a file, mapped where it is large; as a plain one: a slice of a memmap takes five times as long."""
    return np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > SMALL else None))


def write(reader: Reader, tokenizer: PreTrainedTokenizerBase, folder: Path, plain: bool) -> dict[str, Any]:
    """Tokenize a source into files of a folder; return what about.json says of them.

    ids.bin has the ids of all documents, offsets.npy where each starts in them and where the last ends, digests.npy a
    hash of each text; sentences.npy and own.npy are as `Documents` says. They are the same for any data.num_proc.
    """
    phrases = reader.phrases if isinstance(reader, Marked) else None
    if not reader.shard:
        _ = reader.odd  # said before the first row
    work, sheaf = _Tokenizing(reader, tokenizer, folder, plain), Sheaf(folder / "ids.bin")
    sheaf.ids.touch()
    for _, (found, noted) in in_order(work, enumerate(stretches(reader)), reader.processes):
        if noted is not None:
            noted.tell(reader)
        sheaf.add(found)
    reader.unchanged()
    if len(sheaf.offsets) == 1 and not reader.shard:
        raise reader.nothing_left()
    sheaf.save(folder, reader.swaps is not None, isinstance(reader, Marked) and reader.sentences is not None)
    about: dict[str, Any] = {"dtype": work.coder.encoder.dtype.name, "tokens": sheaf.tokens,
                             "unknown": [sheaf.unknown, sheaf.examples], "controls": sheaf.controls,
                             "columns": [list(reader.used.items()), list(reader.unused)]}
    if phrases is not None:
        about["phrases"] = [len(sheaf.phrases), sheaf.phrases.total()]
    if reader.spares:
        about["bad"] = list(reader.bad)
    (folder / "about.json").write_text(json.dumps(about))
    return about


class _Tokenizing:
    """Reads stretches of a source and makes ids of them: what each of several processes does by itself."""

    def __init__(self, reader: Reader, tokenizer: PreTrainedTokenizerBase, folder: Path, plain: bool) -> None:
        words, way, phrases = ((reader.words, reader.sentences, reader.phrases) if isinstance(reader, Marked)
                               else (None, None, None))
        self.reader, self.folder, self.first = reader, folder, os.getpid()
        self.coder = Coder(tokenizer, plain, words, way, phrases)

    def __call__(self, task: tuple[int, TextStretch]) -> tuple[Sheaf, Noted | None]:
        """What the documents of a stretch became, and what was seen while they were read."""
        number, stretch = task
        alone = os.getpid() == self.first
        sheaf = Sheaf(self.folder / ("ids.bin" if alone else f"ids-{number}.bin"))
        part = read_by(self.reader, stretch.pieces) if stretch.pieces else None
        batches: Iterable[Texts] = [] if stretch.texts is None else [stretch.texts]
        if part is not None:
            batches = batched(pairs_of(part), part.swaps is not None)
        sheaf.gather(((texts, self.coder(texts)) for texts in batches), self.coder.tokenizer)
        return sheaf, stretch.noted if part is None else Noted.of(part)


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


def entropy(sets: list[Documents], most: int = 10_000_000) -> float:
    """Entropy, in nats a token, of the unigram distribution of several sets of documents.

    Of more than `most` tokens, about so many are counted, in stretches that lie evenly over the text.
    """
    sets = [part for documents in sets for part in _looked_into(documents, most)]
    every = max(1, -(-sum(documents.tokens for documents in sets) // most))
    counts = np.zeros(0, dtype=np.int64)
    for documents in sets:
        ends = np.cumsum(documents.lengths)
        for start in range(0, int(ends[-1]) if len(ends) else 0, every * STRETCH):
            counted = np.bincount(bare(_stretch(documents, ends, start, min(start + STRETCH, int(ends[-1])))))
            counts = np.pad(counts, (0, max(0, len(counted) - len(counts))))
            counts[: len(counted)] += counted
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log(share)).sum())


def _looked_into(documents: Documents, most: int) -> list[Documents]:
    """The documents; of shards, each by itself, and of many shards some that lie evenly among them."""
    count = documents.count_of_shards
    if count == 1:
        return [documents]
    some = min(count, max(2, 2 * most // STRETCH))
    return [documents.shard(number * count // some) for number in range(some)]


def _stretch(documents: Documents, ends: NDArray[np.int64], start: int, stop: int) -> Ids:
    """Tokens start to stop of all documents, one after the other; `ends` says where each ends there."""
    reached = slice(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1)
    first, last = np.array(documents.starts[reached]), np.array(documents.stops[reached])
    last[-1] -= ends[reached][-1] - stop
    first[0] = documents.stops[reached][0] - (ends[reached][0] - start)
    return documents.at(places(first, last - first))


def total(sets: list[Documents], what: str) -> int:
    """Tokens in several sets of documents; DataError where there are none."""
    tokens = sum(documents.tokens for documents in sets)
    if tokens == 0:
        raise DataError(f"{what}: there is no text to learn from.")
    return tokens
