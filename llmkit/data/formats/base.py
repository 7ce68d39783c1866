"""The contract of a format: which files are of it, and how their rows are read one after the other."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from llmkit.data.decoding.ends import Ends
from llmkit.data.decoding.text import decoded
from llmkit.data.files import LONGEST, Part, Place
from llmkit.recipe import Source
from llmkit.system.errors import DataError

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = Iterator[tuple[Row, Place]]
"""Each row, and where it stands."""
Head: TypeAlias = tuple[int, list[str]]
"""The first row of a table: the line that it starts on, and its cells."""
ESCAPED = re.compile("[\udc80-\udcff]")
"""Bytes that a decoder couldn't read."""


class FileReader(Protocol):
    """Who reads a file, as far as a format needs to know; it is `llmkit.data.sources.Reader`."""

    source: Source
    label: str
    files: tuple[Path, ...]
    notes: list[str]
    """What was concluded from the data and should be said once."""
    spares: bool
    """Whether a bad row is left out and noted, where it is an error otherwise."""
    at: str
    """Where a recipe, or `--set`, says how it is read; "" where nothing can be said of it."""
    headerless: dict[Path, dict[str, int]]
    """Tables whose first row is data: which column holds which field, as far as that is clear."""
    delimiters: dict[Path, str]
    """What stands between the cells of a table, where it isn't what its extension says."""
    parts: dict[Path, Part]
    """What of a file is read, where it isn't all of it."""
    heads: dict[Path, Head]
    """The first row of a table of which a later part is read."""

    @property
    def document(self) -> str | None:
        """What a document is in text files: line, paragraph, file or endoftext."""

    def spare(self, error: DataError, cause: Exception | None = None) -> None:
        """Raise what is wrong with a row; only note it where such rows are left out."""


class Format:
    """How files of one kind are read. It holds nothing: each file is read from its start at each pass.

    A module of this folder holds one, and its name is that of the module: it is what errors call it and part of a
    source's fingerprint.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """The extensions of its files, in lower case; .gz or the like may follow. None: it is chosen in another way."""
    rank: ClassVar[int] = 9
    """Where it stands when extensions are listed: the usual ones first, of one rank by name."""
    numbered: ClassVar[bool] = False
    """Whether `fields` may count its columns, where no header names them."""
    ragged: ClassVar[bool] = False
    """Whether each row says its own fields, so that one that is missing is the fault of that row."""
    compressed: ClassVar[bool] = False
    """Whether it is compressed inside, so that a .gz or the like around it is refused."""

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """One dict a row, {"text": …} where a row is a document of text, in the order of the file.

        Raises DataError, with file and line, where the file can't be read on; a bad row goes to `reader.spare`.
        """
        raise NotImplementedError

    def look(self, path: Path, reader: FileReader) -> str | None:
        """What the first rows of a file tell of the way it is written, noted in the reader; the words to say it in."""
        return None

    def ends(self, path: Path, reader: FileReader) -> Ends | None:
        """What finds the ends of rows in the file's bytes; None where only who reads it from its start knows them."""
        return None

    def parts(self, path: Path, size: int) -> Iterator[tuple[Part, int]] | None:
        """The parts of a file whose bytes aren't those of its rows, each with about how many bytes of rows it has.

        All but the last have `size` bytes or more. None where it has none that can be read by themselves.
        """
        return None

    def head(self, path: Path, reader: FileReader) -> Head | None:
        """What who reads a later part of a file must know of its first row; None where that is nothing."""
        return None


def lines(path: Path, reader: FileReader) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends; a byte order mark before one is dropped, NUL refused."""
    for number, line in lines_or_none(path, reader):
        if line is not None:
            yield number, line


def lines_or_none(path: Path, reader: FileReader) -> Iterator[tuple[int, str | None]]:
    """As `lines`, with None in the place of each that is bad and left out."""
    encoding, part = reader.source.encoding, reader.parts.get(path)
    with decoded(path, encoding, reader.label, reader.spares, part) as file:
        number, readline, spares = 0 if part is None else part.line, file.readline, reader.spares
        while line := readline(LONGEST + 1):  # millions of lines: each word here is a tenth of the time
            number += 1
            if len(line) > LONGEST:
                raise DataError(f"{path}:{number}: a line of more than {LONGEST:,} characters; cut it into lines that "
                                "are documents.")
            if line[0] == "\ufeff":  # each file of `cat a b` may have brought its own
                line = line[1:]
            if "\0" in line:
                reader.spare(DataError(f"{path}:{number}: a NUL byte; this is no {encoding} text."))
                yield number, None
                continue
            if spares and not line.isascii() and (strange := ESCAPED.search(line)):
                reader.spare(undecoded(strange, Place(str(path), number), reader))
                yield number, None
                continue
            if line[-1:] == "\n":
                line = line[:-2] if line[-2:-1] == "\r" else line[:-1]
            yield number, line


def undecoded(strange: re.Match[str], place: Place, reader: FileReader) -> DataError:
    """What is wrong with a row that has a byte which isn't of the encoding."""
    return DataError(f"{place}: not {reader.source.encoding}: byte 0x{ord(strange[0]) - 0xDC00:02x}.")
