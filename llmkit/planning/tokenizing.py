"""Text to a folder of tokens: shards that many processes and machines make, each whole or absent."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmkit.data import tokenizer as tokenizers
from llmkit.data.large import shards
from llmkit.data.large.folder import LAYOUT, PLAN, TOKENIZER, Making, plan_of
from llmkit.data.large.hashes import damaged
from llmkit.data.large.shards import CONTENT, Shard, name_of, shards_of
from llmkit.data.sources import Reader
from llmkit.data.tokens import Documents, TokenOrigin
from llmkit.objectives.base import Setup
from llmkit.planning.settle import Settled, settle
from llmkit.planning.vocabulary import options_of, speak
from llmkit.recipe import Recipe, registry
from llmkit.system import cache, machine
from llmkit.system.errors import DataError, PlaceError, RequestError
from llmkit.system.machine import existing
from llmkit.system.plural import many
from llmkit.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

Tell = Callable[[int, int, str, Mapping[str, Any], float], object]
"""Told of each shard that is made: (how many are done, of how many, its name, what it holds, seconds)."""


def tokenize(
    request: Recipe, out: str | Path, num_proc: int | Literal["auto"] = "auto", shard: tuple[int, int] = (1, 1),
    size: int | None = None, tell: Tell = lambda *of: None,
) -> dict[str, Any]:
    """Tokenize a recipe's training text into a folder, as a run of it would; make what isn't there, or is damaged.

    out        the folder; data.train: tokens:OUT learns from it
    num_proc   how many processes share the work on a shard
    shard      (i, n): every n-th shard, from the i-th on, for machines that share the work
    size       bytes of text in a shard, about; None: 256 MB, or what the folder was begun with
    tell       is told of each shard

    Returns {"out", "shards": in all, "made": now, "there": before, "missing": [names that are still to be made],
    "documents", "tokens", "bytes": of text, all of what was made now, "whole": {these three of all that is there},
    "seconds", "num_proc", "notes"}. RequestError for a task, and where the folder is another recipe's or has shards of
    another size; DataError where the text isn't what it was; PlaceError where the folder can't be written.
    """
    number, machines = shard
    if isinstance(request.learning, Task):
        raise RequestError(f"tokenize: {registry.name_of(request.learning)} is a task, whose rows are made by finetune "
                           "itself; an objective learns from text that is tokenized ahead.")
    folder = Path(out)
    check_out(folder, size)
    settled = settle(replace(request, data=replace(request.data, num_proc=num_proc)), of_any_size=True)
    if made := next((reader.label for reader in settled.train if isinstance(reader.origin, TokenOrigin)), None):
        raise RequestError(f"data.train: {made} is tokenized already; name the text.")
    tokenizer = speak(settled)
    asked = how_asked(settled, tokenizer)
    making = Making.asked(asked[0][0], tokenizer, asked[0][1], options_of(settled))
    readers, plain = [reader for reader, _ in asked], making.plain
    cuts = _plan(folder, readers, tokenizer, making, size or shards.SIZE)
    mine = [i for i in range(len(cuts)) if i % machines == number - 1]
    done, began = list[Mapping[str, Any]](), time.monotonic()
    _check_text(f"--out {folder}", readers, [cuts[i] for i in mine if (folder / name_of(i) / CONTENT).is_file()])
    _clear([folder / name_of(i) for i in mine])
    there = sum((folder / name_of(i) / CONTENT).is_file() for i in mine)
    for i in mine:
        place = folder / name_of(i)
        if (place / CONTENT).is_file() or cache.at_work(place):
            continue
        start = time.monotonic()
        content = shards.make(readers[cuts[i].source], cuts[i], place, tokenizer, plain)
        done.append(content)
        tell(there + len(done), len(mine), place.name, content, time.monotonic() - start)
    found = [json.loads(path.read_text()) for i in range(len(cuts))
             if (path := folder / name_of(i) / CONTENT).is_file()]
    missing = [name_of(i) for i in range(len(cuts)) if not (folder / name_of(i) / CONTENT).is_file()]
    if not missing and not any(content["tokens"] for content in found):
        raise DataError(f"data.train: {', '.join(reader.label for reader in readers)}: there is no text to learn from.")
    return {"out": str(folder), "shards": len(cuts), "made": len(done), "there": there, "missing": missing,
            **_totals(done), "whole": _totals(found),
            "seconds": time.monotonic() - began, "num_proc": max(reader.processes for reader in readers),
            "notes": [note for reader in readers for note in reader.notes]}


def _totals(contents: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What shards hold together."""
    return {name: sum(int(content[total]) for content in contents)
            for name, total in (("documents", "documents"), ("tokens", "tokens"), ("bytes", "text"))}


