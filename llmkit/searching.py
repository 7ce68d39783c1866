"""Search by meaning: which passages of these files are closest to what is asked?

An index holds a vector for each passage. It is built once, kept in llmkit's cache, and knows by content when files
changed: then only passages that are new are embedded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmkit import cache, report
from llmkit.data.passages import BREAK, Unit, passages
from llmkit.data.sources import Reader, files_of, format_of, open_source
from llmkit.data.tokens import encode
from llmkit.data.web import readable
from llmkit.embedding import Embedder, Vectors
from llmkit.errors import DataError, RequestError
from llmkit.recipe import Source

FORMAT = "1"  # part of every key: raise it when what is written changes
PASSAGE = 128
"""Tokens of a passage at most, where nothing is said."""
PIECE = 512
"""Passages that are embedded and kept at once: an index that was interrupted goes on from there."""
TITLE = 200
"""Characters of a title at most."""
BLOCK = 65536
"""Vectors that are compared at once."""
PAGES = (".html", ".htm", ".xhtml")
BY_LINE = (".txt", ".text", ".log", "")
"""Files whose lines are documents where no blank lines part them."""
Digests: TypeAlias = NDArray[np.uint64]
Where: TypeAlias = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    score: float
    """The cosine of the angle between its vector and the query's: 1 is the same, about 0 is something else."""
    file: str
    line: int
    """Where it starts, from 1; of a table or a built-in text, which row."""
    text: str
    title: str = ""
    """What the row says that it is about, where it has a title."""

    def as_json(self) -> dict[str, Any]:
        """`{"score": 0.62, "file": "docs/tuning.md", "line": 3, "text": …}`, with `title` where there is one."""
        about = {"score": self.score, "file": self.file, "line": self.line, "text": self.text}
        return about | ({"title": self.title} if self.title else {})


def search(query: str, where: Where, model: str | Embedder = "minilm-l6", top: int = 5) -> list[Hit]:
    """The passages of files, folders or built-in texts that are closest in meaning to a query, the closest first.

    >>> search("copy a file", "builtin:python-docs")[0].title      # doctest: +SKIP
    'shutil.copyfile'

    `model` is a run, a folder, a catalogue name or a hub id, or an `Embedder` that is open. For more than one query,
    keep a `Searcher`. DataError where there is nothing to search, RequestError where the model is no encoder.
    """
    return Searcher.open(where, model).search([query], top)[0]


class Searcher:
    """An index and the model that made it, kept open: `Searcher.open("docs").search(["how to resume"])`."""

    def __init__(self, embedder: Embedder, index: Index, shown: Sequence[str], indexed: dict[str, Any]) -> None:
        self.embedder, self.index, self.shown, self.indexed = embedder, index, shown, indexed

    @classmethod
    def open(cls, where: Where, model: str | Embedder = "minilm-l6", passage_tokens: int | None = None) -> Searcher:
        """Open the index of files, folders, globs, `builtin:` or `hub:` texts; build it, or what is new of it.

        `indexed` then says how many files and passages there are, how many of these had to be embedded, and what was
        passed over and why.
        """
        if passage_tokens is not None and passage_tokens < 8:
            raise RequestError(f"--passage-tokens {passage_tokens}: a passage needs 8 tokens or more.")
        places = [where] if isinstance(where, str | Path) else list(where)
        listing = _listed(places)  # before a model is loaded
        embedder = model if isinstance(model, Embedder) else Embedder.open(model)
        room = embedder.room
        if passage_tokens is not None and passage_tokens > room:
            raise RequestError(f"--passage-tokens {passage_tokens}: {embedder.name} reads {room} at once.")
        most = passage_tokens or min(PASSAGE, room)
        about = [FORMAT, embedder.fingerprint(), most]
        shelf = _key(*about, [os.path.abspath(place) for place in places])
        for attempt in range(3):
            content = _key(*about, [[one.where, one.inside, one.digest] for one in listing.sources])
            building = _Building(embedder, listing.sources, most, Path("search") / shelf)
            try:
                folder = cache.once(f"search/{shelf}", content, building.make)
                index = Index(folder)
            except (_Changed, FileNotFoundError):  # by others, or tidied away by a process that indexed a newer state
                if attempt == 2:
                    raise DataError(f"{', '.join(map(str, places))}: files change while they are indexed.") from None
                listing = _listed(places)
                continue
            break
        _tidy(folder)
        indexed = {"files": len(listing.sources), "passages": len(index), "embedded": building.embedded,
                   "passed_over": {why: len(names) for why, names in sorted(listing.passed_over.items())}}
        listing.tell()
        return cls(embedder, index, [one.shown for one in listing.sources], indexed)

    def search(self, queries: Sequence[str], top: int = 5) -> list[list[Hit]]:
        """For each query the closest passages, the closest first; a text that stands in several places comes once."""
        if top < 1:
            raise RequestError(f"--top {top}: ask for 1 or more.")
        empty = next((i for i, query in enumerate(queries) if not query.strip()), None)
        if empty is not None:
            raise RequestError("the query is empty: say what is looked for.")
        found = self.index.closest(_unit(self.embedder.embed(list(queries), "query")), top)
        return [[self._hit(score, row) for score, row in best] for best in found]

    def _hit(self, score: float, row: int) -> Hit:
        title, text = self.index.text(row)
        return Hit(round(score, 4), self.shown[self.index.files[row]], int(self.index.lines[row]), text, title)


