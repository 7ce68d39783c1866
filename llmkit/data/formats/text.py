"""Plain text, cut into documents: lines, paragraphs, whole files, or what stands between <|endoftext|> lines."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmkit.data.decoding.oddities import SEPARATOR, WIDEST
from llmkit.data.decoding.text import decoded
from llmkit.data.files import CHUNK, Place
from llmkit.data.formats.base import FileReader, Format, Row, Rows, lines_or_none

_SEPARATOR = re.compile(rf"\n\ufeff?[ \t]*{re.escape(SEPARATOR)}[ \t\r]*\n")
_GAP = re.compile(r"\n\ufeff?[^\S\n]*\n")


class PlainText(Format):
    """Text: any file whose extension no other format has."""

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """{"text": …} a document, with the line that it starts on."""
        kind, block, start = reader.document, list[str](), 0
        for number, line in lines_or_none(path, reader):
            if line is None:
                continue
            blank = not line or line.isspace()
            if kind == "line":
                if not blank:
                    yield {"text": line}, Place(str(path), number)
            elif (kind == "paragraph" and blank) or (kind == "endoftext" and is_separator(line)):
                if block:
                    yield _joined(block, path, start)
                    block = []
            elif block or not blank:
                start = start if block else number
                block.append(line)
        if block:
            yield _joined(block, path, start)


def is_separator(line: str) -> bool:
    """Whether a line only says that a document ends: spaces around it count for nothing."""
    return SEPARATOR in line and line.strip(" \t\r") == SEPARATOR


def _joined(block: list[str], path: Path, start: int) -> tuple[Row, Place]:
    while not block[-1] or block[-1].isspace():
        block.pop()
    return {"text": "\n".join(block)}, Place(str(path), start)


def usual_document(files: Sequence[Path], encoding: str, label: str, spares: bool = False) -> str:
    """What `document: auto` is in these files: endoftext, or paragraph where a blank line parts text, else line.

    spares   whether lines that aren't of the encoding are left out, where they are an error otherwise
    """
    gaps = False
    for path in files:
        for text in _stretches(path, encoding, label, spares):
            if SEPARATOR in text and _SEPARATOR.search(text):
                return "endoftext"
            gaps = gaps or _GAP.search(text.strip()) is not None
    return "paragraph" if gaps else "line"


def _stretches(path: Path, encoding: str, label: str, spares: bool) -> Iterator[str]:
    """A file's text, about a million characters at a time, each from the last one's last line that has some, or in it.

    So a separator, or a gap between two lines, is whole in one of them; a line end is added at both of its ends.
    """
    rest = "\n"
    with decoded(path, encoding, label, spares) as file:
        while piece := file.read(CHUNK):
            text = rest + (piece.removeprefix("\ufeff") if rest == "\n" else piece)
            yield text
            filled = len(text.rstrip()) or len(text)
            line = text.rfind("\n", max(0, filled - WIDEST), filled)
            rest = text[line if line >= 0 else filled - 1 :]
    yield f"{rest}\n"
