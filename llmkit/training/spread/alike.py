"""Whether the processes of a launch do the same thing: versions, recipe, data, and one folder that all of them see."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from llmkit import recipe as recipes
from llmkit.data.sources import Reader
from llmkit.recipe import Recipe
from llmkit.system.errors import DataError, PlaceError, RequestError
from llmkit.training.folder.belonging import versions
from llmkit.training.folder.run_folder import RunFolder
from llmkit.training.spread.meeting import Meeting, first, meet, where

SEEN = 30.0
"""Seconds until a shared disk shows on one machine what another wrote: NFS remembers what isn't there for so long."""
MOST = 3
"""Differences that are named; where two machines have other recipes, these say enough."""
PLACES = ("name", "output_dir")
"""Fields of a recipe that say where its run is: whether that is one place is looked at, not compared."""


@contextmanager
def met(request: Recipe, resume: str) -> Iterator[Meeting]:
    """The meeting of this run's processes, once all are known to do the same thing; see `meet` and `check_alike`."""
    with meet(request.training.ddp_timeout) as meeting:
        check_alike(meeting, request, resume)
        yield meeting


def check_alike(meeting: Meeting, request: Recipe, resume: str) -> None:
    """End all processes where one has other libraries, another recipe or another `--resume` than the first one."""
    mine = {"host": socket.gethostname(), "recipe": {**flat(recipes.tree_of(request)), "--resume": resume},
            "versions": {**versions(), "Python": platform.python_version()}}
    meeting.decide("alike", mine, judge_alike)


def judge_alike(every: Sequence[dict[str, Any]]) -> None:
    """PlaceError for other versions, RequestError for another recipe, of the first process that differs."""
    for rank, said in enumerate(every):
        if differ := differences(said["versions"], every[0]["versions"]):
            raise PlaceError(f"{where(every, rank)} has {in_words(differ, every)}. All machines need the same "
                             "versions: install the same environment on each, or start all from one shared folder.")
        if differ := differences(said["recipe"], every[0]["recipe"]):
            raise RequestError(f"{where(every, rank)} was asked for {in_words(differ, every)}. Start all with the same "
                               "recipe and the same options.")


def check_settled(meeting: Meeting, recipe: Recipe, besides: Sequence[str]) -> None:
    """End all processes where an `auto` became something else on one of them than on the first.

    besides   fields of `training` that are agreed on otherwise: micro_batch_size
    """
    left = {f"training.{name}" for name in besides}
    mine = {name: value for name, value in flat(recipes.tree_of(recipe)).items() if name not in left}
    meeting.decide("settled", {"host": socket.gethostname(), "recipe": mine}, judge_settled)


def judge_settled(every: Sequence[dict[str, Any]]) -> None:
    """RequestError that names the field and its values."""
    for rank, said in enumerate(every):
        if differ := differences(said["recipe"], every[0]["recipe"]):
            raise RequestError(f"on {where(every, rank)}, what the recipe leaves open became "
                               f"{in_words(differ, every)}: their devices or packages differ. Write the value "
                               "into the recipe.")


def check_data(meeting: Meeting, readers: Sequence[Reader]) -> None:
    """DataError for all processes where one reads other data than the first one.

    The content is noted here, before a row is read: a file that is another one at the end isn't what was read.
    """
    mine = {"host": socket.gethostname(), "data": {reader.label: reader.content() for reader in readers}}
    meeting.decide("data", mine, judge_data)


def judge_data(every: Sequence[dict[str, Any]]) -> None:
    """DataError that names the source."""
    for rank, said in enumerate(every):
        if differ := differences(said["data"], every[0]["data"]):
            raise DataError(f"{', '.join([*differ][:MOST])}: {where(every, rank)} reads something else there than "
                            f"{where(every, 0)}. All machines need the same files: name a folder that all of them see, "
                            "or copy the files anew.")


def check_folder(meeting: Meeting, run: RunFolder) -> None:
    """PlaceError for all processes where one doesn't see the folder that the first one has taken, and all read.

    The first writes into its lock what no other run has; the others look for that.
    """
    if meeting.store is None:
        return
    token = meeting.decide("folder", run.token, first)
    mine = {"host": socket.gethostname(), "folder": str(run.folder.absolute()), "sees": sees(run, token)}
    meeting.decide("seen", mine, judge_seen)


def sees(run: RunFolder, token: str | None, patience: float = SEEN) -> bool:
    """Whether this process finds what the first one wrote; a shared disk has some time to show it."""
    deadline = time.monotonic() + patience
    while not run.shows(token):
        if time.monotonic() > deadline:
            return False
        for folder in (run.folder.parent, run.folder):  # to list a folder makes NFS look again
            if folder.is_dir():
                os.listdir(folder)
        time.sleep(0.2)
    return True


def judge_seen(every: Sequence[dict[str, Any]]) -> None:
    """PlaceError that names the machine that doesn't see it, and says what to do."""
    for rank, said in enumerate(every):
        if not said["sees"]:
            raise PlaceError(
                f"{said['folder']} of {where(every, rank)} isn't the folder {every[0]['folder']} that "
                f"{where(every, 0)} writes to: checkpoints would be missing there. Name a folder on a disk that "
                "all machines share (--output-dir).")


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """{"training": {"seed": 1}} -> {"training.seed": 1}, without the places."""
    if isinstance(tree, Mapping):
        return {name: value for key, below in tree.items() if path or key not in PLACES
                for name, value in flat(below, f"{path}.{key}").items()}
    return {path[1:]: tree}


def differences(ours: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """(here, in the first process) by name, of what differs."""
    return {name: (ours.get(name), first.get(name)) for name in {**first, **ours} if ours.get(name) != first.get(name)}


def in_words(differ: Mapping[str, tuple[Any, Any]], every: Sequence[dict[str, Any]]) -> str:
    """`torch 2.12, where process 0 on node0 has 2.13`"""
    named = [f"{name} {ours}, where {where(every, 0)} has {first}" for name, (ours, first) in differ.items()]
    more = len(named) - MOST
    return "; ".join(named[:MOST]) + (f"; and {more} more" if more > 0 else "")
