"""One JSON object that holds all rows: in a list, as columns, as pandas writes a table, or as SQuAD's articles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llmkit.data.decoding.text import decoded
from llmkit.data.fields import ALIASES, FIELD_WORDS
from llmkit.data.files import CHUNK, LONGEST_DOCUMENT, Place
from llmkit.data.formats._objects import checked, no_key_twice
from llmkit.data.formats.base import FileReader, Rows
from llmkit.data.formats.shared import squad as _squad
from llmkit.system.errors import DataError

Form: TypeAlias = Literal["squad", "stream", "list", "split", "columns", "rows"]
"""SQuAD's articles; objects one after the other, not by the line; a list of rows; pandas' lists of names and cells; a
column, or a row, by its name."""
PLAIN = ("data", "rows")
"""Names of a list of rows that can't be anything else."""
LISTS = (*PLAIN, "examples", "items", "records", "train", "dataset", "samples", "instances", "documents", "results",
         "entries", "数据")
"""Names of a list of rows, where no field of a row stands beside it."""
WORDS = frozenset(name for field in ("tokens", "tags") for name in (field, *ALIASES[field]))
"""Fields of one row that are lists of words."""
TALK = frozenset({"messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "utterances",
                  "对话"})
"""Fields of one row that are lists of what is said."""
_OPENING = re.compile(
    r'\s*\{\s*(?:"(?:[^"\\]|\\.)*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[-+.\w]+|\[[^\[\]{}]*\]|\{[^{}]*\})\s*,\s*)*'
    r'"(?P<name>(?:[^"\\]|\\.)*)"\s*:\s*(?=\[\s*\{)')
"""An object up to a list of objects in it, behind values that are plain."""
_SPACE = re.compile(r"[ \t\r\n]*")
_BLANK = "\ufeff \t\r\n"


@dataclass(frozen=True)
class Document:
    """An object that was read, and how it holds rows."""

    file: str
    text: str
    held: Mapping[str, Any]
    form: Form
    name: str = ""
    """What the list of rows is called."""

    def rows(self, reader: FileReader) -> Rows:
        """Each row; with its line, or where rows lie across lines its number, from 1."""
        if self.form == "squad":
            yield from _squad.rows(self.text, self.file)
            return
        written = self.text if "\\ud" in self.text.lower() else ""
        for row, place in self._rows():
            yield from checked(row, written, place, reader)

    def _rows(self) -> Iterator[tuple[Any, Place]]:
        if self.form == "stream":
            yield from ((row, Place(self.file, line)) for row, line in _one_by_one(self.text))
            return
        if self.form == "list":
            for row, line in _elements(self.text, self.name):
                whole = isinstance(row, dict) and isinstance(row.get("row"), dict) and "row_idx" in row  # the hub's
                yield row["row"] if whole else row, Place(self.file, line)
            return
        for number, row in enumerate(_FORMS[self.form](self.held), 1):
            yield row, Place(self.file, number)


def head(path: Path, reader: FileReader) -> str:
    """How a file begins, from its first character that is no space; the byte order mark is one."""
    with decoded(path, reader.source.encoding, reader.label, reader.spares) as file:
        while piece := file.read(CHUNK):
            if found := piece.lstrip(_BLANK):
                return found
    return ""


def broken(path: Path, reader: FileReader) -> int:
    """Where in a file its rows begin that stand in a list of one object which is no JSON; 0 where it isn't so.

    {"version": 1, "data": [{"text": "a"}, {"text" "b"}]}  ->  24, for rows are read from there on, one by one
    """
    begin = head(path, reader)
    opening = _OPENING.match(begin)
    if opening is None or opening["name"].strip().casefold() not in LISTS or _reads(path, reader):
        return 0
    with decoded(path, reader.source.encoding, reader.label, reader.spares) as file:
        first = file.read(CHUNK).removeprefix("\ufeff")
    return first.find(begin[: opening.end()]) + opening.end()


