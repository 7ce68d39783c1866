"""Sources: open what a recipe names (files, a hub data set, built-in text) and read it document by document."""

import codecs
import csv
import glob
import gzip
import hashlib
import io
import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

from llmkit.data import builtin
from llmkit.data.builtin import Place as Place
from llmkit.data.formats import _squad as squad
from llmkit.recipe import Source
from llmkit.system import cache
from llmkit.system.errors import DataError, RequestError, nearest

Rows: TypeAlias = Iterator[tuple[dict[str, Any], Place]]
Column = TypeVar("Column", bound=str | int)

SEPARATOR = "<|endoftext|>"
"""A line that is exactly this stands between two documents (the convention of GPT-2's and TinyStories' files)."""

ALIASES: dict[str, tuple[str, ...]] = {
    "text": ("content", "document", "sentence", "body", "article", "passage", "review"),
    "label": ("labels", "class", "category", "target", "sentiment", "topic"),
    "summary": ("highlights", "abstract"),
    "question": ("query",),
    "context": ("passage",),
    "answers": ("answer",),
    "prompt": ("instruction", "input", "question"),
    "response": ("completion", "output", "answer"),
    "source": ("src",),
    "target": ("tgt", "translation"),
    "tokens": ("words",),
    "tags": ("ner_tags", "pos_tags"),
    "sentence1": ("premise", "anchor", "sentence_a"),
    "sentence2": ("hypothesis", "positive", "sentence_b"),
    "score": ("similarity", "rating", "stars"),
    "id": ("idx", "index", "title", "messages", "chosen", "rejected"),
}
"""What fields are called in the data sets that people have; any of these words in a first row makes it a header."""

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_KNOWN = {word for name, others in ALIASES.items() for word in (name, *others)}
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(rf"\n{re.escape(SEPARATOR)}\r?\n")
LARGE = 2**26  # bytes of text from which on it is remembered what a document is in it
TICK = 2_000_000_000  # nanoseconds: the coarsest clock of a file system in use
_GAP = re.compile(r"\n[^\S\n]*\n")
_ESCAPED = re.compile("[\udc80-\udcff]")
"""Bytes that a decoder couldn't read."""


