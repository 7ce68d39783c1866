"""Pickled weights to safetensors: tensors alone are read, nothing that a pickle says is run, and all are compared."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.models import fetch, layout
from llmkit.models.files import in_one_line, named_by, old_configs, others_weights, read_json
from llmkit.system import cache
from llmkit.system.errors import CheckpointError, PlaceError, RequestError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("llmkit")

INDEX = "pytorch_model.bin.index.json"
NO_WEIGHTS = ("training_args*", "optimizer*", "scheduler*", "rng_state*", "scaler*", "*random_states*")
"""Pickles that lie beside a model and hold none of its weights."""
INSIDE = ("state_dict", "model_state_dict", "model", "module")
"""Where training programs put a model's weights in a larger dict."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before each name."""
PARTS = {"bert": "bert", "albert": "albert", "roberta": "roberta", "electra": "electra", "distilbert": "distilbert",
         "transformer": "gpt2", "deberta": "deberta-v2"}
"""The first part of a weight's name, and the model_type that it is of."""


def convert(name: str, to: Path | None = None, revision: str | None = None) -> Path:
    """The folder of a model whose pickled weights, or old config, stand in today's files; a folder's own where no `to`.

    A hub's model is put into the cache, and found there by its id from then on. RequestError where there is nothing to
    convert or no config, CheckpointError where a pickle is damaged or holds more than tensors.
    """
    source = fetch.on_disk(name)
    if source is None:
        source, commit = fetch.with_pickles(name, revision)
        if to is None:
            return cache.once("models", fetch.converted_name(name, commit), lambda place: fill(source, place))
    elif revision is not None:
        raise RequestError(f"--revision: {name} is a folder; only a hub's models have revisions.")
    elif not source.is_dir():
        raise RequestError(f"{source} is a file; name the folder that it is in, with its config.")
    try:
        fill(source, to or source)
    except OSError as error:
        raise PlaceError(f"{to or source}: can't be written: {error.strerror or error}.") from error
    return to or source


def fill(source: Path, target: Path) -> None:
    """Put a folder's model into another, or the same, as it is written today."""
    pickles = pickles_of(source)
    whole = any(source.glob("*.safetensors"))
    if whole and (source / layout.CONFIG).is_file() and "model_type" in read_json(source / layout.CONFIG):
        raise RequestError(f"{source} has safetensors and a {layout.CONFIG} already: there is nothing to convert.")
    if not whole and not pickles:
        raise RequestError(f"{source} has no weights that can be converted: no pytorch_model.bin, .pt, .pth or .ckpt"
                           f"{_other(source)}.")
    target.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    if not whole:
        names = _weights(source, pickles, target)
    elif target != source:
        for path in source.glob("*.safetensors*"):
            shutil.copyfile(path, target / path.name)
    config = config_for(source, names or _names(source))
    _write_json(target / layout.CONFIG, config)
    if target != source:
        for pattern in fetch.SAFE:
            for path in source.glob(pattern):
                if not (target / path.name).exists() and path.name != INDEX:
                    shutil.copyfile(path, target / path.name)


def pickles_of(folder: Path) -> list[Path]:
    """The files with a model's pickled weights; those of an index, where there is one."""
    if (folder / INDEX).is_file():
        return [folder / name for name in named_by(folder / INDEX)]
    if (folder / "pytorch_model.bin").is_file():
        return [folder / "pytorch_model.bin"]
    found = [path for path in sorted(folder.iterdir()) if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}
             and path.is_file() and not any(fnmatch(path.name, pattern) for pattern in NO_WEIGHTS)]
    if len(found) > 1:
        raise RequestError(f"{folder} has {len(found)} files that may hold the weights: "
                           f"{', '.join(path.name for path in found)}. Leave one in it, or call it pytorch_model.bin.")
    return found