# ---- the index -------------------------------------------------------------------------------------------------


class Index:
    """Passages with their vectors, mapped into memory: nothing is read but what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.vectors: Vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        """(passages, width), of length 1."""
        self.files: NDArray[np.int32] = np.load(folder / "files.npy", mmap_mode="r")
        self.lines: NDArray[np.int64] = np.load(folder / "lines.npy", mmap_mode="r")
        self.digests: Digests = np.load(folder / "digests.npy", mmap_mode="r")
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
        """For each query, (cosine, row) of the `top` closest passages of different texts; exact."""
        scores = np.empty((len(queries), len(self)), np.float32)
        for start in range(0, len(self), BLOCK):
            scores[:, start : start + BLOCK] = queries @ self.vectors[start : start + BLOCK].T
        return [self._best(row, top) for row in scores]

    def _best(self, scores: NDArray[np.float32], top: int) -> list[tuple[float, int]]:
        many = top
        while True:
            many = min(many, len(scores))
            rows = np.argpartition(-scores, many - 1)[:many]
            rows = rows[np.lexsort((rows, -scores[rows]))]
            _, first = np.unique(self.digests[rows], return_index=True)
            if len(first) >= top or many == len(scores):
                return [(float(scores[row]), int(row)) for row in rows[np.sort(first)[:top]]]
            many *= 4


class _Changed(Exception):
    """A file isn't what it was when its content was listed."""


@dataclass
class _Building:
    """How an index is made from sources, from what is there of older ones, and from what is embedded anew."""

    embedder: Embedder
    sources: Sequence[_Listed]
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

    def _passages(self, source: _Listed) -> Iterator[tuple[int, str, str]]:
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
                yield line, title, text[start:stop].replace(BREAK, "\n").strip()

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in encode(self.embedder.opened.tokenizer, list(texts))]

    def _embed(self, folder: Path, digests: Digests, lost: Digests) -> Iterator[_Vectors]:
        """The vectors of passages that no older index has, piece by piece; each piece is kept until all are there."""
        _, rows = np.unique(digests, return_index=True)
        rows = rows[np.isin(digests[rows], lost)]
        rows.sort()  # in the order of the text, so that progress is even
        ends = np.load(folder / "ends.npy")
        started = time.monotonic()
        if len(rows):
            report.log.info("%d of %d passages are embedded by %s", len(rows), len(digests), self.embedder.name)
        with report.progress(True, "passage") as bar, (folder / "texts.bin").open("rb") as texts:
            for start in range(0, len(rows), PIECE):
                some = rows[start : start + PIECE]
                given = []
                for row in some.tolist():
                    before = int(ends[row - 1]) if row else 0
                    texts.seek(before)
                    given.append(_embedded(*texts.read(int(ends[row]) - before).decode().split("\0", 1)))
                made = _Piece(self.embedder, given, digests[some])
                yield _read(cache.once(str(self.shelf / "pieces"), _key(digests[some].tolist()), made.make))
                done, spent = start + len(some), time.monotonic() - started
                bar.update(done / len(rows), done, {"passages_per_second": done / spent},
                           spent / done * (len(rows) - done))


class _Vectors(NamedTuple):
    """Vectors that are there, and the hashes of the texts that they are of."""

    digests: Digests
    vectors: list[Vectors]


@dataclass
class _Piece:
    """A part of an index that is being built."""

    embedder: Embedder
    texts: list[str]
    digests: Digests

    def make(self, folder: Path) -> None:
        np.save(folder / "vectors.npy", _unit(self.embedder.embed(self.texts, "document")))
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
        if old != folder and old.name != "pieces":
            away = tempfile.mkdtemp(prefix=".old-", dir=shelf)
            with suppress(OSError):  # another process was faster
                old.rename(away)
            shutil.rmtree(away, ignore_errors=True)


