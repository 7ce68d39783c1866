"""Texts of models whose rows can't share a table: those that wait are written together, those that come then wait."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

from llmkit.serving.jobs import NOT_FINITE, End, Job, Piece
from llmkit.system.errors import NumberError

if TYPE_CHECKING:
    from llmkit.inference.writing.completion import Completion
    from llmkit.inference.writing.writer import Writer


class TextWindow:
    """Writes an encoder-decoder's texts, or a decoder's that no table suits, by transformers' generate.

    It serves as an Engine does, but for this: a job that comes waits until the texts before it have ended, and one that
    nobody listens to frees its place with the last of them.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """Called after each token: the other models' turn."""
        self._inside = False
        self._cut: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do; not while it is being done."""
        return bool(self.waiting) and not self.running

    def admit(self, job: Job) -> None:
        """Begin a job."""
        self.waiting.append(job)

    def turn(self) -> int:
        """Write what waits and was asked for in the same way, to its end. Returns how many texts that was."""
        for job in self.waiting:
            if job.gone:
                job.left = 0
        self.waiting = [job for job in self.waiting if job.left]
        if not self.waiting:
            return 0
        alike = next(list(jobs) for _, jobs in groupby(self.waiting, key=lambda job: job.wish.options))
        self.running, self.waiting = alike, self.waiting[len(alike) :]
        self._inside = True
        try:
            written = self.writer.write(
                [job.prompt for job in alike], alike[0].wish.options, stream=self._say, stopped=self._stopped,
                numbers=None if alike[0].wish.options.seed is None else [0] * len(alike),
                goes_on=[job.wish.goes_on for job in alike])
        finally:
            self._inside = False
        for job, completions in zip(alike, written, strict=True):
            for number, completion in enumerate(completions):
                self._tell(job, number, completion)
        self.running = []
        return sum(job.count for job in alike)

    def fail(self, error: Exception) -> None:
        """End everything with an error."""
        ended = self.waiting if self._inside else self.waiting + self.running
        for job in ended:
            for number in range(job.count):
                job.hear(number, End("error", 0, error))
            job.left = 0
        self.waiting = []
        if self._inside:
            self._cut = error
        else:
            self.running = []

    def _say(self, at: int, piece: str) -> None:
        self.running[at].hear(0, Piece(piece))

    def _stopped(self) -> bool:
        self.meanwhile()
        return self._cut is not None or all(job.gone for job in self.running)

    def _tell(self, job: Job, number: int, completion: Completion) -> None:
        """What wasn't streamed of a text, and its end."""
        if number:
            job.hear(number, Piece(completion.text))
        for one in completion.logprobs or ():
            job.hear(number, Piece("", one))
        job.left -= 1
        if self._cut is not None:
            job.hear(number, End("error", completion.tokens, self._cut))
        elif completion.score is not None and math.isnan(completion.score):
            job.hear(number, End("error", completion.tokens, NumberError(NOT_FINITE)))
        else:
            job.hear(number, End(completion.finish_reason, completion.tokens))
