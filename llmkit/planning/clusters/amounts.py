"""How much there is to learn from, before any of it is tokenized: rows, tokens and steps, counted or estimated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from llmkit.data.sources import Reader
from llmkit.planning.choices import LETTERS
from llmkit.planning.inspect import passages
from llmkit.planning.settle import Settled
from llmkit.recipe.seams import Learning
from llmkit.tasks.base import Task

SAMPLE = 2_000
"""Documents or rows of a file that are read; of more, the rest is estimated by the file's size."""
PACKED = ("documents", "blocks")
"""Ways of packing that leave no padding: all rows are full."""


@dataclass(frozen=True)
class Amount:
    """What some sources hold. Three documents of 40, 8 and 20 letters: Amount(3, 17.0, True)."""

    rows: float
    tokens: float
    """About: a token is four bytes of text."""
    whole: bool
    """Whether all of it was read."""

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.rows + other.rows, self.tokens + other.tokens, self.whole and other.whole)

    def share(self, part: float) -> Amount:
        """A part of it."""
        return Amount(self.rows * part, self.tokens * part, self.whole)


@dataclass(frozen=True)
class Amounts:
    """What a run learns from and is evaluated on."""

    train: Amount
    validation: Amount
    length: float
    """Tokens of a row, on average."""

    @property
    def exact(self) -> bool:
        """Whether rows were counted rather than estimated; those of text are cut by tokens, which are estimated."""
        return self.train.whole


def amounts(settled: Settled) -> Amounts:
    """Rows and tokens of a recipe's data; rows of text are what its packing makes of them.

    Raises DataError where a file can't be read.
    """
    data, learning = settled.recipe.data, settled.recipe.learning
    longest = data.max_length or 128
    full = data.packing in PACKED and not isinstance(learning, Task)
    train = total(settled.train, learning, longest, full)
    held = settled.validation
    if isinstance(held, float):
        train, validation = train.share(1 - held), train.share(held)
    elif isinstance(held, int):
        part = min(1.0, held / train.rows)
        train, validation = train.share(1 - part), train.share(part)
    else:
        validation = total(held or [], learning, longest, full)
    if data.shots is not None and isinstance(learning, Task):
        train = train.share(min(1.0, data.shots * kinds(settled.train, learning) / train.rows))
    return Amounts(train, validation, longest if full else min(longest, max(1.0, train.tokens / max(1.0, train.rows))))


def kinds(readers: Sequence[Reader], learning: Task) -> int:
    """How many labels the first rows have; 1 where rows have none."""
    found = {label for reader in readers for row, _ in islice(learning.stream(reader), SAMPLE)
             for label in learning.labels_of(row)}
    return max(1, len(found))


def total(readers: Sequence[Reader], learning: Learning, longest: int, full: bool) -> Amount:
    """What sources hold together."""
    found = Amount(0, 0, True)
    for reader in readers:
        found += of_source(reader, learning, longest)
    return Amount(math.ceil(found.tokens / longest), found.tokens, found.whole) if full else found


def of_source(reader: Reader, learning: Learning, longest: int) -> Amount:
    """What a source holds: its first documents or rows are read, and a file's size says how many more there are."""
    rows, tokens, seen, whole = 0, 0.0, 0, True
    for texts, size in pieces(reader, learning):
        if reader.files and rows >= SAMPLE:
            whole = False
            break
        letters = len(texts.encode("utf-8", "replace")) / LETTERS
        if isinstance(learning, Task):
            rows, tokens = rows + 1, tokens + min(letters, longest)
        else:  # a document that is longer than a row goes on in the next
            rows, tokens = rows + max(1, math.ceil(letters / longest)), tokens + letters
        seen += size
    if whole:
        return Amount(rows, tokens, True)
    more = max(1.0, sum(path.stat().st_size for path in reader.files) / max(1, seen))
    return Amount(rows * more, tokens * more, False)


def pieces(reader: Reader, learning: Learning) -> Iterator[tuple[str, int]]:
    """Each document of a source, or the texts of each row, with the bytes that it takes in a file, about."""
    if isinstance(learning, Task):
        for row, _ in learning.stream(reader):
            written = json.dumps(row, ensure_ascii=False, default=str)
            yield " ".join(passages(row)), len(written.encode("utf-8", "replace"))
        return
    for text in learning.texts(reader):
        yield text, len(text.encode("utf-8", "replace")) + 1
