"""What is learned, and beside it the same with words swapped: documents and rows, counted and told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np

from llmkit.data.files import Place
from llmkit.data.sources import Reader
from llmkit.data.swapping.pairs import Swaps
from llmkit.data.tokens import Documents

Rows: TypeAlias = "list[tuple[dict[str, Any], Place]]"
SALT = 0x5741_5053
"""Makes which rows are replaced another draw than which are held out."""
Told: TypeAlias = "tuple[list[str], dict[str, Any]]"
"""What there is to say, and what the summary keeps of it."""


@dataclass
class Tally:
    """How many rows, or documents, came in which way to their words."""

    swap: str
    mode: str
    rows: int = 0
    """Training rows, before any is doubled."""
    with_words: int = 0
    """Those that have words of the list."""
    swapped: int = 0
    """Rows that are seen with their words swapped."""
    held_out: int = 0
    """Swapped rows that are left out, for they are among the validation rows."""
    as_they_are: int = 0
    """Rows with such words that can't be swapped rightly."""

    def told(self, what: str, why: str = "") -> Told:
        """`builtin:gender: 12 of 100 documents have such words; seen also with these swapped: 12`."""
        if not self.with_words:
            said = f"{self.swap}: none of the {self.rows:,} {what} has a word of it; nothing is swapped"
            return [said], {"augment": asdict(self)}
        how = "seen also with these swapped" if self.mode == "both" else (
            "seen with these swapped instead, drawn by the seed")
        said = f"{self.swap}: {self.with_words:,} of {self.rows:,} {what} have such words; {how}: {self.swapped:,}"
        if self.held_out:
            said += f"; not seen swapped, for that text is held out: {self.held_out:,}"
        if self.as_they_are:
            said += f"; seen as they are only: {self.as_they_are:,}, for {why or 'the task says so'}"
        return [said], {"augment": asdict(self)}


def doubled_documents(
    learned: Sequence[Documents], held: Sequence[Documents], readers: Sequence[Reader], seed: int,
) -> tuple[list[Documents], list[str], dict[str, Any]]:
    """(training documents of each source, what there is to say, facts): first as they are, then those swapped.

    Swapped documents stand behind all others, so that none shares a row with its original; one whose text is among
    the `held` is left out. As they came where no words are to be swapped.
    """
    swaps = readers[0].swaps if readers else None
    if swaps is None:
        return list(learned), [], {}
    tally, out = Tally(swaps.path, swaps.mode), []
    texts = np.concatenate([np.zeros(0, np.uint64), *(documents.digests for documents in held)])
    for documents in learned:
        assert documents.own is not None  # the reader had swaps when it was tokenized
        swapped = documents.swapped
        followed = np.append(swapped[1:], False)  # a swapped document stands behind its original
        lost = swapped & np.isin(documents.own, texts)
        tally.rows += int((~swapped).sum())
        tally.with_words += int(swapped.sum())
        tally.held_out += int(lost.sum())
        instead = np.zeros(len(documents), np.bool_)
        if swaps.mode == "replace":
            instead = (documents.drawn(seed ^ SALT) >> np.uint64(63)).astype(np.bool_)
            lost |= swapped & ~instead
        kept = ~swapped & ~(instead & followed & ~np.append(lost[1:], False))
        tally.swapped += int((swapped & ~lost).sum())
        out.append(documents.where(np.concatenate([np.flatnonzero(kept), np.flatnonzero(swapped & ~lost)])))
    return out, *tally.told("documents")


def doubled_rows(
    learned: Sequence[Rows], held: Sequence[Rows], readers: Sequence[Reader], seed: int,
    swapped: Callable[[dict[str, Any], Swaps], dict[str, Any] | None], key: Callable[[dict[str, Any]], str], why: str,
) -> tuple[list[Rows], list[str], dict[str, Any]]:
    """(training rows of each source, what there is to say, facts): first as they are, then those swapped.

    swapped    a row to the same with its words swapped; None where that can't be right, for the reason `why`
    key        what two rows that must not be on two sides of a split have in common
    """
    swaps = readers[0].swaps if readers else None
    if swaps is None:
        return list(learned), [], {}
    tally, out = Tally(swaps.path, swaps.mode), []
    texts = {key(row) for rows in held for row, _ in rows}
    for rows in learned:
        stay, come = list[tuple[dict[str, Any], Place]](), list[tuple[dict[str, Any], Place]]()
        for row, place in rows:
            other = swapped(row, swaps)
            tally.rows += 1
            tally.with_words += other != row
            tally.as_they_are += other is None
            lost = other is not None and other != row and key(other) in texts
            tally.held_out += lost
            takes = other is not None and other != row and not lost
            if swaps.mode == "replace":
                takes = takes and drawn(key(row), seed)
            if other is not None and takes:
                come.append((other, place))
            if not takes or swaps.mode == "both":
                stay.append((row, place))
        tally.swapped += len(come)
        out.append([*stay, *come])
    return out, *tally.told("training rows", why)


def drawn(content: str, seed: int) -> bool:
    """Whether a row of this content is one of the half that is replaced."""
    said = f"{SALT}\n{seed}\n{content}".encode(errors="surrogatepass")
    return bool(blake2b(said, digest_size=1).digest()[0] & 1)