def _clear(places: Sequence[Path]) -> None:
    """Remove the shards that aren't what was written, so that they are made anew; that is said."""
    for place, why in damaged([place for place in places if place.is_dir()]).items():
        log.warning("%s: is damaged (%s); it is made anew", place, why)
        shutil.rmtree(place)


# ---- how an objective wants its text ----


class _Heard(Exception):
    """What a source was asked for."""

    def __init__(self, reader: Reader, plain: bool) -> None:
        super().__init__()
        self.reader, self.plain = reader, plain


class _Ear(TokenOrigin):
    """Hears what is asked of a source: which words and sentences are to be marked."""

    def tokenized(self, reader: Reader, tokenizer: PreTrainedTokenizerBase, plain: bool) -> Documents:
        """It has none."""
        raise _Heard(reader, plain)

    def fingerprint(self) -> str:
        """Nothing is kept of it."""
        return ""


def how_asked(settled: Settled, tokenizer: PreTrainedTokenizerBase) -> list[tuple[Reader, bool]]:
    """Each training source as the objective asks for it, and whether control tokens in it are text.

    RequestError where the objective reads its text in a way of its own.
    """
    data = settled.recipe.data
    setup = Setup(tokenizer, settled.family, data.max_length or 0, data.packing, settled.recipe.seed,
                  plain=data.control_tokens == "split")
    out = []
    for reader in settled.train:
        try:
            settled.recipe.learning.prepare([replace(reader, origin=_Ear())], None, setup)
        except _Heard as heard:
            heard.reader.origin = reader.origin
            out.append((heard.reader, heard.plain))
        else:
            raise RequestError(f"tokenize: {registry.name_of(settled.recipe.learning)} reads its text in a way of its "
                               "own; name the text in data.train.")
    return out


# ---- the folder ----


def check_out(folder: Path, size: int | None) -> None:
    """Before any text is read: PlaceError where nothing can be written there, or something else is there.

    DataError where what it says of its shards can't be read, RequestError where they are of another size than is asked.
    """
    if (found := machine.in_the_way(folder)) is not None:
        path, why = found
        raise PlaceError(f"--out {folder}: {'' if path == folder else f'{path} '}{why}; name a folder.")
    there = existing(folder)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise PlaceError(f"--out {folder}: {there} can't be written; choose another folder.")
    if not (folder / PLAN).is_file():
        if folder.is_dir() and any(not path.name.startswith((".", TOKENIZER)) for path in folder.iterdir()):
            raise PlaceError(f"--out {folder}: holds other files, and no {PLAN}; choose a new folder.")
        return
    begun = plan_of(folder, f"--out {folder}")["size"]
    if size is not None and size != begun:
        raise RequestError(f"--shard-megabytes {size / 2**20:g}: {folder} was begun with shards of "
                           f"{begun / 2**20:g} MB; leave it out to go on with them, or choose another --out.")


