"""What a person reads of an HTML page, in the lines where it stands in the file."""

from __future__ import annotations

from html.parser import HTMLParser

from llmkit.data.search.passages import BREAK

_UNREAD = {"title", "script", "style", "template", "svg"}
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img",
           "input", "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup",
           "time", "tt", "u", "var", "wbr"}


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
