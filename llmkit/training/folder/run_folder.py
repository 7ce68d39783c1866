"""What a run leaves on disk, and how to pick it up again: whole or absent, never half."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmkit import recipe as recipes
from llmkit.models import layout
from llmkit.models.layout import CHECKPOINT, HELD, MANIFEST
from llmkit.models.run import Run
from llmkit.recipe import Recipe
from llmkit.system.cache import sync, usual_mask
from llmkit.system.errors import CheckpointError, PlaceError, RequestError
from llmkit.system.locks import this_process
from llmkit.training.folder import standing
from llmkit.training.folder.holding import Hold, held
from llmkit.training.folder.holding import telling as telling

log = logging.getLogger("llmkit")

STAGING = f".*.{'[0-9a-f]' * 8}"
"""What a folder is called while a run makes it: `.model.0f3a…`, by a name that only this run has."""

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

    def file(self, name: str) -> Path | None:
        """A file of it, or None where it has none of that name: what the manifest doesn't name isn't read."""
        return self.folder / name if name in self.manifest["files"] else None


class RunFolder:
    """The folder of one run. Only the main process writes; the others read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / layout.CHECKPOINTS
        self.model = folder / layout.MODEL
        self.first = True
        """Whether no run was in the folder before this one took it."""
        self.begun = False
        """Whether this run writes into it: its recipe stands there."""
        self._metrics: IO[str] | None = None
        self._holding: Hold | None = None

    # ---- taking the folder ----

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; PlaceError where another run does, and where it can't be written, or holds others' files."""
        with telling(self.folder):
            standing.check_place(self.folder)
            standing.check(self.folder)
            self.first = not standing.ours(self.folder)
            if self.checkpoints.is_symlink() and not self.checkpoints.exists():
                there = os.readlink(self.checkpoints)
                raise PlaceError(f"{self.checkpoints}: is a link to {there}, which isn't there; make that folder, or "
                                 "remove the link.")
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        with held(self.folder) as self._holding:
            try:
                with telling(self.folder):
                    self._tidy()
                yield
            finally:
                self.close()
                self._holding = None

    def check(self) -> None:
        """PlaceError where this run has locked the folder, and it isn't this run's any more."""
        if self._holding is not None:
            self._holding.check()

    @property
    def token(self) -> str | None:
        """What stands in the lock of this run, and in no other's; None where this process doesn't hold the folder."""
        return None if self._holding is None else self._holding.token

    def shows(self, token: str | None) -> bool:
        """Whether the folder's lock, as this process sees it, is the one of the run with a token."""
        if self._holding is not None:  # to open and close its file would let go of it
            return self._holding.token == token
        try:
            return token is not None and token in (self.folder / layout.LOCK).read_text(errors="replace").split()
        except OSError:
            return False

    def free(self, others: Iterable[str], draws: bool = False) -> None:
        """PlaceError where the model card, another network's folder, or a picture where the run `draws`, would take the
        place of what no run wrote.
        """
        standing.check_card(self.folder)
        if draws:
            standing.check_pictures(self.folder)
        if self.first:
            standing.check_others(self.folder, others)

    @contextmanager
    def _writing(self, final: Path) -> Iterator[Path]:
        """The folder in which another one is made, under a name of this run's own; it is gone where that fails."""
        self.check()
        own = "" if self._holding is None else f".{self._holding.token[:8]}"
        staging = final.with_name(f".{final.name}{own}")
        try:
            with telling(self.folder), dropped_on_error(staging):
                remove(staging)
                staging.mkdir(parents=True)
                yield staging
        except PlaceError:
            self.check()  # that there is nothing to write to may mean that the folder was taken away
            raise

    def _tidy(self) -> None:
        """Remove what a dead run left half; PlaceError where a file is in the way of what this run will write."""
        for folder in (self.model, *(path for path in self.checkpoints.iterdir() if CHECKPOINT.fullmatch(path.name))):
            if folder.exists() and not folder.is_dir():
                raise PlaceError(f"{folder}: is a file, and in the way of this run's folder; move it away.")
        if self.first:
            return  # what is called like something half is somebody's
        for left in [*self.checkpoints.glob(".was-step-*"), *self.folder.glob(".was-*")]:
            final = left.with_name(left.name.removeprefix(".was-"))  # killed between the two renames of `replace`
            if not final.exists():
                left.rename(final)
        halves = (f".{layout.MODEL}", f".{layout.BEFORE}", ".was-*", ".clock-*")
        for left in [*self.checkpoints.glob(".was-step-*"), *self.checkpoints.glob(".step-*"),
                     *(path for half in halves for path in self.folder.glob(half)), *self.folder.glob(STAGING),
                     *(mark for mark in self.folder.glob(f"{HELD}*") if mark.name != f"{HELD}{this_process()}")]:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
        if Run(self.folder).completed:  # killed after it had said so
            self.drop_before()

    def room(self, size: int, model: int, saves: int | None, keep: int) -> None:
        """PlaceError where the disk can't hold what a run will save.

        size    bytes of a checkpoint
        model   bytes of model/
        saves   checkpoints still to be written; None where nobody knows
        keep    how many stay; for a moment there is one more
        """
        there = len(self._saved())
        more = max(0, keep + 1 - there) if saves is None else min(saves, max(0, keep + 1 - there))
        saved = f"{more} checkpoints of {size / 1e6:,.1f} MB"
        last = f"a model of {model / 1e6:,.1f} MB"
        disks: dict[int, list[tuple[Path, int, str]]] = {}
        for path, needs, what in ((self.checkpoints, more * size, saved), (self.folder / layout.MODEL, model, last)):
            place = path.resolve() if path.exists() else self.folder.resolve()  # a link may lead to another disk
            disks.setdefault(place.stat().st_dev, []).append((place, needs, what))
        for parts in disks.values():
            needed, free = sum(needs for _, needs, _ in parts), shutil.disk_usage(parts[0][0]).free
            if free < needed:
                where = self.folder if len(disks) == 1 else parts[0][0]
                raise PlaceError(
                    f"{where}: {free / 1e6:,.1f} MB are free, and this run needs {needed / 1e6:,.1f} MB: "
                    f"{' and '.join(what for _, _, what in parts)}. Make room, choose another --output-dir, or lower "
                    "training.save_total_limit.")

    def started(self) -> bool:
        """Whether a run left something here that is worth keeping."""
        metrics = self.folder / layout.METRICS
        return (layout.model_in(self.folder).exists() or bool(self._saved())
                or (metrics.exists() and metrics.stat().st_size > 0))

    def compare(self, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
        """Where a recipe differs from this folder's: (ours, there) by field. CheckpointError if that can't be read."""
        try:
            there = recipes.load(self.folder / layout.RECIPE)
        except RequestError as error:
            raise CheckpointError(f"{self.folder / layout.RECIPE} can't be read: {error}") from error
        ours, theirs = recipes.with_optimizer(recipe)[0], recipes.with_optimizer(there, "adamw")[0]
        return recipes.differences(ours, theirs)

    def write_recipe(self, recipe: Recipe) -> None:
        """Leave the resolved recipe. From here on the folder is this run's, and what an earlier one ended with goes."""
        self.write(layout.RECIPE, recipes.dump(recipe))
        if not self.begun:
            (self.folder / layout.STATUS).unlink(missing_ok=True)
        self.begun = True

    def write(self, name: str, text: str) -> None:
        """Replace a file in one step."""
        self.check()
        put(self.folder / name, text)

    # ---- metrics ----

    def log(self, event: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl, on disk before this returns to the loop."""
        self.check()
        with telling(self.folder):
            if self._metrics is None:
                self._metrics = (self.folder / layout.METRICS).open("a")
            self._metrics.write(json.dumps(event) + "\n")
            self._metrics.flush()

    def show(self, event: Mapping[str, Any]) -> None:
        """Add a line to samples.jsonl."""
        self.check()
        place = self.folder / layout.SAMPLES
        with telling(self.folder), place.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")

    def rewind(self, step: int, due: bool = False) -> None:
        """Drop the lines after a step, and a line that was cut short: they will be written again.

        So will the evaluation of the step itself, where it is `due`: an earlier run that went on had made it.
        """
        self._rewind(layout.METRICS, step, due)
        if (self.folder / layout.SAMPLES).exists():
            self._rewind(layout.SAMPLES, step, due)

    def _rewind(self, name: str, step: int, due: bool) -> None:
        path = self.folder / name
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
            try:
                said = json.loads(line)
                again = due and said["step"] == step and said.get("event", "evaluate") == "evaluate"
                if said["step"] <= step and not again:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                break
        self.write(name, "".join(kept))

    # ---- checkpoints ----

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after a step, whether it is there or not."""
        return self.checkpoints / f"step-{step:08d}"

    def save(self, step: int, manifest: Mapping[str, Any], write: Callable[[Path], None], keep: int) -> None:
        """Write a checkpoint beside the others; it appears by one rename, then the oldest go.

        So do those after it, which this run passed over: they were damaged, or of a number of steps that was undone.
        """
        final, token = self.checkpoint(step), self.token
        with self._writing(final) as staging:
            if self._metrics is not None:
                os.fsync(self._metrics.fileno())  # the lines up to here will not be written again
            write(staging)
            files = {path.name: describe(path) for path in sorted(staging.iterdir())}
            (staging / MANIFEST).write_text(sealed({**manifest, "step": step, "files": files}))
            open_to_all(staging)
            for path in staging.iterdir():
                sync(path)
            sync(staging)
            self.check()
            if self.token != token:  # a thread that was too slow
                raise PlaceError(f"{self.folder}: this run has left it, and writes nothing more.")
            replace(staging, final)
            saved = self._saved()
            if final not in saved:
                self.check()
                raise PlaceError(f"{final}: went while it was written; this run writes nothing more.")
            place = saved.index(final)
            for old in saved[: max(0, place + 1 - keep)] + saved[place + 1 :]:
                discard(old)

    def _saved(self) -> list[Path]:
        """All checkpoints, the oldest first, be they whole or not."""
        found = [path for path in self.checkpoints.glob("step-*") if CHECKPOINT.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def newest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint; a damaged one is passed over and named. None where there is none at all."""
        complaints = []
        for folder in reversed(self._saved()):
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

    def publish(self, write: Callable[[Path], None], name: str = layout.MODEL) -> None:
        """Write model/, or another network's folder, beside the run; then let it appear by one rename."""
        final = self.folder / name
        with self._writing(final) as staging:
            write(staging)
            open_to_all(staging)
            for path in staging.rglob("*"):
                sync(path)
            sync(staging)
            self.check()
            replace(staging, final)

    def set_aside(self) -> None:
        """Let model/ stand as model.before/ while the run goes on; what there is of that name goes."""
        self.check()
        if self.model.is_dir():
            with telling(self.folder):
                replace(self.model, self.folder / layout.BEFORE)

    def drop_before(self) -> None:
        """Remove model.before/: the new model/ is there."""
        self.check()
        if (self.folder / layout.BEFORE).exists():
            discard(self.folder / layout.BEFORE)

    def close(self) -> None:
        """Close metrics.jsonl."""
        if self._metrics is not None:
            with suppress(OSError):  # a line that the disk had no room for: that was told
                self._metrics.close()
            self._metrics = None


def verify(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest and compare every file with it; CheckpointError names the first that differs."""
    if (folder / MANIFEST).exists() and not (folder / MANIFEST).is_file():  # to open a pipe waits for ever
        raise CheckpointError(f"{folder}: {MANIFEST} is no file.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files, _, _ = manifest["files"], manifest["step"], manifest["state"]
        whole = seal(manifest) == manifest["sha256"]
    except OSError as error:
        raise CheckpointError(f"{folder}: {MANIFEST} is missing.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} is damaged.") from error
    if not whole:
        raise CheckpointError(f"{folder}: {MANIFEST} has changed since it was written.")
    if not _sensible(manifest):  # sealed all the same: somebody made it
        raise CheckpointError(f"{folder}: {MANIFEST} isn't one that llmkit writes.")
    for name, said in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing.")
        if path.stat().st_size != said["size"]:
            raise CheckpointError(f"{folder}: {name} has {path.stat().st_size:,} bytes, not {said['size']:,}.")
        if describe(path) != said:
            raise CheckpointError(f"{folder}: {name} has changed since it was written.")
    return Checkpoint(folder, manifest)


def _sensible(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has the parts that one has, and names files of its own folder only."""
    files, kinds = manifest["files"], {"step": int, "files": dict, "state": dict, "data": dict, "processes": int}
    newer = ("recipe", "versions", "base", "tokenizer", "rounding")  # older versions didn't note them
    return all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()) and all(
        isinstance(manifest.get(name, {}), dict) for name in newer) and all(
        Path(name).name == name and isinstance(said, dict) and isinstance(said.get("size"), int)
        for name, said in files.items())


def open_to_all(folder: Path) -> None:
    """Let all who may read other files of this user read what is below a folder: safetensors lets nobody else."""
    umask = usual_mask()
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def describe(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a manifest without its own."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sealed(manifest: Mapping[str, Any]) -> str:
    """A manifest's text, with its own hash."""
    plain = json.loads(json.dumps(manifest))
    return json.dumps({**plain, "sha256": seal(plain)}, indent=1)


def replace(staging: Path, final: Path) -> None:
    """Let a folder appear under its name; what was there goes after that, so that one of the two is always there.

    Killed between the two renames, the old one is `.was-NAME`: who takes the folder next puts it back.
    """
    was = final.with_name(f".was-{final.name}")
    if os.path.lexists(final):
        remove(was)
        if final.is_symlink():
            log.info("%s was a link to %s, which stays as it is; the new one stands in the run's folder", final,
                     os.readlink(final))
        final.rename(was)
    staging.rename(final)
    sync(final.parent)
    remove(was)


def remove(path: Path) -> None:
    """Remove a folder or a file, as far as that can be; of a link, the link alone: what it leads to is somebody's."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def discard(folder: Path) -> None:
    """Remove a folder that is seen whole or not at all; if that fails, it is in nobody's way."""
    gone = folder.with_name(f".{folder.name}")
    with suppress(OSError):
        folder.rename(gone)
    remove(gone)


@contextmanager
def dropped_on_error(staging: Path) -> Iterator[None]:
    """Remove a half-written folder when writing it fails: its room is needed."""
    try:
        yield
    except BaseException:
        remove(staging)
        raise


def put(path: Path, text: str) -> None:
    """Write a file in one step: it is the old one or the new one, never half of it."""
    with telling(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}")
        try:
            staging.unlink(missing_ok=True)  # a link there would lead into somebody's file
            with staging.open("x", encoding="utf-8") as file:
                file.write(text)
            sync(staging)
            staging.rename(path)
        except OSError:
            staging.unlink(missing_ok=True)
            raise
        sync(path.parent)
