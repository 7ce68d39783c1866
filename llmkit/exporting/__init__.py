"""A model to give away: a folder that transformers, onnxruntime or llama.cpp opens, an adapter merged into its base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from llmkit import models
from llmkit.exporting import example, hub
from llmkit.exporting.card import card
from llmkit.exporting.origin import before, origin_of
from llmkit.inference.writing import turn_ends
from llmkit.models import Base, ends, layout
from llmkit.models.checking.weighing import check_finite
from llmkit.recipe import registry
from llmkit.system.errors import PlaceError, RequestError, nearest

FORMATS = tuple(sorted((path.stem for path in (Path(__file__).parent / "formats").glob("[!_]*.py")), reverse=True))
"""Each a file of formats/; a new file there is a new format."""


def export(
    model: str | Path, to: str | Path, *, format: str = "safetensors", dtype: str | None = None,
    push_to_hub: str | None = None, private: bool = False,
) -> dict[str, Any]:
    """Write a run, a folder, a hub id or a catalogue model to the folder `to`, with its tokenizer and a model card.

    An adapter is merged into its base, in 32 bits. `format` is safetensors (for transformers), onnx (for onnxruntime),
    gguf (for llama.cpp) or word2vec (the embeddings alone, for gensim); `dtype` float32, bfloat16 or float16, for gguf
    also q8_0; None is what the model is in.
    `push_to_hub` is the id under which the hub gets the folder once it is whole, for few eyes where it is `private`.
    Returns {"folder", "format", "class", "dtype", "merged": the adapter's type in peft, or None, "base", "from", …}.
    NumberError where a weight isn't finite, RequestError where an adapter can't be merged or a format can't hold the
    model, PlaceError where the folder holds something or the hub refuses it.
    """
    target = Path(to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PlaceError(f"--to {to}: holds something already; name a new folder.")
    if format not in FORMATS:
        raise RequestError(f"no format is called {format!r}.{nearest(format, FORMATS)}")
    written = registry.module(f"llmkit.exporting.formats.{format}")
    if dtype is not None and dtype not in written.DTYPES:
        raise RequestError(f"--dtype {dtype}: --format {format} has {', '.join(written.DTYPES)}.")
    if push_to_hub is not None:
        hub.check(push_to_hub)
    elif private:
        raise RequestError("--private says how --push-to-hub gives the model away; name an id there.")
    base = Base.open(model)
    source = base.folder
    written.check((base if base.has_config else base.below).said)
    opened = models.merge(base)
    check_finite(opened.model, str(model), "nothing is exported")
    missing = turn_ends.tell(opened)
    origin = origin_of(model, source)
    with staged(target) as folder:
        facts = written.write(opened, origin, folder, dtype)
        ends.add(folder, missing)  # a file that was copied
        if origin.recipe:
            (folder / layout.RECIPE).write_text(
                yaml.safe_dump(origin.recipe, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
        how = written.how(opened, origin, folder, push_to_hub or ".")
        used_as = "" if example.averages(opened, folder) else opened.kind  # a hub would show what each token says
        (folder / layout.CARD).write_text(
            card(origin, target.name, used_as, written.LIBRARY, how), encoding="utf-8")
        tidy(folder)
    if push_to_hub is not None:
        facts["pushed"] = hub.push(target, push_to_hub, private)
    return {"folder": str(to), "format": format, "class": opened.kind, "merged": origin.adapter, "base": before(source),
            "from": str(model), **facts}


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder beside the target, which takes its place once it is whole; PlaceError where that can't be."""
    staging = target.with_name(f".{target.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        if target.exists():
            target.rmdir()
        staging.rename(target)
    except OSError as error:
        raise PlaceError(f"{error.filename or target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Let others read what safetensors writes for its owner alone, and drop how the tokenizer was opened here."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        said = json.loads(path.read_text(encoding="utf-8"))
        here = ("is_local", "local_files_only", "name_or_path")
        kept = {key: value for key, value in said.items() if key not in here}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