@dataclass
class Reader:
    """One opened source, read as a stream from the start each time; construct it through `open_source`."""

    source: Source
    label: str
    """What the recipe said."""
    files: tuple[Path, ...] = ()
    """Empty for hub: and builtin:."""
    asked: str = "auto"
    """What the recipe calls a document."""
    notes: list[str] = field(default_factory=list)
    """What was concluded from the data and should be said once."""
    dataset: Any = None
    """The hub's data set, loaded."""
    headerless: dict[Path, dict[str, int]] = field(default_factory=dict)
    """Tables whose first row is data: which column holds which field."""
    held: Iterable[Mapping[str, Any]] | None = None
    """Rows that are in memory, not in a file."""
    spares: bool = False
    """Whether a bad row is left out and noted, where it is an error otherwise."""
    bad: dict[str, None] = field(default_factory=dict)
    """What is wrong with each row that was left out, in the order of the file."""

    @cached_property
    def document(self) -> str | None:
        """What a document is in text files: line, paragraph, file or endoftext; None where a row is one."""
        texts = [path for path in self.files if format_of(path) == "text" and self.source.target is None]
        if not texts or self.asked != "auto":
            return self.asked if texts else None
        if sum(path.stat().st_size for path in texts) < LARGE:
            return self._auto(texts)

        def write(folder: Path) -> None:
            (folder / "kind").write_text(self._auto(texts))

        about = json.dumps([self.source.encoding, [_digest(path) for path in texts]])
        return (cache.once("documents", hashlib.sha256(about.encode()).hexdigest(), write) / "kind").read_text()

    def _auto(self, texts: Sequence[Path]) -> str:
        gaps = False
        for path in texts:
            for text in self._stretches(path):
                if SEPARATOR in text and _SEPARATOR.search(text):
                    return "endoftext"
                gaps = gaps or _GAP.search(text.strip()) is not None
        return "paragraph" if gaps else "line"

    def _stretches(self, path: Path) -> Iterator[str]:
        """A file's text, about a million characters at a time, each from within the last one's last line that has some.

        So a separator, or a gap between two lines, is whole in one of them; a line end is added at both of its ends.
        """
        held = "\n"
        with self._open(path) as file:
            while piece := file.read(_CHUNK):
                text = held + (piece.removeprefix("\ufeff") if held == "\n" else piece)
                yield text
                filled = len(text.rstrip())
                held = text[max(0, min(filled - 1 if filled else len(text), len(text) - len(SEPARATOR) - 2)) :]
        yield f"{held}\n"

    @property
    def name(self) -> str:
        """The file, where there is one; else what the recipe said."""
        return str(self.files[0]) if len(self.files) == 1 else self.label

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content and of all that changes what is read from it; not of paths or times."""
        about: dict[str, Any] = {
            "formats": [format_of(path) for path in self.files], "fields": self.source.fields,
            "document": self.document, "encoding": self.source.encoding,
            "files": [_digest(path) for path in self.files],
        }
        if self.dataset is not None:
            about["hub"] = self.dataset._fingerprint
        elif not self.files:
            about["builtin"] = builtin.fingerprint(self.label.removeprefix("builtin:"))
        if self.spares:
            about["on_bad_row"] = "skip"
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def spare(self, error: DataError, cause: Exception | None = None) -> None:
        """Raise what is wrong with a row; only note it where such rows are left out."""
        if not self.spares:
            raise error from cause
        self.bad.setdefault(str(error))

    def documents(self) -> Iterator[tuple[str, Place]]:
        """The text of each document that isn't empty.

        Raises DataError, with file and line, for a row whose text is missing or isn't text, and where all is empty.
        """
        file, column, empty = None, "text", True
        for row, place in self._all():
            if place.file != file:  # each file of a glob has columns of its own
                exact = format_of(Path(place.file)) in ("json", "jsonl")
                where = place if exact and self.files else Place(place.file, None)
                try:
                    column = find_fields(list(row), {"text": ALIASES["text"]}, {}, self, where)["text"]
                except DataError as error:
                    if not exact:  # the columns are those of all rows
                        raise
                    self.spare(error)
                    continue
                file = place.file
            if column not in row:
                self.spare(DataError(f"{place}: the field {column!r} is missing; this row has {_listed(row)}."))
                continue
            text = row[column]
            if not isinstance(text, str):
                self.spare(DataError(f"{place}: {column!r} must be text, not {_shown(text)}."))
            elif text and not text.isspace():
                empty = False
                yield text, place
        if empty:
            raise self._empty()

    def rows(self) -> Rows:
        """One dict a row; of text files, {"text": …} a document. Raises DataError with file and line."""
        empty = True
        for row in self._all():
            empty = False
            yield row
        if empty:
            raise self._empty()

    def _empty(self) -> DataError:
        if self.bad:
            first = next(iter(self.bad))
            return DataError(f"{self.name}: no row is left; {len(self.bad):,} are bad, the first: {first}")
        return DataError(f"{self.name}: is empty.")

    def _all(self) -> Rows:
        if self.held is not None:
            for number, given in enumerate(self.held, 1):
                yield dict(given), Place(self.label, number)
        elif self.dataset is not None:
            for number, row in enumerate(self.dataset, 1):
                yield row, Place(self.label, number)
        elif not self.files:
            yield from builtin.rows(self.label.removeprefix("builtin:"))
        if self.source.target is not None:
            yield from self._parallel(*self.files)
            return
        for path in self.files:
            yield from _READ[format_of(path)](self, path)

    # ---- text --------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, path: Path, spares: bool = False) -> Iterator[io.TextIOWrapper]:
        r"""Decoded text; only \n ends a line. What goes wrong while reading is told with file and line.

        `spares`: bytes that aren't of the encoding become lone surrogates, for the reader to look at.
        """
        encoding = self.source.encoding
        try:
            with _bytes(path) as raw:
                if codecs.lookup(encoding).name.startswith("utf-8"):
                    _no_wide_mark(raw.peek(4)[:4], path, self.label)
                with io.TextIOWrapper(raw, encoding, "surrogateescape" if spares else "strict", newline="\n") as file:
                    yield file
        except UnicodeError as error:
            raise self._undecodable(path, error) from error
        except OSError as error:
            raise _unreadable(path, error) from error
        except (EOFError, zlib.error) as error:
            raise DataError(f"{path}: the gzip data breaks off or is damaged: {error}.") from error

    def _undecodable(self, path: Path, error: UnicodeError) -> DataError:
        """Find the first byte that isn't of the encoding, by decoding again piece by piece."""
        encoding, fed, line = self.source.encoding, 0, 1
        decoder = codecs.getincrementaldecoder(encoding)()
        with _bytes(path) as raw:
            while True:
                piece = raw.read(_CHUNK)
                fed += len(piece)
                try:
                    line += decoder.decode(piece, final=not piece).count("\n")
                except UnicodeDecodeError as bad:
                    # the decoder's own rest of the last piece stands before this piece
                    offset = fed - len(bad.object) + bad.start
                    line += bad.object[: bad.start].decode(encoding, "replace").count("\n")
                    return DataError(
                        f"{path}:{line}: not {encoding}: byte 0x{bad.object[bad.start]:02x} at offset {offset}; if "
                        f"the file is of another encoding, say which: {{source: {self.label}, encoding: latin-1}}.")
                if not piece:
                    return DataError(f"{path}: not {encoding}: {error}.")

    def _lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Numbered lines without their ends; a byte order mark is dropped, NUL refused."""
        with self._open(path, self.spares) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix("\ufeff")
                if "\0" in line:
                    self.spare(DataError(f"{path}:{number}: a NUL byte; this is no {self.source.encoding} text."))
                    continue
                if self.spares and not line.isascii() and (strange := _ESCAPED.search(line)):
                    byte = ord(strange[0]) - 0xDC00
                    self.spare(DataError(f"{path}:{number}: not {self.source.encoding}: byte 0x{byte:02x}."))
                    continue
                if line.endswith("\n"):
                    line = line[:-2] if line.endswith("\r\n") else line[:-1]
                yield number, line

    def _text(self, path: Path) -> Rows:
        kind, block, start = self.document, list[str](), 0
        for number, line in self._lines(path):
            blank = not line or line.isspace()
            if kind == "line":
                if not blank:
                    yield {"text": line}, Place(str(path), number)
            elif (kind == "paragraph" and blank) or (kind == "endoftext" and line == SEPARATOR):
                if block:
                    yield _block(block, path, start)
                    block = []
            elif block or not blank:
                start = start if block else number
                block.append(line)
        if block:
            yield _block(block, path, start)

    def _parallel(self, ours: Path, theirs: Path) -> Rows:
        """{source, target}: the lines of two files side by side."""
        number = 0
        for one, other in zip_longest(self._lines(ours), self._lines(theirs)):
            if one is None or other is None:
                short, whole = (ours, theirs) if one is None else (theirs, ours)
                raise DataError(f"{short}:{number}: is the last line, and {whole} goes on: of parallel text, each line "
                                "has its translation.")
            number = one[0]
            if one[1].strip() or other[1].strip():
                yield {"source": one[1], "target": other[1]}, Place(str(ours), number)

    # ---- JSON --------------------------------------------------------------------------------------------------

    def _jsonl(self, path: Path) -> Rows:
        for number, line in self._lines(path):
            if line and not line.isspace():
                place = Place(str(path), number)
                try:
                    row = json.loads(line, object_pairs_hook=_object)
                except json.JSONDecodeError as error:
                    hint = "; .json is an array of objects, or one object a line" if format_of(path) == "json" else ""
                    self.spare(DataError(f"{place}: bad JSON: {error.msg} at column {error.colno}{hint}."), error)
                    continue
                except (ValueError, RecursionError) as error:
                    self.spare(DataError(f"{place}: bad JSON: {error}."), error)
                    continue
                yield from self._whole(row, line, place)

    def _whole(self, row: Any, written: str, place: Place) -> Rows:
        """A row that was decoded; none where it is bad and bad ones are left out."""
        try:
            made = _row(row, written, place)
        except DataError as error:
            self.spare(error)
            return
        yield made, place

    def _json(self, path: Path) -> Rows:
        """An array of objects, JSON lines, or SQuAD's articles: the first characters that are no space tell."""
        head = ""
        with self._open(path, self.spares) as file:
            while not head and (piece := file.read(_CHUNK)):
                head = piece.lstrip("\ufeff \t\r\n")
        if squad.opens(head):
            with self._open(path) as file:
                text = file.read().removeprefix("\ufeff")
            return squad.rows(text, str(path))
        return self._array(path) if head.startswith("[") else self._jsonl(path)

    def _array(self, path: Path) -> Rows:
        """The objects of a top-level array, decoded one by one from a window over the file."""
        decoder = json.JSONDecoder(object_pairs_hook=_object)
        text, at, line, awaited = "", 0, 1, "["
        with self._open(path) as file:
            while True:
                start = cast(re.Match[str], _SPACE.match(text, at)).end()
                line, at = line + text.count("\n", at, start), start
                if at == len(text):
                    text, at = file.read(_CHUNK), 0
                    if not text and awaited == "end":
                        return
                    if not text:
                        raise DataError(f"{path}:{line}: bad JSON: the array breaks off, `]` is missing.")
                    text = text.removeprefix("\ufeff") if awaited == "[" else text
                    continue
                place, char = Place(str(path), line), text[at]
                if awaited == "end":
                    raise DataError(f"{place}: bad JSON: {char!r} after the end of the array.")
                if awaited == "[" or (awaited in ("first", ",") and char == "]"):
                    awaited, at = "end" if char == "]" else "first", at + 1
                elif awaited == ",":
                    if char != ",":
                        raise DataError(f"{place}: bad JSON: {char!r} where `,` or `]` is expected.")
                    awaited, at = "object", at + 1
                elif char != "{":
                    raise DataError(f"{place}: a row must be an object {{…}}, not {text[at : at + 30]!r}.")
                else:
                    row, text, at, end = _decoded(decoder, file, text, at, place)
                    yield from self._whole(row, text[at:end], place)
                    line, at, awaited = line + text.count("\n", at, end), end, ","

    # ---- tables ------------------------------------------------------------------------------------------------

    def _cells(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """The rows of a table as cells, each with the line that it starts on; all have as many as the first."""
        width, first = 0, 0
        for number, cells in self._tsv(path) if format_of(path) == "tsv" else self._csv(path):
            if not first:
                width, first = len(cells), number
            if len(cells) != width:
                self.spare(DataError(f"{path}:{number}: {len(cells)} cells, where line {first} has {width}."))
                continue
            yield number, cells

    def _csv(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(2**31 - 1)  # the library stops at 128 KiB a cell
        reader, start = csv.reader((f"{line}\n" for _, line in self._lines(path)), strict=True), 1
        try:
            for cells in reader:
                if cells:
                    yield start, cells
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{start}: bad CSV: {error}.") from error

    def _tsv(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        for number, line in self._lines(path):
            if line:
                yield number, [_unquoted(cell) for cell in line.split("\t")]

    def _table(self, path: Path) -> Rows:
        columns = self.headerless.get(path) or {
            name: index for name, index in self.source.fields.items() if isinstance(index, int)}
        places: list[tuple[str, int]] = []
        for number, cells in self._cells(path):
            if not places and columns:
                too_far = [index for index in columns.values() if not 0 <= index < len(cells)]
                if too_far:
                    raise DataError(f"{path}:{number}: there is no column {too_far[0]}; the table has {len(cells)}, "
                                    "counted from 0.")
                others = [(str(i), i) for i in range(len(cells)) if i not in columns.values()]
                places = [*columns.items(), *others]
            elif not places:
                header = [cell.strip() for cell in cells]
                twice = [name for name in header if header.count(name) > 1]
                if twice:
                    raise DataError(f"{path}:{number}: the header has {twice[0]!r} twice.")
                places = [(name, i) for i, name in enumerate(header)]
                continue
            yield {name: cells[i] for name, i in places}, Place(str(path), number)

    def _find_headerless(self, path: Path) -> None:
        """Two columns, no known name above them, and the first short cell occurs again below: a row, no header."""
        rows = [cells for _, cells in islice(self._cells(path), 1000)]
        if len(rows) < 2 or len(rows[0]) != 2 or any(cell.strip().casefold() in _KNOWN for cell in rows[0]):
            return
        sizes = [sum(len(cells[i]) for cells in rows) for i in (0, 1)]
        short = 0 if sizes[0] < sizes[1] else 1
        if rows[0][short] in [cells[short] for cells in rows[1:]]:
            self.headerless[path] = {"text": 1 - short, "label": short}
            self.notes.append(f"{path} has no header: its first row is data, column {1 - short} is read as text and "
                              f"column {short} as label.")

    def _parquet(self, path: Path) -> Rows:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield row, Place(str(path), number)
        except (pa.ArrowException, OSError, ValueError) as error:
            where = Place(str(path), number + 1 if number else None)
            raise DataError(f"{where}: this parquet file can't be read: {error}.") from error


_READ = {"text": Reader._text, "jsonl": Reader._jsonl, "json": Reader._json, "csv": Reader._table, "tsv": Reader._table,
         "parquet": Reader._parquet}


# ---- opening ---------------------------------------------------------------------------------------------------


def open_source(
    source: Source, document: Literal["auto", "line", "paragraph", "file"] | str = "auto", spares: bool = False,
) -> Reader:
    """Find what a source names; nothing is read but the first rows of a table. `spares`: bad rows are left out.

    `corpora/**/*.txt`, `~/reviews.csv.gz`, `hub:org/name`, `hub:org/name:config`, `builtin:python-docs`. The extension
    says the format: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, and text for any other; .gz may follow.
    Raises DataError where nothing is found, RequestError for an unknown encoding, built-in name or use of fields.
    """
    label = source.source
    _check_encoding(source)
    if source.target is not None:
        files = [*files_of(label), *files_of(source.target)]
        if len(files) != 2 or {format_of(path) for path in files} != {"text"} or source.fields:
            raise RequestError(f"{label}: target is for parallel text, a text file on each side, read line by line; of "
                               "a table or JSON, name both columns in fields.")
        return Reader(source, f"{label}, {source.target}", tuple(files), spares=spares)
    if label.startswith("builtin:"):
        builtin.describe(label.removeprefix("builtin:"))  # refuses a misspelt name
        return Reader(source, label, spares=spares)
    if label.startswith("hub:"):
        return Reader(source, label, dataset=_load(source), spares=spares)
    reader = Reader(source, label, files_of(label), document, spares=spares)
    formats = {format_of(path) for path in reader.files}
    numbered = [isinstance(column, int) for column in source.fields.values()]
    if any(numbered) and not (all(numbered) and formats <= {"csv", "tsv"}):
        raise RequestError(f"{label}: numbers in fields count the columns of a .csv or .tsv table without a header, "
                           f"all of them or none; this is {' and '.join(sorted(formats))} with {source.fields}.")
    if source.fields and formats == {"text"} and source.fields != {"text": "text"}:
        raise RequestError(f"{label}: a text file has no fields; leave out {source.fields}, or give it an extension "
                           f"that says its format: {', '.join(FORMATS)}.")
    if not source.fields:
        for path in reader.files:
            if format_of(path) in ("csv", "tsv"):
                reader._find_headerless(path)
    return reader


def hold(rows: Iterable[Mapping[str, Any]], label: str = "rows") -> Reader:
    """Rows in memory as a source, fields by their names; an error says which row of `label` it is about."""
    return Reader(Source(label), label, held=rows)


def files_of(label: str) -> tuple[Path, ...]:
    """The files of a path or a glob, sorted; DataError where there is none."""
    try:
        path = Path(label).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a home that nobody has
        raise DataError(f"{label}: can't be read: {getattr(error, 'strerror', None) or error}.") from error
    if path.is_dir():
        raise DataError(f"{label}: is a folder; say which files: {label.rstrip('/')}/*.txt.")
    if there:
        found = [path]
    elif glob.has_magic(str(path)):
        matched = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        found = [each for each in matched if each.is_file()]
        if not found:
            folders = f" It matches folders only: {matched[0]}/* would match what is in one." if matched else ""
            raise DataError(f"{label}: no file matches.{folders}")
    else:
        others = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
        near = get_close_matches(path.name, others, n=1)
        hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise DataError(f"{label}: no such file or folder.{hint}")
    for each in found:
        if not each.is_file():
            raise DataError(f"{each}: is no regular file, so it can't be read twice; save it to one first.")
        if each.suffix == ".gz" and format_of(each) == "parquet":
            raise DataError(f"{each}: parquet is compressed inside; unpack the .gz first.")
    return tuple(found)


def _load(source: Source) -> Any:
    """Load a data set of the hub: `hub:org/name` or `hub:org/name:config`. No code of the hub is run."""
    label = source.source
    name, _, config = label.removeprefix("hub:").partition(":")
    if not name:
        raise RequestError(f"{label!r}: write hub:<id> or hub:<id>:<config>.")
    forbidden = [name for name in ("LLMKIT_OFFLINE", "HF_HUB_OFFLINE")
                 if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if forbidden == ["LLMKIT_OFFLINE"]:  # datasets obeys only the hub's own switch, and still has its cache then
        raise DataError(f"{label}: LLMKIT_OFFLINE forbids the hub; set HF_HUB_OFFLINE=1 too to read its cache.")

    import datasets

    try:
        return datasets.load_dataset(name, config or None, split=source.split)
    except ConnectionError as error:
        why = f"{' and '.join(forbidden)} is set and it isn't in the cache" if forbidden else "the hub can't be reached"
        raise DataError(f"{label}: {why} ({error}); give a file, or builtin:python-docs.") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{label}: split {source.split!r} can't be loaded from the hub: {reason}") from error


def _check_encoding(source: Source) -> None:
    try:
        io.TextIOWrapper(io.BytesIO(), source.encoding)
    except LookupError as error:
        known = ["utf-8", "utf-16", "latin-1", "cp1252", "ascii", "shift_jis", "gb18030", "big5", "euc-kr", "koi8-r"]
        raise RequestError(f"{source.source}: no encoding is called {source.encoding!r}."
                           f"{nearest(source.encoding, known)}") from error


def find_fields(
    columns: Sequence[Column],
    wanted: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
    reader: Reader,
    place: Place | None = None,
) -> dict[str, Column]:
    """Which column holds which field, by the recipe's `fields`, else the field's own name, else its aliases.

    wanted, optional   field -> other names that it goes by; upper and lower case are one
    place              where the columns were seen, if that is closer than the source

    find_fields(["Review", "stars"], {"text": ["review"], "label": ["stars"]}, {}, reader)
        -> {"text": "Review", "label": "stars"}

    Raises DataError with the columns there are and how to name one in the recipe; optional fields may be absent.
    """
    exact: dict[str | int, Column] = {column: column for column in columns}
    plain = {str(column).strip().casefold(): column for column in reversed(columns)}
    fields = {**wanted, **optional}
    found: dict[str, Column] = {}
    for name in fields:
        asked = reader.source.fields.get(name)
        if asked in exact:
            found[name] = exact[asked]
        elif isinstance(asked, int) and name in exact:
            found[name] = exact[name]  # a column that was numbered in the recipe goes by its field's name
        elif asked is not None:
            near = get_close_matches(str(asked), list(map(str, columns)), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{place or reader.name}: no column is called {asked!r}; there is {_listed(columns)}.{hint}")
    for name in fields:
        if name not in found and name in plain and plain[name] not in found.values():
            found[name] = plain[name]
    for name, aliases in fields.items():
        if name not in found:
            free = (plain[alias.casefold()] for alias in aliases if alias.casefold() in plain)
            column = next((column for column in free if column not in found.values()), None)
            if column is not None:
                found[name] = column
            elif name in wanted:
                near = [match for word in (name, *aliases) for match in get_close_matches(word, list(plain), n=1)]
                others = (column for column in columns if column not in found.values())
                meant = plain[near[0]] if near else next(others, "COLUMN")
                raise DataError(
                    f"{place or reader.name}: no column is called {' or '.join(map(repr, (name, *aliases)))}; there is "
                    f"{_listed(columns)}. Name it in the recipe: data.train: "
                    f"{{source: {reader.label}, fields: {{{name}: {meant}}}}}.")
    return {name: found[name] for name in fields if name in found}


# ---- pieces ----------------------------------------------------------------------------------------------------


def format_of(path: Path) -> str:
    """What a file's extension says: text, jsonl, json, csv, tsv or parquet."""
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    return FORMATS.get(suffix.lower(), "text")


def _bytes(path: Path) -> io.BufferedReader:
    """The file's bytes, unpacked."""
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path)), _CHUNK)
    return path.open("rb")


def _digest(path: Path) -> str:
    """SHA-256 (hex) of a file; read again where its size or times have changed, or are too new to tell."""
    try:
        about = path.stat()
        if max(about.st_mtime_ns, about.st_ctime_ns) > time.time_ns() - TICK:
            return _hash(path)
        return _hashed(path.absolute(), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    except OSError as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=65_536)
def _hashed(path: Path, *about: int) -> str:
    return _hash(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, gzip.BadGzipFile):
        return DataError(f"{path}: is no gzip file, or a damaged one: {error}.")
    return DataError(f"{path}: can't be read: {error.strerror or error}.")


def _no_wide_mark(head: bytes, path: Path, label: str) -> None:
    wide = "utf-32" if head in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) else "utf-16"
    if wide == "utf-32" or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}:1: starts with the byte order mark of {wide.upper()}; say in the recipe: "
                        f"{{source: {label}, encoding: {wide}}}.")


