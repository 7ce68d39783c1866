"""Whether the first row of a table is a header, and what its columns hold where it isn't."""

import re
from collections.abc import Collection, Sequence

from llmkit.data.formats._columns import class_names, kinds, number

Table = Sequence[Sequence[str]]
_SENTENCE = re.compile(r"(\S+\s+){3}\S|[\u3400-\u9fff].{4,}[\u3400-\u9fff]")
"""Four words, or six Chinese characters."""


def headerless(rows: Table, words: Collection[str]) -> dict[str, int] | None:
    """Which columns of a table without a header are text and label, as far as that is clear; None where it has one.

    words   names of columns that are known; one in the first row, and not again below it, makes a header

    pos  a good film     pos recurs: no header     {"text": 1, "label": 0}
    neg  a bad film
    pos  very good
    """
    first, below = rows[0], list(zip(*rows[1:], strict=True))
    if below and _says_classes(first, below):
        return kinds({i: [first[i], *column] for i, column in enumerate(below)})
    if not below or any(cell.strip().casefold() in words and cell not in below[i] for i, cell in enumerate(first)):
        return None
    if len(first) == 2:
        sizes = [sum(len(cells[i]) for cells in rows) for i in (0, 1)]
        short = 0 if sizes[0] < sizes[1] else 1
        if first[short] in below[short]:
            return {"text": 1 - short, "label": short}
    if [cell.strip() for cell in first if cell.strip()] == [str(i) for i in range(sum(map(bool, first)))]:
        return None  # as pandas calls columns that have no names
    if not _sentences(first, below) and not any(
            _is_data(cell, column, len(first)) for cell, column in zip(first, below, strict=True)):
        return None
    return kinds({i: [first[i], *column] for i, column in enumerate(below)})


def _says_classes(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether a first cell is the name of a class, as all below it are: neutral above entailment, contradiction."""
    return len(first) > 1 and any(class_names([cell, *column]) for cell, column in zip(first, below, strict=True))


def _sentences(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether two first cells are of several words, and as long as what stands below them."""
    long = [cell for cell, column in zip(first, below, strict=True)
            if _SENTENCE.search(cell) and not cell.rstrip().endswith((":", "："))
            and 2 * sorted(map(len, column))[len(column) // 2] >= len(cell)]
    return len(set(long)) > 1


def _is_data(cell: str, below: Sequence[str], width: int) -> bool:
    """Whether a first cell is one of those below it: a number among numbers, a value that recurs, or a sentence."""
    cell = cell.strip()
    if not cell or len(below) < 2:
        return False
    if number(cell) and all(number(one) for one in below if one.strip()):
        return True
    if width > 1 and cell in (others := {one.strip() for one in below}) and len(others) * 2 <= len(below):
        return True
    usual = sorted(map(len, below))[len(below) // 2]
    return (len(cell) >= 40 or cell.endswith((".", "!", "。", "！"))) and not cell.endswith(("?", "？", ":", "：")) \
        and usual * 2 >= len(cell) and len(set(below)) * 2 > len(below)
