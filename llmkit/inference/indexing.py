"""An index of passages: a vector for each, built once, kept in llmkit's cache, and mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmkit.data.search.folders import SCHEMES, Changed, Listed, Listing, listed
from llmkit.data.search.passages import BREAK, passages
from llmkit.data.tokens import encode
from llmkit.inference.embedding import Embedder, Vectors
from llmkit.system import cache, report
from llmkit.system.addresses import at_home
from llmkit.system.errors import DataError, RequestError

FORMAT = "2"  # raise it when passages are cut in another way: the vectors of those that stay are taken over
PIECE = 512
"""Passages that are embedded and kept at once: an index that was interrupted goes on from there."""
BLOCK = 65536
"""Vectors that are compared at once."""
TOGETHER = 64
"""Queries that are compared at once: their scores are held."""
LARGE = 20_000
"""Passages from which on an approximate search is of use."""
Digests: TypeAlias = NDArray[np.uint64]
Closest: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(cosines, rows), the closest first."""


class Index:
    """Passages with their vectors, mapped into memory: nothing is read but what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors: Vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        """(passages, width), of length 1."""
        self.files: NDArray[np.int32] = np.load(folder / "files.npy", mmap_mode="r")
        self.lines: NDArray[np.int64] = np.load(folder / "lines.npy", mmap_mode="r")
        self.digests: Digests = np.load(folder / "digests.npy", mmap_mode="r")
        self.near: Near | None = None
        """What finds passages that are probably the closest; None: all are compared."""
        self._ends: NDArray[np.int64] = np.load(folder / "ends.npy", mmap_mode="r")
        self._texts: NDArray[np.uint8] = np.memmap(folder / "texts.bin", np.uint8, "r")

    def __len__(self) -> int:
        return len(self.files)

    def text(self, row: int) -> tuple[str, str]:
        """(title, text) of a passage; the title is empty where its source has none."""
        start = int(self._ends[row - 1]) if row else 0
        title, _, text = self._texts[start : int(self._ends[row])].tobytes().decode().partition("\0")
        return title, text

    def closest(self, queries: Vectors, top: int) -> list[list[tuple[float, int]]]:
        """For each query, (cosine, row) of the `top` closest passages of different texts.

        Exact, over all vectors; where the index was opened to be approximate, over those that are probably close.
        """
        if self.near is not None:
            return [self._distinct(partial(self.near.closest, query), top, min(len(self), 2048)) for query in queries]
        if len(queries) > TOGETHER:
            parts = [queries[start : start + TOGETHER] for start in range(0, len(queries), TOGETHER)]
            return [found for part in parts for found in self.closest(part, top)]
        scores = np.empty((len(queries), len(self)), np.float32)
        for start in range(0, len(self), BLOCK):
            scores[:, start : start + BLOCK] = queries @ self.vectors[start : start + BLOCK].T
        return [self._distinct(partial(_best, row), top, len(self)) for row in scores]

    def _distinct(self, best: Callable[[int], Closest], top: int, most: int) -> list[tuple[float, int]]:
        """The first `top` of different texts; `best` gives the closest rows, as many as it is asked for."""
        many = top
        while True:
            many = min(many, most)
            scores, rows = best(many)
            _, first = np.unique(self.digests[rows], return_index=True)
            if len(first) >= top or many == most:
                first = np.sort(first)[:top]
                return [(float(scores[i]), self._first(int(rows[i]))) for i in first]
            many *= 4

    def _first(self, row: int) -> int:
        """The first passage of the same text: equal vectors score alike but for the last bit, by where they stand."""
        return int(np.argmax(self.digests == self.digests[row]))


def _best(scores: NDArray[np.float32], many: int) -> Closest:
    rows = np.argpartition(-scores, many - 1)[:many]
    rows = rows[np.lexsort((rows, -scores[rows]))]
    return scores[rows], rows


class Near:
    """FAISS's inverted file: vectors in lists around centres, of which a query looks into the closest."""

    def __init__(self, folder: Path) -> None:
        library = faiss()
        about = json.loads((folder / "about.json").read_text())
        self._lists = library.read_index(str(folder / "lists.faiss"), library.IO_FLAG_MMAP | library.IO_FLAG_READ_ONLY)
        self._lists.nprobe = about["nprobe"]
        self.recall: float = about["recall"]
        """Of the ten closest, the share that is found; measured on vectors of the index."""

    def closest(self, query: NDArray[np.float32], many: int) -> Closest:
        """(cosines, rows) of about the closest vectors, the closest first."""
        scores, rows = self._lists.search(query[None], many)
        return scores[0][rows[0] >= 0], rows[0][rows[0] >= 0]


