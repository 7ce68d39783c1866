r"""All that is printed as text goes through here: characters that steer a terminal are shown, as `\x1b`, and not sent.

Labels, headers, names of files and models, and what a model writes come from anybody. An escape sequence among them
would rename a window, clear a screen, or write over the line that names the mistake; a mark that turns the direction of
writing would show one name as another.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
from typing import TextIO
from unicodedata import east_asian_width

from llmkit.system.language import translate

BREAKS = "\n\u2028\u2029"
"""What begins a new line."""
STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u206f"
"""Control characters of C0, but for the tab and the line's end, and of C1; marks that turn the direction of writing.
Those that only say which direction a neighbour has (LRM, RLM, ALM) are part of plain Hebrew and Arabic."""
IN_A_LINE, IN_LINES = re.compile(f"[{STEERING}{BREAKS}]"), re.compile(f"[{STEERING}]")

UNIT = re.compile(r"[（「《]*[\x21-\u2e7f]+[，。；：、）」》]*|[（「《]*[^\x21-\u2e7f\s][，。；：、）」》]*|\s+")
"""What no line is broken within: a word of letters, or a Chinese character, with the marks that belong to it."""


def visible(text: str) -> str:
    r"""A text for one line.

    >>> visible("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\\nc'
    """
    return IN_A_LINE.sub(_shown, text)


def shell_word(word: object) -> str:
    """A path or another word of a command that is printed, as a shell takes it: `llmkit models convert 'my model'`.

    >>> shell_word("runs/a"), shell_word("my model"), shell_word("-x")
    ('runs/a', "'my model'", './-x')
    """
    text = str(word)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def columns(text: str) -> int:
    """How wide a text is on a terminal: a Chinese character has two columns.

    >>> columns("ab"), columns("配方")
    (2, 4)
    """
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def padded(text: str, wide: int) -> str:
    """A text with spaces behind it, up to so many columns.

    >>> padded("ab", 5) + "|", padded("配方", 5) + "|"
    ('ab   |', '配方 |')
    """
    return text + " " * max(0, wide - columns(text))


def flush(text: str, wide: int) -> str:
    """A text with spaces before it, up to so many columns.

    >>> "|" + flush("ab", 5), "|" + flush("之后", 5)
    ('|   ab', '| 之后')
    """
    return " " * max(0, wide - columns(text)) + text


def folded(text: str, width: int) -> list[str]:
    """A text cut into lines of so many columns; no line begins with a mark that ends a phrase.

    >>> folded("按配方训练。", 8)
    ['按配方', '训练。']
    """
    out = [""]
    for unit in UNIT.findall(text):
        if out[-1] and columns(out[-1]) + columns(unit.rstrip()) > width:
            out.append("")
        out[-1] += unit if out[-1] else unit.lstrip()
    return [line.rstrip() for line in out]


def visible_lines(text: str) -> str:
    r"""A text that may have lines, whatever ends them.

    >>> visible_lines("a\x1b[2J\r\nb\rc")
    'a\\x1b[2J\nb\\rc'
    """
    return IN_LINES.sub(_shown, text.replace("\r\n", "\n"))


def _shown(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class Stretches:
    r"""`visible_lines` of a text that comes in pieces; the two characters of a Windows line end may come in two.

    >>> pieces = Stretches()
    >>> [pieces("a\r"), pieces("\nb\x1b"), pieces("[2J\r"), pieces.end()]
    ['a', '\nb\\x1b', '[2J', '\\r']
    """

    def __init__(self) -> None:
        self.kept = ""

    def __call__(self, piece: str) -> str:
        """So much of the text as can be printed."""
        piece = self.kept + piece
        self.kept = "\r" if piece.endswith("\r") else ""
        return visible_lines(piece.removesuffix("\r"))

    def end(self) -> str:
        """What is left."""
        kept, self.kept = self.kept, ""
        return visible_lines(kept)


def out(text: object = "", end: str = "\n") -> None:
    """Print on stdout, at once."""
    _print(text, sys.stdout, end)


def say(text: str) -> None:
    """Print a sentence of ours on stdout, at once, in the language that is chosen."""
    _print(translate(text), sys.stdout, "\n")


def err(text: object = "", end: str = "\n") -> None:
    """Print on stderr, at once, in the language that is chosen."""
    _print(translate(str(text)), sys.stderr, end)


def _print(text: object, stream: TextIO, end: str) -> None:
    print(visible_lines(str(text)), end=end, file=stream, flush=True)


def pale(text: str) -> None:
    """Print on stderr, pale where a person sees it."""
    shown = visible_lines(translate(text))
    print(f"\033[2m{shown}\033[0m" if sys.stderr.isatty() else shown, file=sys.stderr, flush=True)


class Lines(logging.Formatter):
    """A record of a log is a line, whatever stands in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, for one line, in the language that is chosen."""
        return visible(translate(super().format(record)))


class Calmed(logging.Filter):
    """For the handlers of libraries: what they say is shown in the same way."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes, with its message made visible."""
        record.msg, record.args = visible_lines(record.getMessage()), ()
        return True
