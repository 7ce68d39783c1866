"""What a run leaves on disk, and how to pick it up again: whole or absent, never half."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmkit import recipe as recipes
from llmkit.errors import CheckpointError, PlaceError, RequestError
from llmkit.recipe import Recipe

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: every file has the size and hash that its manifest says."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.manifest["step"])

    @property
    def state(self) -> Mapping[str, Any]:
        """What the loop counts."""
        state: Mapping[str, Any] = self.manifest["state"]
        return state


class Run:
    """The folder of one run. Only the main process writes; the others read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.model = folder / "model"
        self._metrics: IO[str] | None = None

    # ---- taking the folder ----

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; PlaceError where another process does, or where it can't be written.

        The lock is the kernel's: it ends with the process, however that ends.
        """
        with telling(self.folder):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("a+")
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no forked worker keeps it
            except OSError as error:
                file.seek(0)
                raise PlaceError(f"{self.folder}: in use by another run ({file.read().strip() or 'unknown'}); "
                                 "choose another --output-dir, or wait.") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            for left in self.checkpoints.glob(".*"):
                shutil.rmtree(left)
            yield

    def started(self) -> bool:
        """Whether a run left something here that is worth keeping."""
        metrics = self.folder / "metrics.jsonl"
        return (self.model.exists() or any(self.checkpoints.glob("step-*"))
                or (metrics.exists() and metrics.stat().st_size > 0))

    def compare(self, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
        """Where a recipe differs from this folder's: (ours, there) by field. CheckpointError if that can't be read."""
        try:
            there = recipes.load(self.folder / "recipe.yaml")
        except RequestError as error:
            raise CheckpointError(f"{self.folder}/recipe.yaml can't be read: {error}") from error
        return recipes.differences(recipe, there)

    def finished(self) -> dict[str, Any] | None:
        """The summary of a completed run, or None."""
        try:
            summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        except (OSError, ValueError):
            return None
        return summary if summary.get("status") == "completed" and self.model.is_dir() else None

    def write_recipe(self, recipe: Recipe) -> None:
        """Leave the resolved recipe."""
        self.write("recipe.yaml", recipes.dump(recipe))

    def write(self, name: str, text: str) -> None:
        """Replace a file in one step."""
        put(self.folder / name, text)

    # ---- metrics ----

    def log(self, event: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl, on disk before this returns to the loop."""
        with telling(self.folder):
            if self._metrics is None:
                self._metrics = (self.folder / "metrics.jsonl").open("a")
            self._metrics.write(json.dumps(event) + "\n")
            self._metrics.flush()

    def rewind(self, step: int) -> None:
        """Drop the lines after a step, and a line that was cut short: they will be written again."""
        path = self.folder / "metrics.jsonl"
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                event = json.loads(line)
            except ValueError:
                break
            if event["step"] <= step:
                kept.append(line + "\n")
        self.write("metrics.jsonl", "".join(kept))

    # ---- checkpoints ----

    def save(self, step: int, manifest: Mapping[str, Any], write: Callable[[Path], None], keep: int) -> None:
        """Write a checkpoint beside the others; it appears by one rename, then the oldest go."""
        final, staging = self.checkpoints / f"step-{step:08d}", self.checkpoints / f".step-{step:08d}"
        with telling(self.folder):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            write(staging)
            files = {path.name: describe(path) for path in sorted(staging.iterdir())}
            body = json.dumps({**manifest, "step": step, "files": files}, indent=1)
            (staging / MANIFEST).write_text(body)
            for path in staging.iterdir():
                sync(path)
            sync(staging)
            if final.exists():
                shutil.rmtree(final)
            staging.rename(final)
            sync(self.checkpoints)
            for old in sorted(self.checkpoints.glob("step-*"))[:-keep]:
                shutil.rmtree(old)

    def newest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint; a damaged one is passed over and named. None where there is none at all."""
        folders = sorted(self.checkpoints.glob("step-*"), reverse=True)
        complaints = []
        for folder in folders:
            try:
                checkpoint = verify(folder)
            except CheckpointError as error:
                complaints.append(str(error))
                say(f"passed over a damaged checkpoint: {error}")
                continue
            return checkpoint
        if complaints:
            raise CheckpointError(f"every checkpoint in {self.checkpoints} is damaged; {complaints[0]} "
                                  "Delete the folder, or use --output-dir, to start afresh.")
        return None

    def publish(self, write: Callable[[Path], None], name: str = "model") -> None:
        """Write model/, or another network's folder, beside the run; then let it appear by one rename."""
        with telling(self.folder):
            final, staging = self.folder / name, self.folder / f".{name}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            write(staging)
            umask = os.umask(0)
            os.umask(umask)
            for path in staging.rglob("*"):  # safetensors writes files that nobody else may read
                path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
                sync(path)
            if final.exists():
                shutil.rmtree(final)
            staging.rename(final)
            sync(self.folder)

    def close(self) -> None:
        """Close metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def verify(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest and compare every file with it; CheckpointError names the first that differs."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files, _, _ = manifest["files"], manifest["step"], manifest["state"]
    except OSError as error:
        raise CheckpointError(f"{folder}: {MANIFEST} is missing.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} is damaged.") from error
    for name, said in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing.")
        if path.stat().st_size != said["size"]:
            raise CheckpointError(f"{folder}: {name} has {path.stat().st_size:,} bytes, not {said['size']:,}.")
        if describe(path) != said:
            raise CheckpointError(f"{folder}: {name} has changed since it was written.")
    return Checkpoint(folder, manifest)


def describe(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(path: Path, text: str) -> None:
    """Write a file in one step: it is the old one or the new one, never half of it."""
    with telling(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}")
        staging.write_text(text, encoding="utf-8")
        staging.rename(path)


@contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Turn what the file system says into PlaceError."""
    try:
        yield
    except OSError as error:
        reason = "No space left on device" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise PlaceError(f"{error.filename or folder}: {reason}. What was saved before is whole.") from error
