"""stdin and stdout of a terminal that knows other letters than Unicode's: GBK, Latin-1, ASCII."""

from __future__ import annotations

import codecs
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from llmkit.system.errors import DataError, RequestError
from llmkit.system.terminal import visible

log = logging.getLogger("llmkit")


def show_what_can_be() -> None:
    """From here on, a character that stdout doesn't know is written as `?`, which is said once, and ends nothing."""
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):
        return
    told: list[str] = []

    def shown(error: UnicodeError) -> tuple[str | bytes, int]:
        if not told:
            told.append(out.encoding)
            log.warning("stdout is in %s, which lacks some of the characters that are written: they are `?` there. "
                        "Set PYTHONIOENCODING=utf-8, or ask for --json", out.encoding)
        return codecs.replace_errors(error)

    codecs.register_error("llmkit", shown)
    out.reconfigure(errors="llmkit")


def as_json(value: Any, to: TextIO | None = None) -> str:
    r"""A value as JSON on one line, for stdout or the file that is given; escaped, as \u732b, where it needs that.

    On stdout it needs that also where characters would steer a terminal, which JSON lets through from \x7f on. Numbers
    and arrays of numpy and torch, which plug-ins answer with, are JSON's own. RequestError for what has no form there.
    """
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    target = sys.stdout if to is None else to
    if target is sys.stdout and visible(text) != text:
        return json.dumps(value, default=_plain)
    try:
        text.encode(target.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=_plain)
    return text


def _plain(value: Any) -> Any:
    """What of numpy's or torch's JSON can hold: np.float32(0.5) -> 0.5, array([1, 2]) -> [1, 2]."""
    if type(value).__module__.partition(".")[0] in ("numpy", "torch") and hasattr(value, "tolist"):  # neither imported
        return value.tolist()
    raise RequestError(f"a {type(value).__name__} has no form in JSON; give texts, numbers, lists or dicts.")


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
