"""Processes of the board's own in which models are opened: one that is talked to, and one that answers and ends."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from llmkit.serving.protocol import ApiError
from llmkit.system.report import log
from llmkit.system.signals import end_with_parent

IDLE = 900.0
"""Seconds without a question after which the model that is talked to is let go of."""
START, ONCE = 300.0, 300.0
"""Seconds that a model has to be opened, and that a look at a model may take."""
KEPT = 20
"""Lines of a child's log that are kept: the last one says why it ended."""
MOST_PRINTED = 16 << 20
"""Bytes that a child may print."""
ADDRESS = re.compile(rb"listening on http://127\.0\.0\.1:(\d+)")


@dataclass
class Talk:
    """A model that is open."""

    run: str
    process: asyncio.subprocess.Process
    said: deque[str]
    port: int = 0
    """Where it is asked; 0 until it can be."""
    reading: asyncio.Task[None] | None = None
    used: float = 0.0
    """When it was last asked something, on the monotonic clock."""
    open_questions: int = 0
    """Answers that are being written."""


class Children:
    """At most one model that is talked to, and at most one other look at a model; both end with the board."""

    def __init__(self, idle: float = IDLE) -> None:
        self.idle = idle
        self.talk: Talk | None = None
        self._once: asyncio.subprocess.Process | None = None
        self._opening = asyncio.Lock()
        self._looking = False
        self._stopping = False

    # ---- one look ----

    async def once(self, words: Sequence[str], given: str = "") -> str:
        """What `llmkit WORDS` prints, asked with a text on stdin; ApiError with what it says where it fails."""
        if self._looking or self._stopping:
            raise ApiError(409, "another look at a model goes on; wait until it ends.", code="busy")
        self._looking = True
        try:
            process = self._once = await self._start(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
            try:
                async with asyncio.timeout(ONCE):
                    printed, said = await process.communicate(given.encode())
            except TimeoutError:
                raise ApiError(504, f"the model didn't answer within {ONCE:g} s.") from None
            finally:
                _end(process)
        finally:
            self._once, self._looking = None, False
        if process.returncode:
            raise ApiError(422, _why(said.decode(errors="replace").splitlines()))
        if len(printed) > MOST_PRINTED:
            raise ApiError(413, f"the answer has {len(printed):,} bytes, more than a page can show.")
        return printed.decode(errors="replace")

    # ---- talking ----

    async def open(self, run: str, name: str, folder: str) -> None:
        """Open the model of a run to be talked to, in the place of another that is open."""
        async with self._opening:
            if self.talk is not None and self.talk.run == run and self.talk.process.returncode is None:
                return
            await self.close()
            if self._stopping:
                raise ApiError(503, "the board ends.", kind="server_error")
            process = await self._start(["serve", f"{name.replace('=', '-')}={folder}", "--port", "0"],
                                        stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            talk = self.talk = Talk(run, process, deque(maxlen=KEPT))
            try:
                async with asyncio.timeout(START):
                    talk.port = await _listening(talk)
            except TimeoutError:
                await self.close()
                raise ApiError(504, f"the model wasn't open within {START:g} s.") from None
            except BaseException:
                await self.close()
                raise
            talk.used = time.monotonic()
            talk.reading = asyncio.create_task(_drain(talk))

    async def close(self) -> None:
        """Let go of the model that is talked to: its process ends, and its memory is free."""
        talk, self.talk = self.talk, None
        if talk is None:
            return
        if talk.reading is not None:
            talk.reading.cancel()
        _end(talk.process)
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await talk.process.wait()

    def at(self) -> Talk:
        """The model that is talked to; ApiError where there is none, or none any more."""
        talk = self.talk
        if talk is None or not talk.port:
            raise ApiError(503, "no model is open; open one on the board.", kind="server_error", code="no_model")
        if talk.process.returncode is not None:
            raise ApiError(503, f"the model ended: {_why(list(talk.said))}", kind="server_error", code="no_model")
        return talk

    async def watch(self) -> None:
        """Let go of a model that nobody has asked anything for a while, until this is cancelled."""
        while True:
            await asyncio.sleep(min(30.0, self.idle / 2))
            talk = self.talk
            if (talk is not None and talk.port and not talk.open_questions
                    and time.monotonic() - talk.used > self.idle):
                log.info("%s: its model is let go of: nobody asked it anything for %d minutes", talk.run,
                         round(self.idle / 60))
                await self.close()

    # ---- the end ----

    def stop(self, seconds: float) -> None:
        """End all of them."""
        self._stopping = True
        for process in (self._once, None if self.talk is None else self.talk.process):
            if process is not None:
                _end(process)

    def join(self, seconds: float) -> None:
        """They were killed: there is nothing to wait for."""

    async def _start(self, words: Sequence[str], stdout: int, stdin: int) -> asyncio.subprocess.Process:
        """`llmkit WORDS` in a process that ends with this one, speaks English and asks no network."""
        variables = {**os.environ, "LLMKIT_LANG": "en", "LLMKIT_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llmkit", *words, env=variables, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=end_with_parent, limit=MOST_PRINTED)


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


async def _listening(talk: Talk) -> int:
    """The port that a server says it listens on; ApiError with its last line where it ends before."""
    assert talk.process.stderr is not None
    async for line in talk.process.stderr:
        talk.said.append(line.decode(errors="replace").rstrip())
        if found := ADDRESS.search(line):
            return int(found[1])
    raise ApiError(422, _why(list(talk.said)))


async def _drain(talk: Talk) -> None:
    """Read on what a child says, so that it never waits to say it."""
    assert talk.process.stderr is not None
    with suppress(ValueError):  # a line without an end
        async for line in talk.process.stderr:
            talk.said.append(line.decode(errors="replace").rstrip())


def _why(lines: Sequence[str]) -> str:
    """Of what a command said, the error that it ended with."""
    errors = [line.removeprefix("llmkit: error: ") for line in lines if line.startswith("llmkit: error: ")]
    return errors[-1] if errors else (lines[-1] if lines else "it ended without a word.")
