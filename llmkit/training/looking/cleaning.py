"""What may be deleted of runs: checkpoints of those that are complete, and what a killed one left half."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmkit.models import layout
from llmkit.models.files import read_json
from llmkit.models.run import Run, is_run, looked_into
from llmkit.system.errors import CheckpointError
from llmkit.training.folder.holding import held, telling

log = logging.getLogger("llmkit")

HALF = re.compile(rf"\.(?:was-)?(?:{layout.MODEL}|{re.escape(layout.BEFORE)}|step-\d{{8,}})(?:\.[0-9a-f]{{8}})?")
"""What a folder is called that a run was making, or putting away, when it was killed."""
SHOWN = 3  # names of somebody else's files


@dataclass(frozen=True)
class Waste:
    """Something that may go."""

    run: Path
    path: Path
    why: str
    size: int
    """Bytes."""


def runs_under(folder: Path) -> Iterator[Run]:
    """Every run in a folder and below it, in the order of their names; RequestError where there is no such folder."""
    looked_into(folder)
    yield from _under(folder)


def _under(folder: Path) -> Iterator[Run]:
    try:
        own, inner = is_run(folder), sorted(folder.iterdir())
        below = [path for path in inner if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]
    except PermissionError as error:  # somebody else's, who keeps it closed
        log.warning("%s: is left out: %s", folder, error.strerror)
        return
    if own:
        yield Run(folder)
        return
    for path in below:
        yield from _under(path)


def waste(run: Run, ours: bool = False) -> Iterator[Waste]:
    """What may be deleted of a run, as long as no process has it: files that llmkit wrote, and of which none is needed.

    Checkpoints of a run that isn't complete stay: it goes on from them. `ours`: it is this process that has it.
    """
    if run.held and not ours:
        return
    if run.completed:
        for name in run.checkpoints:
            path = run.folder / layout.CHECKPOINTS / name
            if (own := own_files(path)) is not None:
                yield found(run, path, "a checkpoint of a run that is complete; without it the run can't go on to a "
                                       "greater length", own)
        before = run.folder / layout.BEFORE
        if before.is_dir() and not before.is_symlink():
            yield found(run, before, "the model from before the run went on; the new one is there")
    for place in (run.folder, run.folder / layout.CHECKPOINTS):
        for path in sorted(place.iterdir()) if place.is_dir() and not place.is_symlink() else ():
            if is_half(path):
                yield found(run, path, "half of something, from a run that was killed")


def is_half(path: Path) -> bool:
    """Whether a folder is what a killed run was making; one that is all there is of its name is put back by the run."""
    if not HALF.fullmatch(path.name) or not path.is_dir() or path.is_symlink():
        return False
    return not path.name.startswith(".was-") or path.with_name(path.name.removeprefix(".was-")).exists()


def own_files(checkpoint: Path) -> list[Path] | None:
    """The files of a checkpoint that its manifest names, the manifest first; None where it has none that can be read.

    One that is missing isn't among them, nor a folder of such a name.
    """
    if checkpoint.is_symlink() or checkpoint.parent.is_symlink():
        return None
    try:
        named = read_json(checkpoint / layout.MANIFEST)["files"]
        own = [checkpoint / name for name in dict.fromkeys([layout.MANIFEST, *(Path(name).name for name in named)])]
    except (CheckpointError, KeyError, TypeError):
        return None
    return [path for path in own if path.is_file() or path.is_symlink()]


def found(run: Run, path: Path, why: str, own: Iterable[Path] | None = None) -> Waste:
    """With its size: that of its own files, where others may be beside them."""
    return Waste(run.folder, path, why, sum(one.stat().st_size for one in (path.rglob("*") if own is None else own)
                                            if one.is_file() and not one.is_symlink()))


def sweep(run: Run) -> tuple[list[Waste], list[str]]:
    """Delete what may go of a run, while its folder is held; (what went, folders that stay with what isn't llmkit's).

    PlaceError where it can't be written.
    """
    gone, stayed = [], []
    with held(run.folder):  # a run that begins meanwhile is told that the folder is in use
        for one in list(waste(run, ours=True)):
            with telling(run.folder):
                if others := beside(one.path):
                    stayed.append(f"{one.path}: the checkpoint's own files are deleted, and its folder stays: llmkit "
                                  f"didn't write {others}")
                delete(one.path)
                gone.append(one)
    return gone, stayed


def foreseen(run: Run) -> Iterator[str]:
    """What `sweep` will say of folders that stay, in advance."""
    for one in waste(run):
        if others := beside(one.path):
            yield f"{one.path}: its folder would stay: llmkit didn't write {others}"


def beside(path: Path) -> str:
    """What is in a checkpoint's folder beside its own files: "a.txt, b.txt, c.txt and 2 more"; "" where nothing is."""
    own = own_files(path) if is_checkpoint(path) else None
    others = [] if own is None else sorted(one.name for one in path.iterdir() if one not in own)
    more = f" and {len(others) - SHOWN:,} more" if len(others) > SHOWN else ""
    return f"{', '.join(others[:SHOWN])}{more}"


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is called as a checkpoint, and where one is."""
    return path.parent.name == layout.CHECKPOINTS and layout.CHECKPOINT.fullmatch(path.name) is not None


def delete(path: Path) -> None:
    """Delete a folder; of a checkpoint only what its manifest names, and the folder where nothing else is in it."""
    if not is_checkpoint(path):
        shutil.rmtree(path)
        return
    for file in (own_files(path) or [])[::-1]:  # the manifest goes last: without it the rest is no checkpoint any more
        file.unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()
