"""Rows go to a table, .csv or .tsv: a header from the first of them, and each row as soon as it is there."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from llmkit.data.fields import FIELD_WORDS
from llmkit.data.formats._delimiter import delimiter_of
from llmkit.data.formats._table import said_delimiter
from llmkit.system.addresses import at_home
from llmkit.system.report import log

MARKS = {".csv": ",", ".tsv": "\t"}
"""What stands between the cells of a table, by its extension."""


def is_table(output: str) -> bool:
    """Whether a file that is to be written is a table, by its name."""
    return Path(output).suffix.lower() in MARKS


LOOKED_AT = 2**18
"""Bytes of a table from which it is told what stands between its cells."""


class Unsaid(dict[str, Any]):
    """A row of which nothing was said, for it is bad."""


def beside(given: Mapping[str, Any], said: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row with what is said of it; where both have a column, that of the row stays, and the other is predicted_….

    {"id": 7, "label": "a"}, {"label": "b", "score": 0.9}  ->  {"id": 7, "label": "a", "predicted_label": "b", "score":
    0.9}
    """
    if said is None:
        return Unsaid(given)
    return {**given, **{f"predicted_{name}" if name in given else name: value for name, value in said.items()}}


def look(output: str, read: Sequence[str]) -> tuple[str, bool]:
    """(what stands between cells, whether a byte order mark is first) of a table that is written: as in the one read.

    Excel takes a .csv for its own where both are as it wrote them. Where no table of that extension is read: a comma,
    or a tab, and no mark.
    """
    suffix = Path(output).suffix.lower()
    alike = (at_home(label) for label in read if Path(label).suffix.lower() == suffix)
    path = next((path for path in alike if path.is_file()), None)
    if path is None:
        return MARKS[suffix], False
    with path.open("rb") as file:  # marks between cells are ASCII in all encodings but UTF-16 and 32
        head = file.read(LOOKED_AT)
    lines = head.removeprefix(codecs.BOM_UTF8).decode("latin-1").splitlines()
    said = lines[0][-1] if lines and said_delimiter(lines[0]) else ""
    mark = said or delimiter_of(lines, MARKS[suffix], FIELD_WORDS, whole=len(head) < LOOKED_AT)
    return mark, head.startswith(codecs.BOM_UTF8)


def write(rows: Iterator[Mapping[str, Any] | None], to: IO[str], delimiter: str, bom: bool = False) -> int:
    """Write a header and all rows, None as one that is empty; return how many.

    The columns are those of the first row of which something is said. What a later row has beyond these is left out,
    counted and said.
    """
    first = list(_opening(rows))
    columns = list(dict.fromkeys(name for row in first for name in row or ()))
    to.write("\ufeff" if bom else "")
    table = csv.writer(to, delimiter=delimiter, lineterminator="\n")
    table.writerow(columns)
    count, beyond = 0, dict[str, int]()
    for count, row in enumerate(chain(first, rows), 1):  # noqa: B007
        cells = row or {}
        table.writerow([_cell(cells.get(name)) for name in columns])
        to.flush()
        for name in cells.keys() - columns:
            beyond[name] = beyond.get(name, 0) + 1
    for name, times in sorted(beyond.items()):
        log.warning(f"the column {name!r} is left out, for the first row has none: {times:,} rows have it")
    return count


def _opening(rows: Iterator[Mapping[str, Any] | None]) -> Iterator[Mapping[str, Any] | None]:
    """The first rows, up to one that something is said of: those before it may be bad, and lack its columns."""
    for row in rows:
        yield row
        if row is not None and not isinstance(row, Unsaid):
            return


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