def _block(lines: list[str], path: Path, start: int) -> tuple[dict[str, Any], Place]:
    while not lines[-1] or lines[-1].isspace():
        lines.pop()
    return {"text": "\n".join(lines)}, Place(str(path), start)


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return made


def _row(row: Any, written: str, place: Place) -> dict[str, Any]:
    """Refuse what is no object, and half characters: an escaped surrogate without its other half."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be an object {{…}}, not {_shown(row)}.")
    if "\\ud" in written or "\\uD" in written:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: bad JSON: the lone surrogate \\u{ord(error.object[error.start]):04x} "
                            "is half a character.") from error
    return row


def _decoded(
    decoder: json.JSONDecoder, file: io.TextIOWrapper, text: str, at: int, place: Place
) -> tuple[Any, str, int, int]:
    """The object at `text[at]`, reading on until it is whole: (object, text, where it starts, where it ends)."""
    while True:
        try:
            row, end = decoder.raw_decode(text, at)
            return row, text, at, end
        except json.JSONDecodeError as error:
            # an object that is merely cut off fails at the window's end, or in a string that doesn't close
            cut = error.pos > len(text) - 16 or error.msg.startswith("Unterminated string")
            more = file.read(max(_CHUNK, len(text) - at)) if cut else ""
            if not more:
                line = (place.line or 1) + text.count("\n", at, error.pos)
                raise DataError(f"{place.file}:{line}: bad JSON: {error.msg}.") from error
            text, at = text[at:] + more, 0
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: bad JSON: {error}.") from error


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return f"{kinds.get(type(value), type(value).__name__)} ({str(value)[:40]})"


def _listed(columns: Sequence[str | int] | Mapping[str, Any]) -> str:
    return ", ".join(map(str, columns)) or "none"
