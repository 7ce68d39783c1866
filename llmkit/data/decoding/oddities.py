"""What a text file has that isn't usual, and is read all the same: it is counted, said once, and part of a fingerprint.

A file without any is read as it always was, and has the fingerprint that it always had.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmkit.data.decoding.text import decoded
from llmkit.data.files import CHUNK

SEPARATOR = "<|endoftext|>"
"""A line of this and spaces stands between two documents (the convention of GPT-2's and TinyStories' files)."""
WIDEST = 256
"""Characters of a separator with the spaces around it."""
_PADDED = re.compile(rf"\n\ufeff?(?:[ \t]+{re.escape(SEPARATOR)}|{re.escape(SEPARATOR)}[ \t])[ \t]*(?=\r?\n)")
WORDS = {
    "returns": "{count} line ends are carriage returns alone, as on old Macs",
    "marks": "{count} byte order marks before lines are left out: files were put one after the other",
    "padded": "{count} lines of <|endoftext|> have spaces around it, and part documents too",
}
"""What is said of each."""


def oddities(path: Path, encoding: str, label: str, separates: bool) -> dict[str, int]:
    """How often a file has what; nothing where it has nothing unusual.

    separates   whether lines of <|endoftext|> stand between its documents
    """
    count: Counter[str] = Counter()
    with decoded(path, encoding, label, surrogates=True) as file:
        for text, sure in _from_line_ends(iter(lambda: file.read(CHUNK), "")):
            count["marks"] += text.count("\n\ufeff", 0, sure + 1)
            if separates and SEPARATOR in text:
                count["padded"] += sum(match.start() < sure for match in _PADDED.finditer(text))
            count["returns"] += text.count("\n", 0, sure)
        if file.newlines != "\r":
            del count["returns"]
    return {name: number for name, number in sorted(count.items()) if number}


def _from_line_ends(pieces: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each piece from the line end before it, and how many of its characters don't come again."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        last = text.rfind("\n")
        if last < 0 or len(text) - last > WIDEST:  # no line so long is a separator
            yield text, len(text)
            rest = ""
        else:
            yield text, last
            rest = text[last:]
    yield f"{rest}\n", len(rest)


def told(found: dict[Path, dict[str, int]]) -> list[str]:
    """What is said of the files of a source, one note for each kind of oddity."""
    notes = []
    for name, words in WORDS.items():
        files = [path for path, count in found.items() if name in count]
        if files:
            more = f" and {len(files) - 1:,} other files" if len(files) > 1 else ""
            count = sum(found[path][name] for path in files)
            notes.append(f"{files[0]}{more}: {words.format(count=f'{count:,}')}.")
    return notes
