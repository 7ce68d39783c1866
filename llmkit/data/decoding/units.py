"""In what units an encoding writes characters, and in which order their bytes are: utf-16 says it by a mark."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path

from llmkit.data.decoding.packing import unpacked

PLAIN = ("utf", "ascii", "iso8859", "latin", "cp125", "gb", "big5", "shift_jis", "euc", "koi8")
"""How encodings begin in which bytes, or units of two or four bytes, say where a line ends; not utf-7."""
BIG = {"utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_BE}
LITTLE = {"utf-16": codecs.BOM_UTF16_LE, "utf-32": codecs.BOM_UTF32_LE}


def within(path: Path, encoding: str) -> str:
    """The encoding of what is behind a file's start, where no mark says the order of bytes: utf-16 -> utf-16-be."""
    name = codecs.lookup(encoding).name
    if name not in BIG:
        return "utf-8" if name == "utf-8-sig" else encoding
    with unpacked(path) as raw:
        mark = raw.read(4)
    big = mark.startswith(BIG[name]) or (sys.byteorder == "big" and not mark.startswith(LITTLE[name]))
    return f"{name}-{'be' if big else 'le'}"


def is_plain(encoding: str) -> bool:
    """Whether the bytes of a line's end are nothing else in an encoding, where they stand at a unit's start."""
    name = codecs.lookup(encoding).name
    return name.startswith(PLAIN) and name != "utf-7"
