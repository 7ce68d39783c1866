"""Packed text is read, and what is no text is called by its name, with what to do instead."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from llmkit.data.sources import open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError

BODY = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(2000)).encode()


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def lz4(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="lz4", asbytes=True))


PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd, ".lz4": lz4}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def texts(name: str, content: bytes) -> list[str]:
    Path(name).write_bytes(content)
    return [text for text, _ in open_source(Source(name)).documents()]


def refused(name: str, content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        texts(name, content)
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "pack"), PACKERS.items())
def test_packed_text_is_read_as_what_is_in_it(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    assert texts(f"t.jsonl{suffix}", pack(BODY)) == [f"line {i}" for i in range(2000)]
    assert texts(f"t.txt{suffix.upper()}", pack(b"one\ntwo\n")) == ["one", "two"]
    assert texts(f"t.jsonl{suffix}", pack(BODY[:34]) + pack(BODY[34:])) == [f"line {i}" for i in range(2000)]  # cat a b


@pytest.mark.parametrize(("suffix", "pack"), PACKERS.items())
def test_packed_data_that_breaks_off_or_is_none_is_refused(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    whole = pack("".join(map(str, range(100_000))).encode())
    assert " data breaks off or is damaged: " in refused(f"t.txt{suffix}", whole[: len(whole) // 2])
    assert refused(f"u.txt{suffix}", b"plain text").startswith(f"u.txt{suffix}: ")


@pytest.mark.parametrize(("suffix", "kind"), [
    (".gz", "gzip"), (".xz", "xz"), (".bz2", "bzip2"), (".zst", "zstd"), (".lz4", "lz4"),
])
def test_packed_data_under_another_name_is_called_what_it_is(suffix: str, kind: str) -> None:
    packed = PACKERS[suffix](BODY)
    assert refused("t.txt", packed) == f"t.txt: is {kind} data, not text; say so by its name: t.txt{suffix}."
    assert refused("t.jsonl.gz", gzip.compress(packed)) == (
        f"t.jsonl.gz: holds {kind} data, not text; unpack it once more.")


def zipped(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name in names:
            file.writestr(name, "x" * 400)
    return made.getvalue()


def tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        about = tarfile.TarInfo("a.txt")
        about.size = len(BODY)
        file.addfile(about, io.BytesIO(BODY))
    return made.getvalue()


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.zip", zipped("a.txt"), "a.zip: is a zip archive, not text; unpack it first: unzip a.zip."),
    ("a.docx", zipped("[Content_Types].xml", "word/document.xml"),
     "a.docx: is a Word document, not text; save it as plain text, in UTF-8."),
    ("a.csv", zipped("[Content_Types].xml", "xl/workbook.xml"),
     "a.csv: is an Excel workbook, not text; save its sheet as .csv, in UTF-8."),
    ("a.pdf", b"%PDF-1.4\n%\xe2\xe3", "a.pdf: is a PDF, not text; take its text out first: pdftotext a.pdf a.txt."),
    ("a.arrow", b"\xff\xff\xff\xffp\0\0\0", "a.arrow: is an Arrow file, not text; write it as parquet: "
     "datasets.Dataset.from_file('a.arrow').to_parquet('a.parquet')."),
    ("a.feather", b"ARROW1\0\0\xff\xff", "a.feather: is an Arrow file, not text; write it as parquet: "),
    ("a.txt", b"PAR1\x15\x04\x15", "a.txt: is a parquet file, not text; give it the extension .parquet."),
    ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a.doc: is an old Word or Excel file, not text; "),
    ("a.rtf", b"{\\rtf1\\ansi", "a.rtf: is an RTF document, not text; "),
    ("a.7z", b"7z\xbc\xaf\x27\x1c\0\4", "a.7z: is a 7z archive, not text; unpack it first: 7z x a.7z."),
    ("a.json", b"\x80\x04\x95\x0e", "a.json: is a pickle, not text; it may run code when it is opened; "),
    ("a.tar", tar(), "a.tar: is a tar archive, not text; unpack it first: tar -xf a.tar."),
    ("a.tar.gz", gzip.compress(tar(), mtime=0),
     "a.tar.gz: holds a tar archive, not text; unpack it first: tar -xf a.tar.gz."),
])
def test_what_is_no_text_is_called_by_its_name(name: str, content: bytes, message: str) -> None:
    assert refused(name, content).startswith(message)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_parquet_is_compressed_inside(suffix: str) -> None:
    assert refused(f"t.parquet{suffix}", b"") == (
        f"t.parquet{suffix}: parquet is compressed inside; unpack the {suffix} first.")