def _unit(vectors: Vectors) -> Vectors:
    """Vectors made as long as 1, so that products are cosines."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def _embedded(title: str, text: str) -> str:
    """What is embedded of a passage: a title stands before it, if it doesn't begin with it anyway."""
    return f"{title}\n{text}" if title and not text.startswith(title) else text


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# ---- what is searched ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """A file or another source, with the hash of its content."""

    shown: str
    """As the user would write it."""
    where: int
    """In which of the given places."""
    inside: str
    """Its path within that."""
    digest: str
    reader: Reader | None = None
    """What reads its rows; None: it is a text."""

    def documents(self) -> Iterator[tuple[int, str, str, Unit]]:
        """(line, title, text, what it is cut into) of each row, or of the text."""
        if self.reader is None:
            data = Path(self.shown).expanduser().read_bytes()
            if hashlib.sha256(data).hexdigest() != self.digest:
                raise _Changed
            text = data.decode("utf-8-sig")
            suffix = Path(self.shown).suffix.lower()
            yield 1, "", readable(text) if suffix in PAGES else text, "line" if suffix in BY_LINE else "paragraph"
            return
        for text, place, row in self.reader.texts():
            title = " ".join(str(row.get("title") or "").split())[:TITLE]
            yield place.line or 1, title, text.replace("\0", " "), "whole"
        if self.reader.files and self.reader.fingerprint() != self.digest:
            raise _Changed


@dataclass
class _Listing:
    """What there is to search, and what was passed over, by its reason."""

    sources: list[_Listed] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def tell(self) -> None:
        """Say what isn't searched."""
        some = [f"{len(names)} {why} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                for why, names in sorted(self.passed_over.items())]
        if some:
            report.log.info("passed over: %s", "; ".join(some))


def _listed(places: Sequence[str | Path]) -> _Listing:
    """Every text of the places, hashed; DataError where one isn't there, or none has a text."""
    listing, seen = _Listing(), set[Path]()
    for number, place in enumerate(map(str, places)):
        if place.startswith(("builtin:", "hub:")):
            reader = open_source(Source(place))
            listing.sources.append(_Listed(place, number, "", reader.fingerprint(), reader))
            continue
        path = Path(place).expanduser()
        if path.is_dir():
            _walk(path, number, listing, seen)
            continue
        for each in files_of(place):
            if each.resolve() not in seen:
                seen.add(each.resolve())
                source = _opened(str(each), each, number, "" if each == path else str(each))
                if isinstance(source, str):
                    raise DataError(f"{each}: is {source}; only text can be searched.")
                listing.sources.append(source)
    if not listing.sources:
        passed = sum(map(len, listing.passed_over.values()))
        why = f"its {passed} files are passed over: {', '.join(sorted(listing.passed_over))}" if passed else "is empty"
        raise DataError(f"{', '.join(map(str, places))}: there is no text to search: {why}.")
    return listing


def _walk(folder: Path, number: int, listing: _Listing, seen: set[Path]) -> None:
    """The texts below a folder, in the order of their names."""
    passed = listing.passed_over
    for root, folders, names in os.walk(folder):
        hidden = [name for name in (*folders, *names) if name.startswith(".")]
        if hidden:
            passed.setdefault("hidden", []).extend(os.path.join(root, name) for name in sorted(hidden))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root) / name
            if name.startswith(".") or not path.is_file() or path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                source = _opened(str(path), path, number, str(path.relative_to(folder)))
            except DataError:
                source = "rows without a text"
            if isinstance(source, str):
                passed.setdefault(source, []).append(str(path))
            else:
                listing.sources.append(source)


def _opened(shown: str, path: Path, number: int, inside: str) -> _Listed | str:
    """A file to search; a string says why it can't be. DataError where it has rows that can't be read."""
    if format_of(path) != "text" or path.suffix.lower() == ".gz":
        reader = open_source(Source(shown))
        next(reader.documents())
        return _Listed(shown, number, inside, reader.fingerprint(), reader)
    try:
        with path.open("rb") as file:
            data = file.read(8192)
            if b"\0" in data:
                return "binary"
            data += file.read()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "no UTF-8 text"
    if not text or text.isspace():
        return "empty"
    return _Listed(shown, number, inside, hashlib.sha256(data).hexdigest())
