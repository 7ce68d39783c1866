"""Which tokens end what a model writes: kept in generation_config.json, beside an adapter too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmkit.models import layout
from llmkit.models.files import UNREADABLE, in_one_line, read_json
from llmkit.recipe.bounds import check_generation
from llmkit.system.errors import CheckpointError

FILE = "generation_config.json"


def ends_of(*given: int | Sequence[int] | None) -> list[int]:
    """The tokens that end a text, of what configs say: a number, several, or nothing."""
    found = [one for ends in given if ends is not None for one in ([ends] if isinstance(ends, int) else ends)]
    return list(dict.fromkeys(found))


def leave(model: Any, folder: Path) -> None:
    """Write how a model writes into a folder, where nothing has yet: an adapter is saved without that."""
    if model.can_generate() and not (folder / FILE).is_file():
        model.generation_config.to_json_file(folder / FILE)


def add(folder: Path, learned: Sequence[int]) -> None:
    """What a model learned to end its answers with ends them, beside what did so before.

    eos_token_id 0, learned [2]  ->  [0, 2]; nothing changes where all of them are known, or nothing is written at all.
    """
    path = folder / FILE
    if not path.is_file():
        return
    said = read_json(path)
    before = ends_of(said.get("eos_token_id"))
    if not before and (folder / layout.CONFIG).is_file():
        before = ends_of(read_json(folder / layout.CONFIG).get("eos_token_id"))
    ends = ends_of(before, learned)
    if ends != before:
        said["eos_token_id"] = ends if len(ends) > 1 else ends[0]
        path.write_text(json.dumps(dict(sorted(said.items())), indent=2) + "\n", encoding="utf-8")


@contextmanager
def unstopped(model: Any) -> Iterator[None]:
    """Hide the stop strings of a model's generation config from its `generate`, which would want a tokenizer for them.

    Who asks looks for them in what is written. An adapter's are its base's.
    """
    config = model.generation_config
    if config is None or config.stop_strings is None:
        yield
        return
    kept, config.stop_strings = config.stop_strings, None
    try:
        yield
    finally:
        config.stop_strings = kept


def read(model: Any, folder: Path) -> None:
    """Let a model write as the adapter over it says; CheckpointError where that can't be read."""
    from transformers import GenerationConfig

    if model.can_generate() and (folder / FILE).is_file():
        check_generation(folder / FILE, folder / layout.CONFIG)
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except UNREADABLE as error:
            raise CheckpointError(f"{folder / FILE}: can't be read: {in_one_line(error)}") from error
