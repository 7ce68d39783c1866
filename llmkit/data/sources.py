"""Sources: open what a recipe names (files, a hub data set, built-in text) and read it document by document."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from llmkit.data import builtin, hub
from llmkit.data.decoding.oddities import oddities, told
from llmkit.data.decoding.text import decoded
from llmkit.data.fields import ALIASES, find_fields, listed, part_of, shown, with_parts
from llmkit.data.files import CHUNK, Part, digest, digests, files_of, is_packed, unchanged
from llmkit.data.files import Place as Place
from llmkit.data.formats import format_of, formats, suffixes
from llmkit.data.formats.base import Head, Rows
from llmkit.data.formats.table import form_of
from llmkit.data.formats.text import usual_document
from llmkit.data.large.working import several
from llmkit.data.swapping.pairs import Swaps
from llmkit.recipe import Source
from llmkit.system import cache
from llmkit.system.addresses import masked, scheme_of
from llmkit.system.errors import DataError, RequestError, nearest

AT = "data.train"
"""Where it is said how a source is read, if not elsewhere."""
LARGE = 2**26  # bytes of text from which on it is remembered what a document is in it


class RowOrigin(Protocol):
    """Where rows come from that are in no file: the hub, this Python, the memory of a program."""

    kind: ClassVar[str]
    """What the fingerprint of a source calls it."""

    def rows(self, spare: Callable[[DataError], None]) -> Rows:
        """Each row with its place, from the first on at each call; what is wrong with one goes to `spare`."""

    def fingerprint(self) -> str:
        """A hash of the rows."""

    def features(self) -> dict[str, Any] | None:
        """What a data set of `datasets` says of its columns; None where it is none."""


@runtime_checkable
class Sized(Protocol):
    """An origin that knows how many bytes of text there were."""

    @property
    def size(self) -> int: ...


@dataclass
class Reader:
    """One opened source, read as a stream from the start each time; construct it through `open_source`."""

    source: Source
    label: str
    """What the recipe said."""
    files: tuple[Path, ...] = ()
    """Empty where there is an origin."""
    asked: str = "auto"
    """What the recipe calls a document."""
    notes: list[str] = field(default_factory=list)
    """What was concluded from the data and should be said once."""
    origin: RowOrigin | None = None
    """Where rows come from that are in no file."""
    headerless: dict[Path, dict[str, int]] = field(default_factory=dict)
    """Tables whose first row is data: which column holds which field, as far as that is clear."""
    forms: dict[Path, str] = field(default_factory=dict)
    """What text files are for a task, where they are no text: table, fasttext."""
    delimiters: dict[Path, str] = field(default_factory=dict)
    """What stands between the cells of a table, where it isn't what its extension says."""
    held: dict[tuple[Path, ...], dict[str | int, list[Any]]] = field(default_factory=dict)
    """What columns of files hold in their first rows, once that was asked for."""
    used: dict[str, str | int] = field(default_factory=dict)
    """Which column each field was read from, once rows were read."""
    unused: dict[str | int, None] = field(default_factory=dict)
    """Columns that nothing was read from, in their order."""
    spares: bool = False
    """Whether a bad row is left out and noted, where it is an error otherwise."""
    names_classes: bool = True
    """Whether the numbers of a program's rows go by the names that its data set has for them."""
    way_out: str = ""
    """What is added to an error about a row: how such rows are left out."""
    at: str = AT
    """Where a recipe, or `--set`, says how it is read: data.validation; "" where nothing can be said of it."""
    bad: dict[str, None] = field(default_factory=dict)
    """What is wrong with each row that was left out, in the order of the file."""
    known: dict[Path, str] = field(default_factory=dict)
    """The digests of the files that the fingerprint is of, once that was asked for: what is read must be of them."""
    swaps: Swaps | None = None
    """The words that are swapped in what is learned from it; None where it is seen as it is."""
    num_proc: int | Literal["auto"] = "auto"
    """How many processes tokenize it; auto: as many as there are cores, where that is worth it."""
    parts: dict[Path, Part] = field(default_factory=dict)
    """What of a file is read, where it isn't all of it."""
    columns: dict[Path, str | int] = field(default_factory=dict)
    """Where the text of a file is, where that is known before its first row is read."""
    heads: dict[Path, Head] = field(default_factory=dict)
    """The first row of a table of which a later part is read."""
    shard: bool = False
    """Whether it is a part of a source, which may have nothing in it."""

    def form(self, path: Path) -> str:
        """The format of a file of this source."""
        return self.forms.get(path, format_of(path))

    @cached_property
    def document(self) -> str | None:
        """What a document is in text files: line, paragraph, file or endoftext; None where a row is one."""
        texts = [path for path in self.files if self.form(path) == "text" and self.source.target is None]
        if not texts or self.asked != "auto":
            return self.asked if texts else None
        if sum(path.stat().st_size for path in texts) < LARGE:
            return self._usual_document(texts)

        digests = [digest(path) for path in texts]

        def write(folder: Path) -> None:
            (folder / "kind").write_text(self._usual_document(texts))
            for path, said in zip(texts, digests, strict=True):
                unchanged(path, said)

        about = json.dumps([self.source.encoding, digests])
        return (cache.once("documents", hashlib.sha256(about.encode()).hexdigest(), write) / "kind").read_text()

    @cached_property
    def odd(self) -> dict[Path, dict[str, int]]:
        """What is unusual in text files, and how often; it is noted."""
        separates = self.document == "endoftext"
        counts = {path: self._oddities(path, separates and self.form(path) == "text") for path in self.files
                  if not formats()[self.form(path)].compressed}
        counts = {path: count for path, count in counts.items() if count}
        self.notes += [note for note in told(counts) if note not in self.notes]
        return counts

    def _oddities(self, path: Path, separates: bool) -> dict[str, int]:
        encoding = self.source.encoding
        if path.stat().st_size < LARGE:
            return oddities(path, encoding, self.label, separates)

        content = digest(path)

        def write(folder: Path) -> None:
            (folder / "found.json").write_text(json.dumps(oddities(path, encoding, self.label, separates)))
            unchanged(path, content)

        key = hashlib.sha256(json.dumps([encoding, separates, content]).encode()).hexdigest()
        found: dict[str, int] = json.loads((cache.once("oddities", key, write) / "found.json").read_text())
        return found

    def _usual_document(self, texts: Sequence[Path]) -> str:
        return usual_document(texts, self.source.encoding, self.label, self.spares)

    @property
    def processes(self) -> int:
        """How many processes tokenize it."""
        return several(self.num_proc, self.size)

    @property
    def size(self) -> int:
        """Bytes of its files, or of the text that its tokens were made of; 0 where nobody knows."""
        if isinstance(self.origin, Sized):
            return self.origin.size
        return sum(path.stat().st_size for path in self.files)

    @property
    def name(self) -> str:
        """The file, where there is one; else what the recipe said."""
        return str(self.files[0]) if len(self.files) == 1 else self.label

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content and of the words that are swapped in it: what is made of it is kept by that."""
        said = self.content()
        return said if self.swaps is None else hashlib.sha256(f"{said} {self.swaps.digest}".encode()).hexdigest()

    def content(self) -> str:
        """SHA-256 (hex) of the content and of all that changes what is read from it; not of paths or times.

        From the first time on the files must stay what they are: where they are read to their end, Changed is raised if
        they don't.
        """
        if self.size >= LARGE:
            digests([path for path in self.files if path not in self.known])  # several at once; then they are known
        about: dict[str, Any] = {
            "formats": [self.form(path) for path in self.files], "fields": self.source.fields,
            "document": self.document, "encoding": self.source.encoding,
            "files": [self._known(path) for path in self.files],
        }
        if self.origin is not None:
            about[self.origin.kind] = self.origin.fingerprint()
        if self.spares:
            about["on_bad_row"] = "skip"
        if self.delimiters:
            about["delimiters"] = [self.delimiters.get(path) for path in self.files]
        if self.odd:
            about["odd"] = [sorted(count.items()) for count in self.odd.values()]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def spare(self, error: DataError, cause: Exception | None = None) -> None:
        """Raise what is wrong with a row; only note it where such rows are left out."""
        if not self.spares:
            raise (DataError(f"{error} {self.way_out}") if self.way_out else error) from cause
        self.bad.setdefault(str(error))

    def of_one_row(self, error: DataError, place: Place) -> DataError:
        """An error about the columns of a source as one about a row; raised where its columns are those of all rows."""
        if self.files and not self._ragged(place):
            raise error
        if not self.spares:
            return error
        said = str(error)
        return DataError(f"{place}: {said.removeprefix(f'{self.name}: ')}") if str(place) not in said else error

    def _ragged(self, place: Place) -> bool:
        return formats()[self.form(Path(place.file))].ragged

    def documents(self) -> Iterator[tuple[str, Place]]:
        """The text of each document that isn't empty.

        Raises DataError, with file and line, for a row whose text is missing or isn't text, and where all is empty.
        """
        file, empty = None, True
        column: str | int = "text"
        for row, place in self._all():
            if place.file != file and (known := self.columns.get(Path(place.file))) is not None:
                file, column = place.file, known
            elif place.file != file:  # each file of a glob has columns of its own
                ragged = self._ragged(place)
                where = place if ragged and self.files else Place(place.file, None)
                try:
                    column = find_fields(list(row), {"text": ALIASES["text"]}, {}, self, where)["text"]
                except DataError as error:
                    if not ragged:  # the columns are those of all rows
                        raise
                    self.spare(error)
                    continue
                file = place.file
                self.used["text"] = column
                self.unused |= dict.fromkeys(name for name in row if name != column)
            if column not in row:
                self.spare(DataError(f"{place}: the field {column!r} is missing; this row has {listed(row)}."))
                continue
            text = row[column]
            if not isinstance(text, str):
                self.spare(DataError(f"{place}: {column!r} must be text, not {shown(text)}."
                                     f"{part_of('text', column, text)}"))
            elif text and not text.isspace():
                empty = False
                yield text, place
        if empty and not self.shard:
            raise self.nothing_left()

    def rows(self) -> Rows:
        """One dict a row; of text files, {"text": …} a document. Raises DataError with file and line."""
        empty = True
        for row in self._all():
            empty = False
            yield row
        if empty:
            raise self.nothing_left()

    def nothing_left(self) -> DataError:
        """What is wrong with a source that has no row, or none but bad ones."""
        if self.bad:
            first = next(iter(self.bad))
            if f": not {self.source.encoding}: byte 0x" in first and len(self.files) == 1:
                first = self._in_full(self.files[0]) or first
            return DataError(f"{self.name}: no row is left; {len(self.bad):,} are bad, the first: {first}")
        return DataError(f"{self.name}: is empty.")

    def _in_full(self, path: Path) -> str | None:
        """What is said of a file that isn't of its encoding where nothing is left out: which one it may have."""
        try:
            with decoded(path, self.source.encoding, self.label) as file:
                while file.read(CHUNK):
                    pass
        except DataError as error:
            return str(error)
        return None

    def _all(self) -> Rows:
        ways = [one for one in self.source.fields.values() if isinstance(one, str) and "." in one]
        if not ways:
            yield from self._as_they_are()
            return
        for row, place in self._as_they_are():
            yield with_parts(row, ways), place

    def _as_they_are(self) -> Rows:
        if not self.shard:
            _ = self.odd  # said before the first row
        if self.origin is not None:
            yield from self.origin.rows(self.spare)
        elif self.source.target is not None:
            yield from formats()["parallel"].rows(self.files[0], self)
        else:
            for path in self.files:
                yield from formats()[self.form(path)].rows(path, self)
        self.unchanged()

    def _known(self, path: Path) -> str:
        """The digest of a file; what is read must be of the first that was asked for."""
        self.known.setdefault(path, found := digest(path))
        return found

    def unchanged(self) -> None:
        """Raise Changed where a file isn't what it was when the source's fingerprint was taken."""
        for path, said in self.known.items():
            unchanged(path, said)


