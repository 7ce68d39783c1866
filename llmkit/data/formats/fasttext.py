"""fastText's lines: `__label__glad A lovely film.`, with one label or several before the text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llmkit.data.files import Place
from llmkit.data.formats.base import FileReader, Format, Rows, lines
from llmkit.data.formats.table import MARK
from llmkit.system.errors import DataError


class FastText(Format):
    """A text file in which each line begins with its label; no extension says this."""

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """{"text", "label"} a line; where some line has several labels, each has a list of them."""
        several = any(len(_cut(line)[0]) > 1 for _, line in lines(path, reader))
        for number, line in lines(path, reader):
            place = Place(str(path), number)
            labels, text = _cut(line)
            if not line.strip():
                continue
            if not labels or not text:
                reader.spare(DataError(f"{place}: a line here is {MARK}NAME and a text; this is {line[:60]!r}."))
                continue
            label: Any = labels if several else labels[0]
            yield {"text": text, "label": label}, place

    def look(self, path: Path, reader: FileReader) -> str | None:
        """Which form it is."""
        return f"{path}: its lines begin with labels, as fastText's ({MARK}…)."


def _cut(line: str) -> tuple[list[str], str]:
    """(labels, text) of a line."""
    labels, rest = list[str](), line.strip()
    while rest.startswith(MARK):
        first, *others = re.split(r"[ \t]+", rest, maxsplit=1)
        labels.append(first.removeprefix(MARK).rstrip(","))
        rest = "".join(others).lstrip(" ,\t")
    return labels, rest
