"""What a server offers: models that write and models that embed, by name, opened once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import models
from llmkit.inference.writing.context import defaults, ids_of
from llmkit.inference.writing.opening import INSTEAD, WRITERS, chosen_numbers
from llmkit.inference.writing.writer import Writer
from llmkit.models import layout
from llmkit.models.changing.rounding import INT8
from llmkit.models.fetch import on_disk
from llmkit.models.run import Run
from llmkit.system.errors import RequestError, nearest
from llmkit.system.report import log
from llmkit.system.terminal import shell_word

if TYPE_CHECKING:
    from torch import Tensor

    from llmkit.inference.embedding import Embedder
    from llmkit.serving.engine import Engine
    from llmkit.serving.window import TextWindow


@dataclass
class WritingModel:
    """A model that writes."""

    name: str
    writer: Writer
    engine: Engine | TextWindow
    base: str | None = None
    """The served model that it is an adapter of."""
    since: int = field(default_factory=lambda: int(time.time()))
    kind: str = "text"

    @cached_property
    def ids(self) -> int:
        """How many ids it reads, from 0 on."""
        return ids_of(self.writer.opened)

    @cached_property
    def chinese(self) -> bool:
        """Whether it may be spoken to in Chinese."""
        return self.writer.script.chinese


@dataclass
class EmbeddingModel:
    """A model that embeds."""

    name: str
    embedder: Embedder
    base: None = None
    since: int = field(default_factory=lambda: int(time.time()))
    kind: str = "embedding"

    @cached_property
    def ids(self) -> int:
        """How many ids it reads, from 0 on."""
        return ids_of(self.embedder.opened)


Served = WritingModel | EmbeddingModel


def named(given: Sequence[str]) -> dict[str, Path]:
    """Names and folders of what the command line lists: `M`, or `name=M`. RequestError where two have one name."""
    found: dict[str, Path] = {}
    for one in given:
        name, _, place = one.partition("=") if "=" in one and not Path(one).exists() else ("", "", one)
        folder = models.resolve(place)
        name = name or _name(place)
        if name in found:
            raise RequestError(f"two models are called {name!r}; name one of them yourself: name={place}.")
        found[name] = folder
    return found


def _name(place: str) -> str:
    """What a model is called where nobody says: the last part of a path that isn't `model`; else as it stands."""
    path = on_disk(place)
    if path is None or not path.is_dir():
        return place
    path = path.resolve()
    run = Run.open(path)
    return run.folder.name if run is not None and path.name == run.model.name else path.name


def adapters(given: Sequence[str], bases: Mapping[str, Path]) -> dict[str, tuple[Path, str]]:
    """Names, folders and bases of `name=FOLDER`. RequestError where one is no adapter of a served model."""
    found: dict[str, tuple[Path, str]] = {}
    for one in given:
        name, is_named, place = one.partition("=")
        if not (name and is_named and place):
            raise RequestError(f"--adapter {one}: must be name=FOLDER.")
        if name in bases or name in found:
            raise RequestError(f"--adapter {one}: something else is called {name!r} already.")
        folder = models.resolve(place)
        config = folder / layout.ADAPTER
        if not config.is_file():
            raise RequestError(f"--adapter {one}: is a whole model; name it beside the others: "
                               f"llmkit serve … {shell_word(f'{name}={place}')}.")
        base = str(json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path"))
        below = models.resolve(base).resolve()
        under = next((known for known, path in bases.items() if path.resolve() == below), None)
        if under is None:
            raise RequestError(f"--adapter {one}: its base is {base}, which isn't served. Serve it too, or name the "
                               f"adapter as a model: llmkit serve … {shell_word(f'{name}={place}')}.")
        found[name] = (folder, under)
    return found


class Weights:
    """Weights that are in memory already, so that models which have the same ones hold them once."""

    def __init__(self) -> None:
        self._known: dict[Any, list[Tensor]] = {}

    def share(self, model: Any) -> int:
        """Let a model use the tensors that are there, where they are equal. Returns the bytes that this freed."""
        import torch

        freed = 0
        for parameter in model.parameters():
            tensor = parameter.data
            start = tuple(tensor.flatten()[:8].tolist())
            there = self._known.setdefault((tensor.dtype, tuple(tensor.shape), start), [])
            same = next((one for one in there if torch.equal(one, tensor)), None)
            if same is None:
                there.append(tensor)
            elif same.data_ptr() != tensor.data_ptr():
                parameter.data = same
                freed += tensor.nbytes
        return freed


def open_all(
    folders: Mapping[str, Path], under: Mapping[str, tuple[Path, str]], dtype: str | None = None,
) -> dict[str, Served]:
    """Open models, and adapters over them, by name; those that write in `dtype`, as for `Writer.open`.

    RequestError where one neither writes nor embeds, or adapters are to share weights that were rounded without them.
    """
    from llmkit.serving.engine import Engine, suits
    from llmkit.serving.window import TextWindow

    if under and dtype == INT8:
        raise RequestError(f"--dtype {INT8}: an adapter (--adapter) shares its base's weights, which can't be rounded "
                           "for both of them. Serve it as a model of its own, or leave --dtype out.")
    weights = Weights()
    found: dict[str, Served] = {}
    bases = {name: base for name, (_, base) in under.items()}
    for name, folder in {**folders, **{name: folder for name, (folder, _) in under.items()}}.items():
        base = bases.get(name)
        kind = models.kind_of(folder)
        if kind not in WRITERS:
            from llmkit.inference.embedding import Embedder

            found[name] = EmbeddingModel(name, Embedder.open(folder))
            log.info("%s: gives embeddings%s", name, "" if kind == "AutoModel" else
                     f"; its head isn't served: what it {INSTEAD[kind]} is done by these commands")
            continue
        chosen, device = chosen_numbers(folder if base is None else folders[base], dtype)
        opened = models.open_model(folder, **chosen)
        writer = Writer(name, opened, device)
        freed = weights.share(opened.model)  # on the device: moved afterwards, each would have a copy again
        guided = defaults(opened.model).guidance_scale not in (None, 1)  # asks the model itself, once more a token
        # adapters share their base's weights, which nobody reads once they are packed
        if name not in bases.values() and not guided:
            writer.pack()
        together = not guided and (writer.decoder is not None or suits(opened))
        engine = Engine(opened, writer.decoder) if together else TextWindow(writer)
        found[name] = WritingModel(name, writer, engine, base)
        log.info("%s: writes text%s%s", name, "" if together else "; its texts wait for those before them to end",
                 f"; shares {freed / 1e6:.0f} MB of weights" if freed > 1e6 else "")
    return found


def find(served: Mapping[str, Served], name: str | None, kind: str) -> Served | str:
    """The model of a name, or of none the first that can do it; what is wrong, in words, where there isn't one."""
    able = {one.name: one for one in served.values() if one.kind == kind}
    does = {"text": "writes text", "embedding": "gives embeddings"}[kind]
    if name is None and able:
        return next(iter(able.values()))
    if name is None:
        return f"no model here {does}."
    if name in able:
        return able[name]
    if name in served:
        return f"{name} {'writes text' if kind == 'embedding' else 'gives embeddings and writes no text'}."
    return f"no model is called {name!r}.{nearest(name, served)}"
