"""A file's text: unpacked, decoded and split at its line ends, with an error that names file, line and way out."""

import codecs
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkit.data.decoding import encodings
from llmkit.data.decoding.packing import HEAD, damage, refuse_what_is_no_text, unpacked
from llmkit.data.decoding.units import within
from llmkit.data.files import CHUNK, Part, unreadable
from llmkit.system.errors import DataError


@contextmanager
def decoded(
    path: Path, encoding: str, label: str, surrogates: bool = False, part: Part | None = None,
) -> Iterator[io.TextIOWrapper]:
    r"""A file's text; only \n ends a line, or \r in a file that has no \n; each end becomes \n.

    DataError, with file and line, for what goes wrong while it is read.

    label        what the recipe calls the source, for the hint that names another encoding
    surrogates   bytes that aren't of the encoding become lone surrogates, for the reader to look at
    part         what of the file is read, which begins and ends with a line; all of it where nothing is said
    """
    try:
        with told_as_data(path), unpacked(path, part) as raw:
            if part is None or part.start == 0:
                _refuse(raw.peek(HEAD)[:HEAD], path, encoding, label)
                here = encoding
            else:
                here = within(path, encoding)
            newline: str | None
            errors, newline = "surrogateescape" if surrogates else "strict", "\n"
            if part is None and b"\r" in (start := raw.peek(CHUNK)) and ends_in_returns(path, encoding, start):
                newline = None  # \r becomes \n
            with io.TextIOWrapper(raw, here, errors, newline=newline) as file:
                yield file
    except UnicodeError as error:
        raise _undecodable(path, encoding, label, error) from error


@contextmanager
def told_as_data(path: Path) -> Iterator[None]:
    """While the block reads a file, what goes wrong with its bytes is a DataError."""
    try:
        yield
    except OSError as error:
        raise damage(path, error) or unreadable(path, error) from error
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise damage(path, error) or DataError(f"{path}: {error}.") from error


def ends_in_returns(path: Path, encoding: str, start: bytes) -> bool:
    r"""Whether a file has \r and no \n at all, as old Macs ended lines; elsewhere \r is a character like others.

    start   its first bytes
    """
    end = "\n".encode(encoding)
    if len(end) > 1:  # utf-16 and utf-32: the bytes of one character may be those of another
        text = start.decode(encoding, "ignore")
        return "\r" in text and "\n" not in text and len(start) < CHUNK
    if b"\n" in start:
        return False
    if len(start) < CHUNK:
        return True
    with unpacked(path) as raw:
        return not any(b"\n" in piece for piece in iter(lambda: raw.read(CHUNK), b""))


def _undecodable(path: Path, encoding: str, label: str, error: UnicodeError) -> DataError:
    """Find the first byte that isn't of the encoding, by decoding again piece by piece."""
    fed, line = 0, 1
    decoder = codecs.getincrementaldecoder(encoding)()
    with unpacked(path) as raw:
        while True:
            piece = raw.read(CHUNK)
            fed += len(piece)
            try:
                line += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as bad:
                # the decoder's own rest of the last piece stands before this piece
                offset = fed - len(bad.object) + bad.start
                line += bad.object[: bad.start].decode(encoding, "replace").count("\n")
                around = bad.object + raw.read(CHUNK)
                hint = encodings.advice(around, bad.start, encoding, label, ends=not raw.peek(1))
                return DataError(
                    f"{path}:{line}: not {encoding}: byte 0x{bad.object[bad.start]:02x} at offset {offset}; {hint}")
            if not piece:
                return DataError(f"{path}: not {encoding}: {error}.")


def _refuse(head: bytes, path: Path, encoding: str, label: str) -> None:
    """DataError where a file begins as what is no text of its encoding."""
    refuse_what_is_no_text(head, path)
    if codecs.lookup(encoding).name.startswith("utf-8"):
        _refuse_wide(head, path, label)


def _refuse_wide(head: bytes, path: Path, label: str) -> None:
    """DataError for text in units of two or four bytes, by its mark or by a zero in most of its units."""
    wide = "utf-32" if head[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) else "utf-16"
    if wide == "utf-32" or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}:1: starts with the byte order mark of {wide.upper()}; say in the recipe: "
                        f"{{source: {label}, encoding: {wide}}}.")
    if (unmarked := encodings.wide(head)) is not None:
        raise DataError(f"{path}:1: has two bytes a character, as {unmarked.upper()}; say in the recipe: "
                        f"{{source: {label}, encoding: {unmarked}}}.")