def open_source(
    source: Source, document: Literal["auto", "line", "paragraph", "file"] | str = "auto", spares: bool = False,
    way_out: str = "", tables: bool = False, at: str = AT,
) -> Reader:
    """Find what a source names; nothing is read but the first rows of a table. `spares`: bad rows are left out.

    `way_out` is added to an error about a row. `tables`: a text file that is a table is read as one, where nothing is
    said of its documents; with `fields`, always. `at` is the field of the recipe that names it; "" where none does.

    `corpora/**/*.txt`, `~/reviews.csv.gz`, `hub:org/name`, `hub:org/name:config`, `builtin:python-docs`, a folder as
    `datasets` lays it out (`glue/sst2`, or one split of it, `glue/sst2:validation`). The extension
    says the format, text for any that is unknown; .gz, .xz, .bz2, .zst or .lz4 may follow.
    Raises DataError where nothing is found, RequestError for an unknown encoding, built-in name or use of fields, and
    for `memory:`, rows that only the program that has them can give (`llmkit.data.memory.memory_reader`).
    """
    label = source.source
    _check_encoding(source)
    if source.target is not None:
        files = (*_readable(label), *_readable(source.target))
        if len(files) != 2 or {format_of(path) for path in files} != {"text"} or source.fields:
            raise RequestError(f"{label}: target is for parallel text, a text file on each side, read line by line; of "
                               "a table or JSON, name both columns in fields.")
        return Reader(source, f"{label}, {source.target}", files, spares=spares, way_out=way_out, at=at)
    if label.startswith("builtin:"):
        origin = builtin.named(label.removeprefix("builtin:"))
        return Reader(source, label, origin=origin, spares=spares, way_out=way_out, at=at)
    if label.startswith("tokens:"):
        from llmkit.data.large.folder import TokenFolder

        return Reader(source, label, origin=TokenFolder.open(label), asked=document, at=at)
    if label.startswith("hub:"):
        return Reader(source, label, origin=hub.load(source), spares=spares, way_out=way_out, at=at)
    if label.startswith("memory:"):
        raise RequestError(f"{label} are rows that a program gave; run it again from Python: llmkit.fit(recipe, "
                           "train=rows), or validation=rows.")
    if (folder := hub.load_folder(source)) is not None:
        return Reader(source, label, origin=folder, spares=spares, way_out=way_out, at=at)
    reader = Reader(source, masked(label), _readable(label), document, spares=spares, way_out=way_out, at=at)
    if (tables and document == "auto") or source.fields not in ({}, {"text": "text"}):
        reader.forms |= {path: form for path in reader.files if format_of(path) == "text"
                         and (form := form_of(path, replace(reader, spares=False))) != "text"}
    _check_fields(reader)
    notes = (formats()[reader.form(path)].look(path, reader) for path in reader.files)
    reader.notes += [note for note in notes if note is not None]
    return reader