def _make_near(vectors: Vectors, folder: Path) -> None:
    """Fill a folder with the lists of all vectors, and how many of them to look into: what finds 99 of 100."""
    library = faiss()
    count, width = vectors.shape
    rng = np.random.default_rng(0)
    centres = int(4 * count**0.5)
    lists = library.IndexIVFFlat(library.IndexFlatIP(width), width, centres, library.METRIC_INNER_PRODUCT)
    lists.train(vectors[np.sort(rng.permutation(count)[: 64 * centres])])
    for start in range(0, count, BLOCK):
        lists.add(vectors[start : start + BLOCK])
    asked = vectors[np.sort(rng.permutation(count)[:200])]
    right = [set(_best(row, 10)[1].tolist()) for row in asked @ vectors.T]
    lists.nprobe = 1
    while True:
        _, found = lists.search(asked, 10)
        recall = sum(len(own & set(row)) for own, row in zip(right, found.tolist(), strict=True)) / 10 / len(asked)
        if recall >= 0.99 or lists.nprobe >= centres:
            break
        lists.nprobe *= 2
    library.write_index(lists, str(folder / "lists.faiss"))
    (folder / "about.json").write_text(json.dumps({"nprobe": lists.nprobe, "recall": recall}))


def faiss() -> Any:
    """The library for large indexes; RequestError where it isn't installed."""
    if find_spec("faiss") is None:
        raise RequestError("--approximate needs FAISS: pip install 'llmkit-train[search]'; without it, search is "
                           "exact.")
    import faiss as library

    return library


def open_index(
    places: Sequence[str], listing: Listing, embedder: Embedder, most: int, approximate: bool = False,
) -> tuple[Index, Listing, int]:
    """The index of what was listed in these places, from the cache; what isn't there yet is embedded.

    Returns it with the listing that it is of (a new one, where files changed meanwhile) and the number of passages that
    were embedded. DataError where there is no text, or files don't stop changing.
    """
    about = [embedder.fingerprint(), most]
    shelf = _key(*about, [place if place.startswith(SCHEMES) else os.path.abspath(at_home(place))
                          for place in places])
    for _ in range(3):
        content = _key(FORMAT, *about, [[one.where, one.inside, one.digest] for one in listing.sources])
        building = Building(embedder, listing.sources, most, Path("search") / shelf)
        try:
            folder = cache.once(f"search/{shelf}", content, building.make)
            index = Index(folder)
            if approximate and len(index) >= LARGE:
                index.near = Near(cache.once(f"search/{shelf}", f"{content}-near", partial(_make_near, index.vectors)))
        except (Changed, FileNotFoundError):  # by others, or tidied away by a process that indexed a newer state
            listing = listed(places)
            continue
        _tidy(folder)
        if index.near is not None:
            report.log.info("approximate: finds %.1f %% of the closest passages", 100 * index.near.recall)
        elif approximate:
            report.log.info("below %s passages search is exact, and as fast", f"{LARGE:,}")
        return index, listing, building.embedded
    raise DataError(f"{', '.join(places)}: files change while they are indexed.")


