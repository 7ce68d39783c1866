"""Where documents end in the bytes of a file: what is behind such an end can be read by itself, by another process."""

from __future__ import annotations

import codecs
import re
from mmap import mmap

from llmkit.data.decoding.oddities import SEPARATOR

UNITS = {"utf-16-le": "<u2", "utf-16-be": ">u2", "utf-32-le": "<u4", "utf-32-be": ">u4"}
"""Encodings whose characters are units of several bytes, and how numpy reads one."""


class Ends:
    """Finds where documents end in bytes that begin with a document.

    encoding   as `within` gives it
    """

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.newline = "\n".encode(encoding)
        self.kind = UNITS.get(codecs.lookup(encoding).name)
        self.lost = ""
        """Why no more ends can be found, once that is so."""

    def after(self, rest: bytearray, size: int) -> int | None:
        """Where the first document ends that reaches further than `size` bytes; None where more bytes are needed."""
        raise NotImplementedError

    def lines(self, made: bytes) -> int:
        """How many lines end in some bytes."""
        if self.kind is None:
            return made.count(self.newline)
        import numpy as np

        return int(np.count_nonzero(np.frombuffer(made, self.kind, len(made) // len(self.newline)) == ord("\n")))

    def last_line(self, rest: bytearray, stop: int) -> int:
        """Where the last line's end before a place begins; -1 where there is none."""
        place = rest.rfind(self.newline, 0, stop)
        while place > 0 and place % len(self.newline):
            place = rest.rfind(self.newline, 0, place + len(self.newline) - 1)
        return -1 if place % len(self.newline) else place


class MarkedEnds(Ends):
    """Documents of text, which end with a line, a blank line, or a line that says so; or lines of JSON."""

    def __init__(self, encoding: str, document: str) -> None:
        super().__init__(encoding)
        self.pattern = patterns(encoding)[document]
        self.looked = 0
        """Before this there is no end, as was seen."""

    def after(self, rest: bytearray, size: int) -> int | None:
        """Behind the first mark."""
        end = self.next(rest, max(size, self.looked))
        self.looked = 0 if end is not None else max(0, self.last_line(rest, len(rest)))  # a mark may be half there
        return end

    def next(self, text: bytes | bytearray | mmap, start: int) -> int | None:
        """Where the first mark ends that begins there or later."""
        for found in self.pattern.finditer(text, start):
            if found.start() % len(self.newline) == 0:
                return found.end()
        return None


def patterns(encoding: str) -> dict[str, re.Pattern[bytes]]:
    """Behind what a text may be cut, by what a document of it is."""
    end = _bytes("\n", encoding)
    separator = _any_of(" \t", encoding) + _bytes(SEPARATOR, encoding) + _any_of(" \t\r", encoding)
    return {"line": re.compile(end), "paragraph": re.compile(end + _any_of(" \t\r", encoding) + end),
            "endoftext": re.compile(end + separator + end)}


def _bytes(text: str, encoding: str) -> bytes:
    return re.escape(text.encode(encoding))


def _any_of(letters: str, encoding: str) -> bytes:
    """None, one or many of some characters."""
    return b"(?:" + b"|".join(_bytes(letter, encoding) for letter in letters) + b")*"
