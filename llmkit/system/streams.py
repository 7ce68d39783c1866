"""stdin and stdout of a terminal that knows other letters than Unicode's: GBK, Latin-1, ASCII."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from llmkit.system.errors import DataError, RequestError
from llmkit.system.terminal import visible


def show_what_can_be() -> None:
    """From here on, a character that stdout doesn't know is written as `?`, and ends nothing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def as_json(value: Any, to: TextIO | None = None) -> str:
    r"""A value as JSON on one line, for stdout or the file that is given; escaped, as \u732b, where it needs that.

    On stdout it needs that also where characters would steer a terminal, which JSON lets through from \x7f on.
    """
    text = json.dumps(value, ensure_ascii=False)
    target = sys.stdout if to is None else to
    if target is sys.stdout and visible(text) != text:
        return json.dumps(value)
    try:
        text.encode(target.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def stdin_lines() -> Iterator[str]:
    """The lines of stdin as they come; DataError where one isn't in the terminal's encoding."""
    try:
        for line in sys.stdin:
            line.encode()  # a byte that Python let through as half a character can't be learned from or shown
            yield line
    except UnicodeError as error:
        raise DataError(f"stdin: isn't {sys.stdin.encoding} throughout; save the text as a file and name its encoding, "
                        "or set PYTHONIOENCODING to what it is in.") from error


def typed(text: str, where: str) -> str:
    """A text of the command line; RequestError where its bytes aren't in the terminal's encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{where}: byte 0x{ord(text[error.start]) & 0xff:02x} is no {sys.getfilesystemencoding()}; "
                           "give the text in a file, or through stdin.") from error
    return text
