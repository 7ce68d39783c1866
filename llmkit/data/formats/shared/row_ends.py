"""Where the rows of a table end: a cell in quotes may hold line ends, so that not every line is a row."""

from __future__ import annotations

import re

from llmkit.data.decoding.ends import Ends

MOST = 2**24
"""Bytes that are looked through for the end of one row."""


class RowEnds(Ends):
    """Rows that are lines, but for cells in quotes that lie across lines.

    spares   whether bad rows are left out: then what is bad may hide where the next row begins, and ends the search
    """

    def __init__(self, encoding: str, spares: bool) -> None:
        super().__init__(encoding)
        self.spares = spares

    def after(self, rest: bytearray, size: int) -> int | None:
        """Behind the first row's end."""
        whole = self.last_line(rest, len(rest)) + len(self.newline)
        before = self.last_line(rest, size) + len(self.newline)
        try:
            text = rest[: max(0, whole)].decode(self.encoding)
            least = len(rest[: max(0, before)].decode(self.encoding))
        except UnicodeDecodeError:
            self.lost = "there is a byte that isn't of its encoding"
            return None
        if self.spares and ("\0" in text or text.count("\r") != text.count("\r\n")):
            self.lost = "there is a NUL byte, or a carriage return within a row"
            return None
        end = self.row_end(text, least) if whole > 0 else None
        if end is None and not self.lost and len(rest) > MOST:
            self.lost = f"no row ends in {MOST:,} bytes, as it seems"
        return None if end is None else self._place(rest, text.count("\n", 0, end))

    def row_end(self, text: str, least: int) -> int | None:
        """Where the first row of some whole lines ends that reaches further than `least` characters."""
        raise NotImplementedError

    def _place(self, rest: bytearray, lines: int) -> int:
        """The bytes of so many lines."""
        place = 0
        for _ in range(lines):
            place = rest.index(self.newline, place)
            while place % len(self.newline):
                place = rest.index(self.newline, place + 1)
            place += len(self.newline)
        return place


class QuotedRowEnds(RowEnds):
    """Rows as RFC 4180 has them: a quote opens a cell only where the cell begins, and two within it are one."""

    def __init__(self, encoding: str, spares: bool, delimiter: str) -> None:
        super().__init__(encoding, spares)
        mark = re.escape(delimiter)
        begins = rf"(?:(?<=[{mark}\n])|(?<=\n\ufeff)|\A\ufeff?)"
        self.closing = re.compile(r'[^"]*+(?:""[^"]*+)*+"')
        self.cell = re.compile(rf'{begins}"(?:({self.closing.pattern}(?=[{mark}\n]|\r\n))|)')

    def row_end(self, text: str, least: int) -> int | None:
        """The first line's end that is in no quotes; what stands behind a closing quote ends the search."""
        end = text.find("\n", least)
        if end >= 0 and '"' in text:
            for cell in self.cell.finditer(text):
                if cell.start() > end:
                    break
                if cell[1] is None:
                    if self.closing.match(text, cell.end()):
                        self.lost = "something stands behind the closing quote of a cell"
                    return None
                if cell.end() > end and (end := text.find("\n", cell.end())) < 0:
                    return None
        return end + 1 or None


class TabRowEnds(RowEnds):
    """Rows of a table with tabs, where a quote that isn't closed in its line may be closed in one of the next."""

    def __init__(self, encoding: str, spares: bool, longest: int) -> None:
        super().__init__(encoding, spares)
        self.longest = longest
        """Lines that a row may lie across."""

    def row_end(self, text: str, least: int) -> int | None:
        """The first line's end that no row can lie across."""
        place, free = 0, 0
        for number, line in enumerate(text.split("\n")[:-1]):
            place += len(line) + 1
            if '"' in line and opens(line.removeprefix("\ufeff")):
                free = number + self.longest
            elif place > least and number >= free:
                return place
        return None


def opens(line: str) -> bool:
    """Whether the last cell of a line starts with a quote that doesn't close in it."""
    last = line.rpartition("\t")[2]
    return last.startswith('"') and last.count('"') % 2 == 1