def _reads(path: Path, reader: FileReader) -> bool:
    """Whether a file is JSON, one value or one a line."""
    with decoded(path, reader.source.encoding, reader.label, reader.spares) as file:
        text = file.read(LONGEST_DOCUMENT + 1).removeprefix("\ufeff")
    try:
        json.loads(text)
    except RecursionError:
        return True  # it is told elsewhere
    except ValueError as error:
        return "Extra data" in str(error)
    return True


def opened(path: Path, reader: FileReader) -> Document | None:
    """The object that a file is and that holds rows; None where it is rows, an object a line."""
    with decoded(path, reader.source.encoding, reader.label, reader.spares) as file:
        first = _filled(file)
        _refuse_long(first, path)
        if not first.startswith("{") or (not first.endswith(("{", "[", ",", ":")) and _filled(file)):
            return None  # an object a line, or a line of which something is missing
    with decoded(path, reader.source.encoding, reader.label) as file:
        text = file.read(LONGEST_DOCUMENT + 1).removeprefix("\ufeff")
    _refuse_long(text, path)
    try:
        held = json.loads(text, object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError) as error:
        if _squad.opens(text.lstrip()) and '"paragraphs"' in text and not reader.spares:
            return Document(str(path), text, {}, "squad")  # it tells what is wrong
        if "given twice" in str(error) and "\n" in text.strip():  # of one line, its reader tells it
            raise DataError(f"{path}: bad JSON: {error}.") from error
        return Document(str(path), text, {}, "stream") if "Extra data" in str(error) and _all_read(text) else None
    form = _form(held)
    return None if form is None else Document(str(path), text, held, *form)


def _refuse_long(text: str, path: Path) -> None:
    if len(text) > LONGEST_DOCUMENT:
        raise DataError(f"{path}: one object of more than {LONGEST_DOCUMENT:,} characters; write an object a line "
                        "(.jsonl), which is read line by line.")


def said(path: Path, reader: FileReader) -> str | None:
    """How one object holds all rows of a file, where it does, and it isn't SQuAD."""
    begin = head(path, reader)
    document = opened(path, reader) if begin.startswith("{") else None
    if document is None or document.form == "squad":
        return None
    how = {"stream": "objects one after the other, not one a line", "list": f"the list {document.name!r} of one object",
           "split": "lists of cells, as pandas' orient split",
           "columns": "columns of one object", "rows": "one object, by their names"}[document.form]
    return f"{path}: its rows are {how}."


def _filled(file: TextIOWrapper) -> str:
    """The next line that has more than spaces; "" at the end."""
    lines = iter(lambda: file.readline(LONGEST_DOCUMENT + 1), "")
    return next((filled for line in lines if (filled := line.strip(_BLANK))), "")


def _form(held: Any) -> tuple[Form, str] | None:
    """How an object holds rows, and in a list of which name; None where it may be a row itself.

    {"version": "1", "data": [{"text": "a"}]}    {"text": ["a", "b"]}    {"text": {"0": "a"}}    {"7": {"text": "a"}}
    """
    if not isinstance(held, dict) or not held:
        return None
    data = held.get("data")
    if isinstance(data, list) and isinstance(held.get("columns"), list) and all(isinstance(one, list) for one in data):
        return "split", ""
    if isinstance(data, list) and any(isinstance(one, dict) and "paragraphs" in one for one in data):
        return "squad", ""
    lists = [name for name, value in held.items() if name.strip().casefold() in LISTS and _objects(value)]
    plain = [name for name in lists if name.strip().casefold() in PLAIN]
    if plain or (lists and not any(name.strip().casefold() in FIELD_WORDS for name in held if name not in lists)):
        return "list", (plain or lists)[0]
    if "data" in held and _squad.opens(json.dumps(held)[:CHUNK]):
        return "squad", ""
    values = list(held.values())
    if all(isinstance(value, list) and len(value) == len(values[0]) > 0 for value in values):
        return ("columns", "") if _are_columns(held) else None
    if all(isinstance(value, dict) and value for value in values):
        return _named(held)
    return None


