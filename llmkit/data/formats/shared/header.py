"""Whether the first row of a table is a header, and what its columns hold where it isn't."""

from collections.abc import Collection, Sequence

from llmkit.data.formats._columns import kinds, number

Table = Sequence[Sequence[str]]


def headerless(rows: Table, words: Collection[str]) -> dict[str, int] | None:
    """Which columns of a table without a header are text and label, as far as that is clear; None where it has one.

    words   names of columns that are known; one in the first row, and not again below it, makes a header

    pos  a good film     pos recurs: no header     {"text": 1, "label": 0}
    neg  a bad film
    pos  very good
    """
    first, below = rows[0], list(zip(*rows[1:], strict=True))
    if not below or any(cell.strip().casefold() in words and cell not in below[i] for i, cell in enumerate(first)):
        return None
    if len(first) == 2:
        sizes = [sum(len(cells[i]) for cells in rows) for i in (0, 1)]
        short = 0 if sizes[0] < sizes[1] else 1
        if first[short] in below[short]:
            return {"text": 1 - short, "label": short}
    if [cell.strip() for cell in first if cell.strip()] == [str(i) for i in range(sum(map(bool, first)))]:
        return None  # as pandas calls columns that have no names
    if not any(_is_data(cell, column, len(first)) for cell, column in zip(first, below, strict=True)):
        return None
    return kinds({i: [first[i], *column] for i, column in enumerate(below)})


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
