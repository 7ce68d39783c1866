"""Folders as `datasets` lays them out: saved by save_to_disk, or files that are called by their split."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmkit.data.files import state_of, unreadable
from llmkit.system.addresses import at_home
from llmkit.system.errors import DataError, RequestError

FILE = re.compile(r"(?P<split>[A-Za-z]\w*?)(?:-\d{5}-of-\d{5})?\.(?P<kind>parquet|jsonl|json|csv)")
"""train-00000-of-00002.parquet, dev.json"""
KINDS = {"parquet": "parquet", "jsonl": "json", "json": "json", "csv": "csv"}
SPLITS = ("train", "validation", "dev", "val", "valid", "test")
ALIKE = {"validation": ("dev", "val", "valid"), "dev": ("validation",)}
"""What else a split is called."""
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"


def parted(label: str) -> tuple[str, str | None]:
    """A path and the split that stands behind it: ("glue/sst2", "validation") of "glue/sst2:validation"."""
    path, colon, split = label.rpartition(":")
    try:
        there = colon and re.fullmatch(r"\w+", split) and not at_home(label).exists()
        return (path, split) if there and at_home(path).is_dir() else (label, None)
    except (OSError, RuntimeError, ValueError):  # no path at all, as whoever opens it says
        return label, None


def splits_of(folder: Path) -> dict[str, list[Path]]:
    """The splits that a folder has, and the folder or files of each; none where it isn't of such a layout."""
    if (folder / SAVED_SPLITS).is_file():
        try:
            names = json.loads((folder / SAVED_SPLITS).read_text(encoding="utf-8"))["splits"]
            return {str(name): [folder / str(name)] for name in names}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{folder / SAVED_SPLITS}: can't be read: {error}.") from error
    if (folder / SAVED).is_file():
        return {"train": [folder]}
    for place in (folder, folder / "data"):
        found: dict[str, list[Path]] = {}
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            match = FILE.fullmatch(path.name)
            if match and path.is_file() and match["split"].lower().split("_")[0] in SPLITS:
                found.setdefault(match["split"], []).append(path)
        if found:
            return found
    return {}


def load(folder: Path, split: str, label: str) -> tuple[Any, dict[Path, tuple[int, ...]]]:
    """(a split of a folder as a `datasets.Dataset`, its files as they were before: `state_of`); no code of it is run.

    RequestError for a split that it hasn't, DataError where it can't be read.
    """
    splits = splits_of(folder)
    name = next((name for name in (split, *ALIKE.get(split, ())) if name in splits), None)
    if name is None:
        raise RequestError(f"{label}: has no split {split!r}, only {', '.join(splits)}; write {folder}:<split>.")
    places = splits[name]
    import datasets

    bars = datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        if places[0].is_dir():
            states = _states(sorted(places[0].glob("*.arrow")))
            return datasets.load_from_disk(str(places[0])), states
        kinds = {KINDS[path.suffix[1:]] for path in places}
        if len(kinds) > 1:
            raise DataError(f"{label}: the split {name} has files of several kinds: {', '.join(sorted(kinds))}.")
        states = _states(places)
        made = datasets.load_dataset(kinds.pop(), data_files={name: list(map(str, places))}, split=name)
        return made, states
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{places[0]}: the split {name} can't be read: {reason}") from error
    finally:
        if not bars:
            datasets.utils.enable_progress_bars()


def _states(files: Sequence[Path]) -> dict[Path, tuple[int, ...]]:
    """What tells whether files change from here on."""
    states = {}
    for path in files:
        try:
            states[path] = state_of(path.stat())
        except OSError as error:
            raise unreadable(path, error) from error
    return states