def _weights(source: Path, pickles: list[Path], target: Path) -> list[str]:
    """Write each pickle's tensors as a file of safetensors, with an index where there are several; their names."""
    where: dict[str, str] = {}
    total = 0
    for i, path in enumerate(pickles, 1):
        tensors = tensors_of(path)
        name = "model.safetensors" if len(pickles) == 1 else f"model-{i:05}-of-{len(pickles):05}.safetensors"
        _write(tensors, target / name)
        where |= dict.fromkeys(tensors, name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        log.info("%s: %s tensors, each the same in %s", path, f"{len(tensors):,}", name)
    if len(pickles) > 1:
        _write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    return list(where)


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors in a pickle, by name; CheckpointError where it holds more than data, or can't be read."""
    import pickle

    import torch
    from torch import Tensor

    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: it holds more than tensors, and to read the rest would run code, so it stays "
                              f"closed: {_what(error)}. Ask its author for safetensors.") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: is damaged: {in_one_line(error)}") from error
    while isinstance(found, Mapping) and not any(isinstance(value, Tensor) for value in found.values()):
        inner = next((name for name in INSIDE if isinstance(found.get(name), Mapping)), None)
        if inner is None:
            break
        log.info("%s: the weights are those under %r", path, inner)
        found = found[inner]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: holds no weights by name.")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if rest := [str(name) for name in found if str(name) not in tensors]:
        log.warning("%s: %d entries are no tensors and are left out: %s", path, len(rest), ", ".join(rest[:5]))
    return _unwrapped(tensors, path)


def _what(error: Exception) -> str:
    """What torch refused, without its advice to read it nevertheless."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return " ".join((lines or ["it is no file of torch's"])[0].split())[:200].rstrip(".")


def _unwrapped(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Without what a wrapper put before every name."""
    while wrapper := next((one for one in WRAPPERS if all(name.startswith(one) for name in tensors)), None):
        log.info("%s: every name loses its %r", path, wrapper)
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, read them again and compare every one; a file that isn't whole never has the name."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}  # no two share memory
        save_file(own, partial, metadata={"format": "pt"})
        with safe_open(partial, framework="pt") as written:
            for name, tensor in tensors.items():
                again = written.get_tensor(name)
                same = again.dtype == tensor.dtype and again.shape == tensor.shape and torch.equal(
                    again.reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8))
                if not same:
                    raise CheckpointError(f"{path}: {name} isn't what it was in the pickle; nothing is converted.")
        partial.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner can read
        cache.sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# ---- the config ----


def config_for(folder: Path, names: list[str]) -> dict[str, Any]:
    """A folder's config with its model_type: config.json, or the one file that older programs called otherwise."""
    path = folder / layout.CONFIG
    kind = ""
    if not path.is_file():
        old = old_configs(folder)
        if len(old) != 1:
            raise RequestError(f"{folder} has no {layout.CONFIG}, and {len(old)} files that could be one"
                               f"{': ' + ', '.join(one.name for one in old) if old else ''}. Without a config nobody "
                               "knows what the weights are of.")
        path, kind = old[0], old[0].name.partition("_")[0]
        log.info("%s becomes %s", path.name, layout.CONFIG)
    config = read_json(path)
    if "model_type" in config:
        return config
    kind = kind if kind in PARTS.values() else next((PARTS[part] for name in names for part in [name.partition(".")[0]]
                                                    if part in PARTS), "")
    if not kind:
        raise RequestError(f"{path}: says no model_type, and the names of the weights don't tell it; add it, as in "
                           '"model_type": "bert".')
    log.info("%s: model_type is %s, by %s", path, kind, "its name" if path.name != layout.CONFIG else "its weights")
    return {"model_type": kind, **config}


def _names(folder: Path) -> list[str]:
    """The names of a folder's tensors in safetensors."""
    from safetensors import safe_open

    found: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found += file.keys()
    return found


def _other(folder: Path) -> str:
    """What stands there instead, of other programs."""
    found = others_weights(folder)
    return f"; it has {found}" if found else ""


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
