"""Whether shards are what they were when they were written: files are hashed once, and then known by their times."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from llmkit.data.files import TICK, sha256_of, state_of
from llmkit.data.large.joined import ids_of
from llmkit.data.large.remote import IDS, Far
from llmkit.data.large.shards import CONTENT
from llmkit.system import cache
from llmkit.system.machine import cores, size

log = logging.getLogger("llmkit")

SAYS = 2.0
"""Seconds of hashing after which that is said."""


class DamagedError(ValueError):
    """A file of a shard isn't what was written."""


def content_of(place: Path) -> dict[str, Any]:
    """What a shard says of itself; DamagedError where its files aren't of the sizes that it says."""
    try:
        content: dict[str, Any] = json.loads((place / CONTENT).read_text())
        for name, (bytes_, _) in content["files"].items():
            file = ids_of(place) if name == IDS else place / name
            if (there := file.size if isinstance(file, Far) else file.stat().st_size) != bytes_:
                raise DamagedError(f"{name} has {there:,} bytes, not {bytes_:,}")
        for name in ("tokens", "documents", "text"):
            int(content[name])
    except FileNotFoundError as error:
        raise DamagedError(f"{Path(error.filename or CONTENT).name} is missing") from error
    except OSError as error:
        raise DamagedError(f"{Path(error.filename or CONTENT).name} can't be read: {error.strerror}") from error
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{CONTENT}: {' '.join(str(error).split())[:200]}") from error
    return content


def damaged(places: Sequence[Path]) -> dict[Path, str]:
    """The shards whose bytes aren't those that were written, with what is wrong in words; several are read at once.

    Ids that are far away aren't read for it: that they stay what they are is seen by their version. What was hashed
    before isn't read again: whoever changes a file changes its size or its times (see `llmkit.data.files.digest`).
    """
    with _said(places), ThreadPoolExecutor(cores()) as threads:
        found = zip(places, threads.map(_wrong, places), strict=True)
        return {place: why for place, why in found if why}


def _wrong(place: Path) -> str:
    """What is wrong with a shard; "" where nothing is."""
    try:
        files = {name: about for name, about in content_of(place)["files"].items() if (place / name).is_file()}
        states = {name: state_of((place / name).stat()) for name in files}
        if any(max(state[3:]) > time.time_ns() - TICK for state in states.values()):  # too new to tell a change by it
            _compare(place, files)
            return ""
        key = hashlib.sha256(json.dumps([os.fsdecode(place.absolute()), files, states]).encode()).hexdigest()
        cache.once("whole-shards", key, lambda _: _compare(place, files))
    except DamagedError as error:
        return str(error)
    return ""


def _compare(place: Path, files: dict[str, Any]) -> None:
    """DamagedError for the first file that hasn't its hash."""
    for name, (_, digest) in files.items():
        try:
            found = sha256_of(place / name)
        except OSError as error:
            raise DamagedError(f"{name} can't be read: {error.strerror}") from error
        if found != digest:
            raise DamagedError(f"{name} isn't what was written: it has another hash")


@contextmanager
def _said(places: Sequence[Path]) -> Iterator[None]:
    """While the block runs, say once that shards are hashed, if that takes long."""
    if not places:
        yield
        return

    def tell() -> None:
        held = sum(path.stat().st_size for place in places for path in place.glob("*"))
        log.info("%s: the hashes of %d shards (%s) are compared; what is whole is remembered",
                 places[0].parent, len(places), size(held))

    timer = Timer(SAYS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
