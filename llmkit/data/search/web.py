"""What a person reads of an HTML page, in the lines where it stands in the file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from llmkit.data.search.passages import BREAK

_UNREAD = {"title", "script", "style", "template", "svg"}
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img",
           "input", "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup",
           "time", "tt", "u", "var", "wbr"}


OPEN, TRIES = 8192, 16
"""Characters behind a tag that is never closed which Python's parser looks through for each `<` in them; how many such
tags are passed over one by one where there are more."""
_TAG = re.compile(r"<[^<>]*>")


def readable(page: str) -> str:
    """The text of a page without its tags: each line is where it was, and parts of a page are parted by `BREAK`.

    >>> readable("<h1>Cats</h1><p>Cats <b>purr</b>.").split(BREAK)
    ['', 'Cats', '', 'Cats purr.']
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return "".join(reader.written)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.written: list[str] = []
        self.line = 1
        self.unread = 0

    def close(self) -> None:
        """What stands behind tags that are never closed is read too, though not a hundred thousand times."""
        for _ in range(TRIES):
            if len(self.rawdata) <= OPEN or not self.rawdata.startswith("<"):
                break
            rest, self.rawdata = self.rawdata, ""
            self.handle_data("<")
            self.feed(rest[1:])
        if len(self.rawdata) > OPEN and self.rawdata.startswith("<"):
            rest, self.rawdata = self.rawdata, ""
            self.handle_data(_TAG.sub("", rest))
        super().close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.unread += tag in _UNREAD
        self._part(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self.unread -= tag in _UNREAD and self.unread > 0
        self._part(tag)

    def handle_data(self, data: str) -> None:
        if self.unread:
            return
        above = self.getpos()[0] - self.line  # lines that only tags stood on
        self.written += ["\n" * above, data]
        self.line += above + data.count("\n")

    def _part(self, tag: str) -> None:
        if tag not in _INLINE:
            self.written.append(BREAK)