def _plan(
    folder: Path, readers: Sequence[Reader], tokenizer: PreTrainedTokenizerBase, making: Making, size: int,
) -> list[Shard]:
    """What the shards of a folder are: as it says, or where it says nothing yet, cut now.

    RequestError where the folder is of another recipe, DataError where its text has changed since.
    """
    if not (folder / PLAN).is_file():
        _begin(folder, readers, tokenizer, making, size)
    label = f"--out {folder}"
    plan = plan_of(folder, label)
    there = Making(**plan["making"])
    if there.tokenizer != making.tokenizer:
        raise RequestError(f"{label}: was begun with another tokenizer; choose another --out.")
    if why := there.differs(making):
        raise RequestError(f"{label}: was begun otherwise: {why}; choose another --out.")
    found = [Shard.of(shard) for shard in plan["shards"]]
    if len(readers) != len(plan["sources"]):
        raise DataError(f"{label}: was begun from {len(plan['sources'])} sources, and the recipe names {len(readers)}; "
                        "choose another --out.")
    for reader, source in zip(readers, plan["sources"], strict=True):
        sizes = [path.stat().st_size for path in reader.files]
        if sizes != source["bytes"] or _unlike(reader, source):
            raise DataError(f"{label}: was begun from another text than {reader.label} is now; choose another --out.")
        reader.notes += [note for note in source["notes"] if note not in reader.notes]
    return found


def _check_text(label: str, readers: Sequence[Reader], made: Sequence[Shard]) -> None:
    """DataError where a file isn't what it was when shards were made of it, be it of the same size."""
    for number, reader in enumerate(readers):
        pieces = [piece for shard in made if shard.source == number for piece in shard.pieces]
        if found := shards.changed_in(reader, pieces):
            raise DataError(f"{label}: was begun from another text than {reader.label} is now: {found} has changed "
                            "since. Choose another --out for what is there now, or put back what it was.")


def _unlike(reader: Reader, source: Mapping[str, Any]) -> bool:
    """Whether a source is read otherwise than one that shards are of."""
    return any(source[name] != value for name, value in _about(reader).items())


def _about(reader: Reader) -> dict[str, Any]:
    """What decides which documents a source has, its files aside."""
    return {"document": reader.document, "fields": dict(reader.source.fields), "encoding": reader.source.encoding,
            "on_bad_row": "skip" if reader.spares else "error",
            "origin": None if reader.origin is None else reader.origin.fingerprint()}


def _begin(
    folder: Path, readers: Sequence[Reader], tokenizer: PreTrainedTokenizerBase, making: Making, size: int,
) -> None:
    """Cut the sources, and write what the shards will be beside the tokenizer that makes them."""
    cache.appear(folder / TOKENIZER, lambda staging: _saved(tokenizer, staging), f"--out {folder}: can't be written",
                 "Choose another --out.", folder)
    if tokenizers.fingerprint(tokenizers.load(folder / TOKENIZER)) != making.tokenizer:
        raise RequestError(f"--out {folder}: has another tokenizer in {TOKENIZER}/ than the recipe's, or this one "
                           "can't be saved as it is; choose a new folder.")
    cuts = [shard for number, reader in enumerate(readers) for shard in shards_of(reader, number, size)]
    for reader in readers:
        _ = reader.odd  # it is noted
    plan = {"layout": LAYOUT, "llmkit": machine.installed("llmkit"), "making": asdict(making), "size": size,
            "sources": list(_sources(readers)), "shards": [shard.plain() for shard in cuts]}
    staged = folder / f".{PLAN}-{time.time_ns()}"
    staged.write_text(json.dumps(plan))
    cache.sync(staged)
    staged.rename(folder / PLAN)
    log.info("%s: %s", folder, in_words(cuts))


def in_words(cuts: Sequence[Shard]) -> str:
    """`1 shard, of 3.2 MB of files`; `12 shards, of 256 MB of files each on average`; of no files, how many alone."""
    whole, count = sum(shard.size for shard in cuts), many(len(cuts), "shard")
    if not whole:
        return count
    return f"{count}, of {machine.size(whole / len(cuts))} of files{' each on average' if len(cuts) > 1 else ''}"


def _saved(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)


def _sources(readers: Sequence[Reader]) -> Iterator[dict[str, Any]]:
    """What is written of each source; of its files the names, not where they are on this machine."""
    for reader in readers:
        yield {"source": Path(reader.label).name, **_about(reader), "files": [path.name for path in reader.files],
               "bytes": [path.stat().st_size for path in reader.files], "notes": reader.notes}