def _readable(label: str) -> tuple[Path, ...]:
    if scheme_of(label) is None:
        files = files_of(label)
    else:
        from llmkit.data.large.remote import brought

        files = tuple(brought(label))
    for path in files:
        if is_packed(path) and formats()[format_of(path)].compressed:
            raise DataError(f"{path}: {format_of(path)} is compressed inside; unpack the {path.suffix} first.")
    return files


def _check_encoding(source: Source) -> None:
    try:
        io.TextIOWrapper(io.BytesIO(), source.encoding)
    except LookupError as error:
        known = ["utf-8", "utf-16", "latin-1", "cp1252", "ascii", "shift_jis", "gb18030", "big5", "euc-kr", "koi8-r"]
        raise RequestError(f"{source.source}: no encoding is called {source.encoding!r}."
                           f"{nearest(source.encoding, known)}") from error


def _check_fields(reader: Reader) -> None:
    """RequestError where `fields` says what files of these formats can't have."""
    fields, names = reader.source.fields, {reader.form(path) for path in reader.files}
    by_number = [isinstance(column, int) for column in fields.values()]
    if any(by_number) and not (all(by_number) and all(formats()[name].numbered for name in names)):
        raise RequestError(f"{reader.label}: numbers in fields count the columns of a .csv or .tsv table without a "
                           f"header, all of them or none; this is {' and '.join(sorted(names))} with {fields}.")
    if fields and names == {"text"} and fields != {"text": "text"}:
        raise RequestError(f"{reader.label}: a text file has no fields; leave out {fields}, or give it an extension "
                           f"that says its format: {', '.join(suffixes())}.")
