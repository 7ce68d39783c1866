"""A batch of texts to ids, with all that is counted in them: the part of tokenizing that many processes can do."""

from __future__ import annotations

import hashlib
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.encoder import EXAMPLES, Encoder, Ids, Unknown, Written
from llmkit.data.sentences import sentences
from llmkit.data.words import Phrases

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE = 1_000_000  # characters encoded at once; a longer document is cut where no token can be
BATCH = 1_000_000
"""Characters that a process tokenizes at once, about."""
COPIED = 2**20
"""Bytes of ids that are copied at once."""
LINE, SPACE = re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S) (?=\S)")
Texts = tuple[list[str], list[str] | None]
"""Texts, and what each was before its words were swapped; None where none are to be swapped."""


@dataclass(frozen=True)
class Coded:
    """What texts became."""

    ids: Ids
    """Of all texts, one after the other."""
    lengths: NDArray[np.int64]
    """Tokens of each text."""
    starts: NDArray[np.int64]
    """Where sentences start in `ids`; empty where nobody asked."""
    digests: bytes
    """Eight bytes of hash a text, as it was before its words were swapped."""
    own: bytes
    """The same of the text itself; empty where no words are to be swapped."""
    controls: Counter[str]
    """Control tokens that are written in them."""
    phrases: Counter[str]
    """How often each phrase of a dictionary was there."""


class Coder:
    """Makes ids of texts; what it gives doesn't depend on what it was given before.

    words, sentences, phrases   what is marked, as `llmkit.data.tokens.Marked` says it
    plain                       control tokens that are written in a text are text
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, plain: bool = False, words: str | None = None,
        sentences: str | None = None, phrases: Phrases | None = None,
    ) -> None:
        self.tokenizer, self.plain, self.way = tokenizer, plain, sentences
        self.encoder = Encoder(tokenizer, words, plain, phrases)

    def __call__(self, given: Texts) -> Coded:
        """(texts, originals) to ids."""
        texts, originals = given
        parts = [(i, part) for i, text in enumerate(texts)
                 for part in ([text] if self.way is None else sentences(text, self.way))]
        pieces = [(i, piece, n == 0) for i, part in parts for n, piece in enumerate(cut(part, PIECE))]
        self.encoder.seen.clear()
        ids, sizes = self.encoder([piece for _, piece, _ in pieces])
        starts = np.zeros(0, np.int64)
        if self.way is not None:
            opens = np.array([first for *_, first in pieces], np.bool_) & (sizes > 0)
            starts = (np.cumsum(sizes) - sizes)[opens]
        of = np.array([i for i, *_ in pieces], np.int64)
        lengths = np.bincount(of, sizes, len(texts)).astype(np.int64)
        own = digests_of(texts)
        return Coded(ids, lengths, starts, own if originals is None else digests_of(originals),
                     b"" if originals is None else own, self._controls(ids, texts), Counter(self.encoder.seen))

    def _controls(self, ids: Ids, texts: Sequence[str]) -> Counter[str]:
        written = Written(self.tokenizer, self.plain)
        if self.plain:
            written.see(texts)
        else:
            written.see_ids(ids)
        return written.counts


@dataclass
class Sheaf:
    """What texts became, gathered: their ids in a file, and what is known of each text."""

    ids: Path
    """The file; ids are written behind what is in it."""
    offsets: array[int] = field(default_factory=lambda: array("q", [0]))
    digests: bytearray = field(default_factory=bytearray)
    own: bytearray = field(default_factory=bytearray)
    starts: array[int] = field(default_factory=lambda: array("q"))
    controls: Counter[str] = field(default_factory=Counter)
    phrases: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    """Tokens that stand for what the tokenizer doesn't know."""
    examples: list[str] = field(default_factory=list)
    """What some of these are of."""

    @property
    def tokens(self) -> int:
        """How many ids there are."""
        return self.offsets[-1]

    def gather(self, coded: Iterable[tuple[Texts, Coded]], tokenizer: PreTrainedTokenizerBase) -> Sheaf:
        """Add batches of texts, and write their ids; the sheaf itself."""
        unknown = Unknown(tokenizer)
        with self.ids.open("ab") as out:
            for (texts, _), batch in coded:
                before = self.tokens
                unknown.see(batch.ids, texts)
                self.starts.frombytes((before + batch.starts).tobytes())
                self.offsets.frombytes((before + np.cumsum(batch.lengths)).tobytes())
                self.digests += batch.digests
                self.own += batch.own
                self.controls.update(batch.controls)
                self.phrases.update(batch.phrases)
                batch.ids.tofile(out)
        self.unknown += unknown.count
        self._show(unknown.examples)
        return self

    def add(self, other: Sheaf) -> None:
        """Add what another one has; its ids, where they are in a file of their own, which is removed."""
        before = self.tokens
        self.starts.frombytes((before + np.frombuffer(other.starts, np.int64)).tobytes())
        self.offsets.frombytes((before + np.frombuffer(other.offsets, np.int64)[1:]).tobytes())
        self.digests += other.digests
        self.own += other.own
        self.controls.update(other.controls)
        self.phrases.update(other.phrases)
        self.unknown += other.unknown
        self._show(other.examples)
        if other.ids != self.ids:
            with other.ids.open("rb") as made, self.ids.open("ab") as out:
                shutil.copyfileobj(made, out, COPIED)
            other.ids.unlink()

    def _show(self, examples: Sequence[str]) -> None:
        self.examples = list(dict.fromkeys([*self.examples, *examples]))[:EXAMPLES]

    def save(self, folder: Path, own: bool, sentences: bool) -> None:
        """Write what is known of each document into files of a folder."""
        arrays: dict[str, NDArray[Any]] = {
            "offsets": np.frombuffer(self.offsets, np.int64), "digests": np.frombuffer(self.digests, np.uint64)}
        if own:
            arrays["own"] = np.frombuffer(self.own, np.uint64)
        if sentences:
            arrays["sentences"] = np.frombuffer(self.starts, np.int64)
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values)


def digests_of(texts: Sequence[str]) -> bytes:
    """Eight bytes of hash a text."""
    return b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)


def batched(pairs: Iterable[tuple[str, str]], swapped: bool) -> Iterator[Texts]:
    """(text, original) in groups of about BATCH characters; `swapped`: whether the two may differ."""
    texts, originals = list[str](), list[str]()
    held = 0
    for text, original in pairs:
        texts.append(text)
        originals.append(original)
        held += len(text)
        if held >= BATCH:
            yield texts, originals if swapped else None
            texts, originals, held = [], [], 0
    if texts:
        yield texts, originals if swapped else None


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
