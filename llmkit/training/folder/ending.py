"""status.json: how a run ended, for launchers that lose the exit status of what they start."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmkit.models import layout
from llmkit.models.run import Run
from llmkit.system.environment import is_first
from llmkit.system.errors import LlmkitError, status_of
from llmkit.training.folder import standing
from llmkit.training.folder.run_folder import RunFolder, put

LAUNCHERS = ("RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")
"""What a launcher sets for what it starts: torchrun, and accelerate's, which end with 1 whatever that ended with."""


def ended(status: int, said: str, process: int | None = None) -> str:
    """The file's text: {"status": 75, "message": "stopped by SIGTERM …", "process": 0, "host": "node1", "time": "…"}

    process   whose end it is, where that isn't this one's
    """
    number = int(os.environ.get("RANK") or 0) if process is None else process
    return json.dumps({
        "status": status, "message": said, "process": number, "host": socket.gethostname(),
        "time": datetime.now(UTC).isoformat(timespec="seconds")}, indent=1)


def in_words(error: BaseException) -> str:
    """An exception as the command line tells it."""
    said = " ".join(str(error).split())
    return said if isinstance(error, LlmkitError) or not isinstance(error, Exception) else (
        f"{type(error).__name__}: {said}")


@contextmanager
def status_left(run: RunFolder) -> Iterator[None]:
    """Say in the folder how the block ended, where a launcher started this process and no run began to write there.

    A run that began says it itself, while it holds the folder.
    """
    try:
        yield
    except BaseException as error:
        if not run.begun:
            leave(run, status_of(error), in_words(error))
        raise
    if not run.begun:
        leave(run, 0, "there was nothing to do")


def leave(run: RunFolder, status: int, said: str) -> None:
    """Write the file, by the first process, into a folder that is still this run's or that nobody has."""
    launched = any(name in os.environ for name in LAUNCHERS)
    if is_first() and (run.token is not None if run.begun else launched and is_free(run)):
        with suppress(LlmkitError, OSError):  # what went wrong first is what is told
            run.check()
            put(run.folder / layout.STATUS, ended(status, said))


def leave_killed(folder: Path, status: int, said: str, process: int) -> None:
    """Write the file for a process that was killed, by who started it; into a folder where a run was, and none is."""
    if folder.is_dir() and standing.ours(folder) and is_free(RunFolder(folder)):
        with suppress(LlmkitError, OSError):
            put(folder / layout.STATUS, ended(status, said, process))


def is_free(run: RunFolder) -> bool:
    """Whether this run has the folder, or no run and no file of somebody's is in the way."""
    if run.token is not None:
        return True
    try:
        standing.check(run.folder)
    except (LlmkitError, OSError):
        return False
    return not Run(run.folder).held


def status_in(folder: Path, since: float) -> dict[str, Any] | None:
    """What a run in a folder said of its end after a time (seconds since 1970); None where it said nothing."""
    try:
        path = folder / layout.STATUS
        said = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_mtime >= since - 1 else None
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("status"), int) else None