def _objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _are_columns(held: Mapping[str, list[Any]]) -> bool:
    """Whether lists of one length are columns: not where they are the words of one row, or the turns of one."""
    words = any(name.strip().casefold() in WORDS and not isinstance(value[0], list) for name, value in held.items())
    talk = any(name.strip().casefold() in TALK and isinstance(value[0], str | dict) for name, value in held.items())
    beside = [value for name, value in held.items() if name.strip().casefold() not in TALK]
    numbers = all(isinstance(one, int | float) for value in beside for one in value)  # DailyDialog: an act for each
    return not words and not all(map(_objects, held.values())) and not (talk and numbers)


def _named(held: Mapping[str, Mapping[str, Any]]) -> tuple[Form, str] | None:
    """Whether objects in an object are columns by name, or rows by name: numbers name rows, known words columns."""
    inner = {name for value in held.values() for name in value}
    numbers = [all(name.lstrip("-").isdecimal() for name in names) for names in (held, inner)]
    known = [any(name.strip().casefold() in FIELD_WORDS for name in names) for names in (held, inner)]
    same = all(set(value) == inner for value in held.values())
    if numbers[1] and not numbers[0] and same:
        return "columns", ""
    if numbers[0] and not numbers[1]:
        return "rows", ""
    if len(held) > 1 and known == [True, False] and same:
        return "columns", ""
    return ("rows", "") if len(held) > 1 and known == [False, True] else None


def _of_columns(held: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """{"text": ["a", "b"], "n": {"0": 1, "1": 2}}  ->  {"text": "a", "n": 1}, {"text": "b", "n": 2}"""
    columns = list(held.values())
    keys = list(columns[0]) if isinstance(columns[0], dict) else range(len(columns[0]))
    return (dict(zip(held, (column[key] for column in columns), strict=True)) for key in keys)


def _of_split(held: Mapping[str, Any]) -> Iterator[Any]:
    """{"columns": ["text", "n"], "data": [["a", 1]]}  ->  {"text": "a", "n": 1}"""
    names = held["columns"]
    return (dict(zip(map(str, names), cells, strict=True)) if len(cells) == len(names) else cells
            for cells in held["data"])


_FORMS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Any]]] = {
    "columns": _of_columns, "split": _of_split, "rows": lambda held: iter(held.values())}


def _elements(text: str, name: str) -> Iterator[tuple[Any, int]]:
    """The elements of a list of a top-level object, each with the line that it starts on."""
    decoder = json.JSONDecoder(object_pairs_hook=no_key_twice)
    at, line, seen = _after(text, "{", 0), 1, 0
    while True:  # the names before it
        found, at = decoder.raw_decode(text, at)
        at = _after(text, ":", at)
        if found == name and text[at] == "[":
            break
        _, at = decoder.raw_decode(text, at)
        at = _after(text, ",", at)
    while text[at] != "]":
        at = _after(text, text[at], at)
        line, seen = line + text.count("\n", seen, at), at
        row, at = decoder.raw_decode(text, at)
        yield row, line
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _one_by_one(text: str) -> Iterator[tuple[Any, int]]:
    """The values that stand one after the other, with or without spaces between, each with its line."""
    decoder, line, seen = json.JSONDecoder(object_pairs_hook=no_key_twice), 1, 0
    at = _SPACE.match(text).end()  # type: ignore[union-attr]
    while at < len(text):
        line, seen = line + text.count("\n", seen, at), at
        row, at = decoder.raw_decode(text, at)
        yield row, line
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _all_read(text: str) -> bool:
    try:
        return all(isinstance(row, dict) for row, _ in _one_by_one(text))
    except (ValueError, RecursionError):
        return False


def _after(text: str, mark: str, at: int) -> int:
    """Where what follows a mark begins."""
    return _SPACE.match(text, text.index(mark, at) + 1).end()  # type: ignore[union-attr]