@dataclass
class Building:
    """How an index is made from sources, from what is there of older ones, and from what is embedded anew."""

    embedder: Embedder
    sources: Sequence[Listed]
    most: int
    shelf: Path
    """Below the cache: where the indexes of these places are."""
    embedded: int = 0
    """Passages that had to be embedded."""

    def make(self, folder: Path) -> None:
        """Fill a folder with an index; DataError where no source has a text."""
        digests = self._write_passages(folder)
        if not len(digests):
            raise DataError("there is no text to search in "
                            f"{', '.join(dict.fromkeys(one.shown for one in self.sources))}.")
        np.save(folder / "digests.npy", digests)
        old = _kept(cache.root() / self.shelf)
        lost = np.setdiff1d(digests, old.digests)
        self.embedded = len(lost)
        pieces = [old, *self._embed(folder, digests, lost)]
        vectors = np.lib.format.open_memmap(
            folder / "vectors.npy", "w+", np.float32, (len(digests), self.embedder.width))
        known = np.concatenate([piece.digests for piece in pieces])
        order = np.argsort(known, kind="stable")
        places = order[np.searchsorted(known, digests, sorter=order)]
        first = 0
        for piece in pieces:
            for one in piece.vectors:
                here = np.flatnonzero((places >= first) & (places < first + len(one)))
                for start in range(0, len(here), BLOCK):
                    some = here[start : start + BLOCK]
                    vectors[some] = one[places[some] - first]
                first += len(one)
        vectors.flush()

    def _write_passages(self, folder: Path) -> Digests:
        """Write texts and places of all passages; return a hash of each text, with its title."""
        files, lines, ends, digests = [], [], [], []
        end = 0
        with (folder / "texts.bin").open("wb") as out:
            for number, source in enumerate(self.sources):
                for line, title, text in self._passages(source):
                    written = f"{title}\0{text}".encode(errors="replace")
                    end += out.write(written)
                    files.append(number)
                    lines.append(line)
                    ends.append(end)
                    digests.append(hashlib.blake2b(written, digest_size=8).digest())
        np.save(folder / "files.npy", np.array(files, np.int32))
        np.save(folder / "lines.npy", np.array(lines, np.int64))
        np.save(folder / "ends.npy", np.array(ends, np.int64))
        return np.frombuffer(b"".join(digests), np.uint64)

    def _passages(self, source: Listed) -> Iterator[tuple[int, str, str]]:
        """(line, title, text) of each passage of a source."""
        for line, title, text, unit in source.documents():
            room = self.most
            if title:  # it is read before each passage
                room = max(8, min(room, self.embedder.room - self._count([title])[0] - 1))
            before = 0
            for start, stop in passages(text, self._count, room, unit):
                if unit != "whole":
                    line += text.count("\n", before, start)
                    before = start
                yield line, title, text[start:stop].replace(BREAK, "\n").strip("\n").rstrip()

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in encode(self.embedder.opened.tokenizer, list(texts))]

    def _embed(self, folder: Path, digests: Digests, lost: Digests) -> Iterator[_Vectors]:
        """The vectors of passages that no older index has, piece by piece; each piece is kept until all are there."""
        _, rows = np.unique(digests, return_index=True)
        rows = rows[np.isin(digests[rows], lost)]
        rows.sort()  # in the order of the text, so that progress is even
        ends = np.load(folder / "ends.npy")
        if not len(rows):
            return
        report.log.info("%d of %d passages are embedded by %s", len(rows), len(digests), self.embedder.name)
        started, passed = time.monotonic(), 0
        with report.progress(True, "passage") as bar, (folder / "texts.bin").open("rb") as texts:

            def count(some: int) -> None:
                nonlocal passed
                passed += some
                spent = time.monotonic() - started
                bar.update(passed / len(rows), passed, {"passages_per_second": passed / spent},
                           spent / passed * (len(rows) - passed))

            for start in range(0, len(rows), PIECE):
                some = rows[start : start + PIECE]
                given = []
                for row in some.tolist():
                    before = int(ends[row - 1]) if row else 0
                    texts.seek(before)
                    given.append(titled(*texts.read(int(ends[row]) - before).decode().split("\0", 1)))
                made = _Passage(self.embedder, given, digests[some], count)
                yield _read(cache.once(str(self.shelf / "pieces"), _key(digests[some].tolist()), made.make))
                passed = start + len(some)  # another process may have made it


class _Vectors(NamedTuple):
    """Vectors that are there, and the hashes of the texts that they are of."""

    digests: Digests
    vectors: list[Vectors]


@dataclass
class _Passage:
    """A part of an index that is being built."""

    embedder: Embedder
    texts: list[str]
    digests: Digests
    done: Callable[[int], None]

    def make(self, folder: Path) -> None:
        np.save(folder / "vectors.npy", unit(self.embedder.embed(self.texts, "document", self.done)))
        np.save(folder / "digests.npy", self.digests)


def _read(folder: Path) -> _Vectors:
    return _Vectors(np.load(folder / "digests.npy"), [np.load(folder / "vectors.npy", mmap_mode="r")])


def _kept(shelf: Path) -> _Vectors:
    """What older indexes of the same places, and one that was interrupted, have of vectors."""
    found = [_Vectors(np.zeros(0, np.uint64), [])]
    for folder in (*shelf.glob("[!.]*"), *shelf.glob("pieces/[!.]*")):
        if folder.name != "pieces":
            try:
                found.append(_read(folder))
            except FileNotFoundError:  # another process tidied up
                continue
    return _Vectors(np.concatenate([one.digests for one in found]), [part for one in found for part in one.vectors])


def _tidy(folder: Path) -> None:
    """Remove what a new index has made superfluous: older ones of the same places, and the pieces that it is made of.

    Each goes by a rename first, so that nobody meets half of one; processes that read it have it open.
    """
    shelf = folder.parent
    for old in (*shelf.glob("pieces/[!.]*"), *shelf.glob("[!.]*")):
        if not old.name.startswith(folder.name) and old.name != "pieces":
            away = tempfile.mkdtemp(prefix=".old-", dir=shelf)
            with suppress(OSError):  # another process was faster
                old.rename(away)
            shutil.rmtree(away, ignore_errors=True)


def unit(vectors: Vectors) -> Vectors:
    """Vectors made as long as 1, so that products are cosines."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def titled(title: str, text: str) -> str:
    """What is embedded of a passage: a title stands before it, if it doesn't begin with it anyway."""
    return f"{title}\n{text}" if title and not text.startswith(title) else text


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
