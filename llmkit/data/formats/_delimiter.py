"""What stands between the cells of a table: Excel writes a semicolon in half of the world, and calls it .csv."""

import csv
from collections.abc import Collection, Sequence

MARKS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What may stand between cells, and what it is called."""
EVEN = 0.9
"""The share of rows that must have as many cells as the first, for a mark to be taken for what stands between them."""

SOME = 0.5
"""The same where the first row has the name of a field, cut so: rows may be bad."""


def delimiter_of(lines: Sequence[str], usual: str, words: Collection[str], whole: bool = True) -> str:
    """The mark that cuts lines into rows of one width; the usual one where it does, or where none does better.

    words   names of columns that are known: a first row that has one, cut so, is a header
    whole   whether these are all the lines; else the last row may go on

    text;label  good, really;1  bad;0  ->  ;
    """
    cuts = {mark: _cut(lines, mark, usual, words, whole) for mark in (usual, *(set(MARKS) - {usual}))}
    width, even, known = cuts[usual]
    others = {mark: cut for mark, cut in cuts.items()
              if mark != usual and cut[0] > 1 and cut[1] >= (EVEN if width > 1 or not cut[2] else SOME)}
    if width > 1 and even >= EVEN:
        others = {mark: cut for mark, cut in others.items() if cut[2] and not known}
    elif width > 1:
        others = {mark: cut for mark, cut in others.items() if cut[1] > even}
    return max(others, key=lambda mark: (others[mark][2], others[mark][1], others[mark][0], mark), default=usual)


def width_of(lines: Sequence[str], mark: str) -> tuple[int, float]:
    """(cells of the first row, share of rows that have as many) where a mark stands between cells."""
    width, even, _ = _cut(lines, mark, mark, (), True)
    return width, even


def _cut(
    lines: Sequence[str], mark: str, usual: str, words: Collection[str], whole: bool,
) -> tuple[int, float, bool]:
    """(cells of the first row, share of rows that have as many, whether the first row has a known name)."""
    csv.field_size_limit(2**31 - 1)
    try:
        rows = list(csv.reader((f"{line}\n" for line in lines), delimiter=mark,
                               quoting=csv.QUOTE_NONE if mark == usual == "\t" else csv.QUOTE_MINIMAL))
    except csv.Error:
        return 0, 0.0, False
    rows = [row for row in (rows if whole else rows[:-1]) if any(cell.strip() for cell in row)]
    if not rows:
        return 0, 0.0, False
    known = any(cell.strip().casefold() in words for cell in rows[0])
    if len(rows) == 1 and not known:
        return 0, 0.0, False
    return len(rows[0]), sum(len(row) == len(rows[0]) for row in rows) / len(rows), known
