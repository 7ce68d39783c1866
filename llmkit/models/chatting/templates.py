"""Chat templates come with models, from anybody: they are run in transformers' sandbox, for a limited time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from llmkit.system import machine
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0
"""Time of a processor that a template may take for one conversation; the longest take milliseconds."""
LONGEST = 60.0
"""Seconds by the clock that it may take, where other programs have the processor meanwhile."""
MEMORY = 1 << 30
"""Bytes that it may take."""
COMPILED = "<template>"
"""The file that a template's Python is from, by what jinja2 says."""


def apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
    """What `tokenizer.apply_chat_template` makes of a conversation.

    RequestError where the template takes too long or too much memory, or computes what can't be computed. What it
    refuses, and what the sandbox does, is jinja2's TemplateError.
    """
    try:
        with limited():
            return tokenizer.apply_chat_template(list(messages), **options)  # type: ignore[arg-type]
    except (ArithmeticError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise RequestError(f"the model's chat template fails: {said}.") from error


@contextmanager
def limited() -> Iterator[None]:
    """Let Python code in this thread run for SECONDS, and take MEMORY more bytes than was ever taken before.

    A template is compiled to Python, so its loops pass here line by line, and what it calls with each call: to watch
    that line by line too would take longer than the template. One operation of a single line isn't interrupted.
    """
    deadline, latest = time.thread_time() + SECONDS, time.monotonic() + LONGEST
    most = machine.peak_memory() + MEMORY

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() > deadline or time.monotonic() > latest:
            raise RequestError(f"the model's chat template doesn't end within {SECONDS:g} s.")
        if machine.peak_memory() > most:
            raise RequestError(f"the model's chat template takes more than {MEMORY >> 30} GiB of memory.")
        return watch if frame.f_code.co_filename == COMPILED else None

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
