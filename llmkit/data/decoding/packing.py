"""Packed files: read .gz .xz .bz2 .zst .lz4 as what is packed in them, and name what else is no text."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any, cast

from llmkit.data.files import CHUNK, PACKED, Part
from llmkit.system.errors import DataError

HEAD = 1024
"""Bytes by which a file is known."""
RATIO, ROOM, MOST_UNPACKED = 200, 2**26, 2**40
"""What packed text may unfold to: so many times its bytes, beside a few million, and no more than a terabyte. Text
becomes 3 to 10 times as large, logs 50 times; gzip could do 1,030 times, the others more."""
MAGIC = {
    b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4",
}
"""What packed data of one file begins with."""
OTHERS = (
    (b"%PDF-", "a PDF", "take its text out first: pdftotext {name} {stem}.txt"),
    (b"ARROW1\0\0", "an Arrow file",
     "write it as parquet: pyarrow.parquet.write_table(pyarrow.ipc.open_file({name!r}).read_all(), {parquet!r})"),
    (b"\xff\xff\xff\xff", "an Arrow file",
     "write it as parquet: datasets.Dataset.from_file({name!r}).to_parquet({parquet!r})"),
    (b"PAR1\x15", "a parquet file", "give it the extension .parquet"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word or Excel file",
     "save it as plain text or as .csv, in UTF-8"),
    (b"{\\rtf", "an RTF document", "save it as plain text, in UTF-8"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x {name}"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"SQLite format 3\0", "an SQLite database", "write its table to a .csv first"),
    (b"\x89HDF\r\n", "an HDF5 file", "write its texts to a .jsonl first"),
    (b"\x93NUMPY", "an array of numpy", "write its texts to a .jsonl first"),
    (b"\x80\x02", "a pickle", "it may run code when it is opened; write its texts to a .jsonl first"),
    (b"\x80\x03", "a pickle", "it may run code when it is opened; write its texts to a .jsonl first"),
    (b"\x80\x04\x95", "a pickle", "it may run code when it is opened; write its texts to a .jsonl first"),
    (b"\x80\x05\x95", "a pickle", "it may run code when it is opened; write its texts to a .jsonl first"),
    (b"\x89PNG\r\n", "a picture", "its text has to be read by other means first"),
    (b"\xff\xd8\xff", "a picture", "its text has to be read by other means first"),
)
"""First bytes, what has them, and what to do instead."""
ZIPPED = (
    ("word/", "a Word document", "save it as plain text, in UTF-8"),
    ("xl/", "an Excel workbook", "save its sheet as .csv, in UTF-8"),
    ("ppt/", "a PowerPoint file", "save its text in UTF-8"),
    ("META-INF/container.xml", "an EPUB book", "turn it into plain text first"),
    ("content.xml", "an OpenDocument file", "save it as plain text, or its sheet as .csv, in UTF-8"),
    ("data.pkl", "a file of torch", "it holds weights, not text"),
    ("", "a zip archive", "unpack it first: unzip {name}"),
)
"""A name that is in a zip archive, what that makes of it, and what to do instead."""


def unpacked(path: Path, part: Part | None = None) -> io.BufferedReader:
    """The bytes of a file, or of what is packed in it, as its extension says; or those of a part of it."""
    kind = PACKED.get(path.suffix.lower())
    if part is not None and part.held is not None:
        return io.BufferedReader(_Memory(part.held), CHUNK)
    if part is not None:
        return io.BufferedReader(_Window(path.open("rb", 0) if kind is None else unpacked(path), part), CHUNK)
    if kind is None:
        return io.BufferedReader(path.open("rb", 0), CHUNK)
    return io.BufferedReader(_Bounded(path, _unpacker(path, kind)), CHUNK)


def _unpacker(path: Path, kind: str) -> io.BufferedIOBase:
    if kind == "gzip":
        return gzip.open(path)
    if kind == "xz":
        return lzma.open(path)
    if kind == "bzip2":
        return bz2.open(path)
    import pyarrow as pa

    path.stat()  # in Python's own words where it isn't there
    return cast(io.BufferedIOBase, pa.input_stream(str(path), compression=kind))


class _Window(io.RawIOBase):
    """Bytes of a part of a file, or of what it becomes."""

    def __init__(self, file: io.FileIO | io.BufferedReader, part: Part) -> None:
        self.file, self.left = file, part.stop - part.start
        if file.seekable():
            file.seek(part.start)
        else:
            before = part.start
            while before and (piece := file.read(min(CHUNK, before))):
                before -= len(piece)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(memoryview(buffer)[: self.left]) or 0
        self.left -= count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


class _Memory(io.RawIOBase):
    """Bytes that were read already."""

    def __init__(self, held: bytes) -> None:
        self.held = io.BytesIO(held)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.held.readinto(buffer)


class _Bounded(io.RawIOBase):
    """Unpacked bytes, counted as they come: what a few bytes unfold to for ever ends in DataError."""

    def __init__(self, path: Path, inner: io.BufferedIOBase) -> None:
        self.path, self.inner, self.count = path, inner, 0
        self.size = path.stat().st_size
        self.most = min(MOST_UNPACKED, RATIO * self.size + ROOM)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        got = self.inner.readinto(buffer)
        self.count += got
        if self.count > self.most:
            raise DataError(f"{self.path}: its {self.size:,} bytes unfold to more than {self.most:,}; of packed text, "
                            f"{RATIO} times its size and {ROOM:,} bytes are read, at most {MOST_UNPACKED:,}. If it is "
                            "what you want to read, unpack it first.")
        return got

    def close(self) -> None:
        if not self.closed:
            self.inner.close()
        super().close()


def refuse_what_is_no_text(head: bytes, path: Path) -> None:
    """DataError that names the format, and the way out, where bytes are those of something else than text."""
    inside = path.suffix.lower() in PACKED
    what, instead = _known(head, path, inside)
    if what:
        names = {"name": path.name, "stem": path.stem, "parquet": path.with_suffix(".parquet").name}
        raise DataError(f"{path}: {'holds' if inside else 'is'} {what}, not text; {instead.format(**names)}.")


def _known(head: bytes, path: Path, inside: bool) -> tuple[str, str]:
    """(what bytes are, what to do instead); two empty texts where they may be text."""
    for magic, kind in MAGIC.items():
        if head.startswith(magic) and (kind != "bzip2" or head[4:10] == b"1AY&SY"):
            suffix = next(suffix for suffix, other in PACKED.items() if other == kind)
            again = "unpack it once more" if inside else f"say so by its name: {path.name}{suffix}"
            return f"{kind} data", again
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first: tar -xf {name}"
    if head.startswith(b"PK\x03\x04"):
        there = [] if inside or not zipfile.is_zipfile(path) else zipfile.ZipFile(path).namelist()
        return next((what, instead) for name, what, instead in ZIPPED
                    if not name or any(each.startswith(name) or each.endswith(f"/{name}") for each in there))
    return next(((what, instead) for magic, what, instead in OTHERS if head.startswith(magic)), ("", ""))


def damage(path: Path, error: Exception) -> DataError | None:
    """What went wrong while packed data was read; None where the file isn't packed or the disk is at fault."""
    kind = PACKED.get(path.suffix.lower())
    if isinstance(error, gzip.BadGzipFile):
        return DataError(f"{path}: is no gzip file, or a damaged one: {error}.")
    if kind is None or (isinstance(error, OSError) and error.errno is not None):
        return None
    return DataError(f"{path}: the {kind} data breaks off or is damaged: {error}.")
