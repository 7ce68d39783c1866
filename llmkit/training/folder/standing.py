"""What stands in a folder before a run takes it: an earlier run's files, or somebody's that it would write over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from llmkit import recipe as recipes
from llmkit.figures.markup import GENERATOR
from llmkit.figures.paper import SIGN
from llmkit.models import layout
from llmkit.system.errors import LlmkitError, PlaceError
from llmkit.system.machine import in_the_way

PICTURES = (layout.CURVES, layout.CURVES_DARK, layout.REPORT)
FILES = (layout.RECIPE, layout.METRICS, layout.SUMMARY, layout.CARD, layout.BAD_ROWS, layout.TRACKERS, layout.STATUS,
         *PICTURES, layout.SAMPLES)
FOLDERS = (layout.MODEL, layout.BEFORE, layout.CHECKPOINTS, layout.BASE)
EARLY = (layout.BAD_ROWS, layout.TRACKERS, layout.BASE, layout.SAMPLES)
"""What a run leaves before its first step, beside its recipe: it may have been killed then."""


def ours(folder: Path) -> bool:
    """Whether a run of llmkit was in a folder: by its lock, or by what only a run writes."""
    return _begun(folder) or _ran(folder)


def check_place(folder: Path) -> None:
    """PlaceError where a file, or a link that leads to no folder, stands where a run's folder is to be."""
    if (found := in_the_way(folder)) is not None:
        path, why = found
        raise PlaceError(f"{path}: {why}, and a folder is needed. Choose another --output-dir, or move it away.")


def check(folder: Path) -> None:
    """PlaceError where a run would write over what no run wrote, with its names; all other files are left alone."""
    odd = [folder / name for name in FILES if (folder / name).exists() and not (folder / name).is_file()]
    pipe = next((path for path in odd if not path.is_dir()), None)  # to open one waits for ever
    if pipe is not None or _ran(folder):
        for path in [pipe] if pipe is not None else odd:
            raise PlaceError(f"{path}: is no file, and a run's {path.name} is one; remove it, or choose another "
                             "--output-dir.")
        return
    begun = _begun(folder)
    names = [name for name in (*FILES, *FOLDERS) if not _free(folder / name, begun)]
    lock = folder / layout.LOCK
    if not begun and os.path.lexists(lock) and not (lock.is_file() and not lock.stat().st_size):
        names.append(layout.LOCK)
    if not begun:
        names += [f".{name}" for name in (*FILES, layout.MODEL) if not _free(folder / f".{name}", begun)]
    refuse(folder, names)


def check_card(folder: Path) -> None:
    """PlaceError where the model card would take the place of a text that no run wrote, though a run was there."""
    card = folder / layout.CARD
    if card.is_file() and card.stat().st_size and "tags: [llmkit]" not in card.read_text(errors="replace")[:2000]:
        refuse(folder, [layout.CARD])


def check_pictures(folder: Path) -> None:
    """PlaceError where pictures of a run would take the place of files that no run wrote, though a run was there."""
    refuse(folder, [name for name in PICTURES if (folder / name).is_file() and not is_drawn(folder / name)])


def is_drawn(path: Path) -> bool:
    """Whether a picture or a page is one that llmkit made, by what stands in its head; or is empty."""
    with path.open("rb") as file:
        head = file.read(4096)
    return not head or GENERATOR.encode() in head or (head.startswith(b"\x89PNG") and SIGN.encode() in head)


def check_others(folder: Path, names: Iterable[str]) -> None:
    """PlaceError where a run that is the first one here would write over folders of these names."""
    refuse(folder, [name for name in names if not _free(folder / name, begun=False)])


def refuse(folder: Path, names: list[str]) -> None:
    """Raise PlaceError where there are such names."""
    if names:
        which = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} there"
        raise PlaceError(f"{folder}: {which}, and no run of llmkit wrote {'it' if len(names) == 1 else 'them'}; this "
                         "run would write over that. Choose another --output-dir, or move it away.")


def _begun(folder: Path) -> bool:
    """Whether a run had the folder: its lock is there, and says who has it, or nothing."""
    lock = folder / layout.LOCK
    try:
        said = lock.read_bytes()[:4096] if lock.is_file() else None
    except OSError:
        return False
    if said is None:
        return False
    return not said or said.startswith(b"process ")


def _ran(folder: Path) -> bool:
    """Whether a run left events, a summary or a checkpoint."""
    events, summary = _first(folder / layout.METRICS), _whole(folder / layout.SUMMARY)
    return ({"event", "step"} <= events.keys() or {"status", "steps"} <= summary.keys()
            or any((folder / layout.CHECKPOINTS).glob(f"step-*/{layout.MANIFEST}")))


def _free(path: Path, begun: bool) -> bool:
    """Whether nothing is lost where a run writes: nothing is there, or nothing in it, or what a run left there early.

    A file where a folder has to be is told when the folder is taken.
    """
    if not os.path.lexists(path):
        return True
    if path.is_dir():
        if path.name == layout.CHECKPOINTS:  # other names in it are left alone
            return not any(layout.CHECKPOINT.fullmatch(each.name) for each in path.iterdir() if each.is_dir())
        return (begun and path.name in EARLY) or not any(path.iterdir())
    if path.name in FOLDERS or not path.is_file():
        return True
    if path.name == layout.STATUS and {"status", "message", "process", "host"} <= _whole(path).keys():
        return True
    return path.stat().st_size == 0 or (begun and (path.name in EARLY or _is_dumped(path)))


def _is_dumped(path: Path) -> bool:
    """Whether a recipe is one that a run wrote: every default is in it, and no comment."""
    if path.name != layout.RECIPE:
        return False
    try:
        return recipes.dump(recipes.load(path)) == path.read_text(encoding="utf-8")
    except (LlmkitError, OSError, ValueError):
        return False


def _first(path: Path) -> dict[str, object]:
    """The object on a file's first line; empty where there is none, or no file."""
    if not path.is_file():  # a pipe is waited for without end
        return {}
    try:
        with path.open("rb") as file:
            found = json.loads(file.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(path: Path) -> dict[str, object]:
    """The object that a file holds; empty where it holds none, or is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
