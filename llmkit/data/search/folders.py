"""Which texts are there in these folders and files? Each is hashed, and what is no text is passed over, and said."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkit.data.fields import ALIASES, find_fields
from llmkit.data.files import LONGEST_DOCUMENT, changed, files_of
from llmkit.data.files import Changed as Changed
from llmkit.data.formats import format_of
from llmkit.data.search.passages import Unit
from llmkit.data.search.web import readable
from llmkit.data.sources import Reader, open_source
from llmkit.recipe import Source
from llmkit.system.addresses import at_home
from llmkit.system.errors import DataError

SCHEMES = ("builtin:", "hub:")
"""What sources that aren't files begin with."""
FIELDS = {"text": ALIASES["text"], "title": ("headline", "heading", "subject")}
"""What a row is about, and what it says, by the names that data sets have for it."""
TITLE = 200
"""Characters of a title at most."""
PAGES = (".html", ".htm", ".xhtml")
BY_LINE = (".txt", ".text", ".log", "")
"""Files whose lines are documents where no blank lines part them."""


@dataclass(frozen=True)
class Listed:
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
            path = at_home(self.shown)
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != self.digest:
                raise changed(path)
            text = data.decode("utf-8-sig")
            suffix = Path(self.shown).suffix.lower()
            yield 1, "", readable(text) if suffix in PAGES else text, "line" if suffix in BY_LINE else "paragraph"
            return
        columns: list[str] | None = None
        for row, place in self.reader.rows():
            if columns != list(row):
                columns = list(row)
                column = find_fields(columns, {}, FIELDS, self.reader)
            title = str(row[column["title"]] or "") if {"text", "title"} <= set(column) else ""
            text = row[column["text"]] if "text" in column else _cells(row)
            if text is not None and str(text).strip():
                yield place.line or 1, " ".join(title.split())[:TITLE], str(text).replace("\0", " "), "whole"


@dataclass
class Listing:
    """What there is to search, and what was passed over, by its reason."""

    sources: list[Listed] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def passed(self) -> str:
        """What was passed over, in words; empty where nothing was."""
        reasons = [f"{len(names)} {why} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                for why, names in sorted(self.passed_over.items())]
        return "; ".join(reasons)


def listed(places: Sequence[str]) -> Listing:
    """Every text of the places, hashed; DataError where one isn't there, or none has a text."""
    listing, seen = Listing(), set[Path]()
    for number, place in enumerate(places):
        if place.startswith(SCHEMES):
            reader = open_source(Source(place), at="")
            listing.sources.append(Listed(place, number, "", reader.fingerprint(), reader))
            continue
        path = at_home(place)
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


def _walk(folder: Path, number: int, listing: Listing, seen: set[Path]) -> None:
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
                source = "with rows that can't be read"
            if isinstance(source, str):
                passed.setdefault(source, []).append(str(path))
            else:
                listing.sources.append(source)


def _cells(row: Mapping[str, Any]) -> str:
    """What a row says that has no field for a text: its words and numbers, each with its name."""
    cells = ((name, cell) for name, cell in row.items() if isinstance(cell, str | int | float))
    return "\n".join(f"{name}: {cell}" for name, cell in cells if cell != "")


def _opened(shown: str, path: Path, number: int, inside: str) -> Listed | str:
    """A file to search; a string says why it can't be. DataError where it has rows that can't be read."""
    if format_of(path) != "text" or path.suffix.lower() == ".gz":
        reader = open_source(Source(shown), at="")
        rows = Listed(shown, number, inside, reader.fingerprint(), reader)
        return "without a row that has a text" if next(rows.documents(), None) is None else rows
    try:
        if path.stat().st_size > LONGEST_DOCUMENT:
            return f"a text of more than {LONGEST_DOCUMENT:,} bytes"
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
    return Listed(shown, number, inside, hashlib.sha256(data).hexdigest())
