"""What stands in a model's folder: its config, its weights, its tokenizer; read without running any code of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.backbones.kernels.privates import forget_kernels
from llmkit.data import tokenizer_files
from llmkit.models.layout import ADAPTER, CONFIG
from llmkit.recipe import MOST_LAYERS
from llmkit.recipe.bounds import check_config, check_generation
from llmkit.system.errors import CheckpointError, LlmkitError, RequestError, nearest
from llmkit.system.terminal import shell_word

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

NO_CODE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "local_files_only": True}
"""How every model is read: no module of its folder is run and nobody is asked whether, and no pickle is opened."""
LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layer",
          "n_layers")
"""What configs call how many layers a stack has."""
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, ArithmeticError,
              AssertionError)
"""What transformers and peft raise where a file isn't what they expect."""


OTHERS = {"*.h5": "TensorFlow's", "*.ckpt.index": "TensorFlow's", "*.ckpt.meta": "TensorFlow's", "*.msgpack": "Flax's",
          "*.gguf": "llama.cpp's", "*.onnx": "ONNX's", "*.pdparams": "PaddlePaddle's"}
"""Files with weights that aren't torch's, and whose they are."""


def config_of(folder: Path) -> PretrainedConfig:
    """The config of a folder's model; RequestError where transformers doesn't know it, or nothing can be built by it.

    What it names to be run is left aside: modules beside it, kernels of a hub.
    """
    return usable(folder, read_config(folder))


def read_config(folder: Path) -> PretrainedConfig:
    """The config of a folder's model, as it is written; RequestError where transformers doesn't know it."""
    from transformers import AutoConfig

    check_config(folder / CONFIG)
    check_generation(folder / "generation_config.json", folder / CONFIG)
    try:
        with telling(folder):
            config: PretrainedConfig = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True)
    except RequestError as error:
        if (said := _read_if_can(folder / CONFIG)) and "model_type" not in said:
            raise untyped(folder) from error
        raise
    return config


def untyped(folder: Path) -> RequestError:
    """The error for a config that doesn't say what it is of."""
    return RequestError(f"{folder / CONFIG} says no model_type, so nobody knows what the weights are of: "
                        f"`llmkit models convert {shell_word(folder)}` adds it where their names tell it.")


def changed(
    folder: Path, config: PretrainedConfig, said: Mapping[str, Any], fields: Mapping[str, Any],
) -> PretrainedConfig:
    """The config that transformers makes of what a folder's config says, with some fields changed."""
    written = {**deepcopy(dict(said)), "model_type": config.model_type}
    with telling(folder):
        made: PretrainedConfig = type(config).from_dict(written, name_or_path=folder, **fields)
    return made


@contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Turn whatever transformers says of a folder's config into RequestError."""
    try:
        yield
    except Exception as error:  # what checks the fields' types raises errors of its own
        raise RequestError(f"{folder / CONFIG} can't be used: {in_one_line(error)}") from error


def usable(folder: Path, config: PretrainedConfig) -> PretrainedConfig:
    """A config without the kernels that it names; RequestError where no model can be built by it."""
    forget_kernels(config)  # of a hub, perhaps, which are code
    said = vars(config.get_text_config())
    for name in [name for name in LAYERS if said.get(name) is not None]:
        if not isinstance(said[name], int) or not 1 <= said[name] <= MOST_LAYERS:
            raise RequestError(f"{folder / CONFIG} can't be used: {name} is {said[name]}; 1 to {MOST_LAYERS:,} "
                               "layers are built.")
    if config.is_encoder_decoder and not type(config)().is_encoder_decoder:
        raise RequestError(f"{folder / CONFIG} can't be used: a {config.model_type} is no encoder-decoder.")
    return config


def check_weights(folder: Path) -> None:
    """Raise RequestError where weights are no safetensors, CheckpointError where an index says they are elsewhere."""
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        theirs = others_weights(folder)
        has = f"it has {pickles[0]}, and pickles can run code, so they aren't read" if pickles else (
            f"it has {theirs}" if theirs else "it has no weights")
        way = (f" `llmkit models convert {shell_word(folder)}` reads their tensors alone, and writes safetensors."
               if pickles else "")
        raise RequestError(f"{folder}: safetensors needed: {has}.{way}")
    _named_weights(folder)
    if (folder / "generation_config.json").is_file():
        read_json(folder / "generation_config.json")
    for index in folder.glob("*.safetensors.index.json"):
        named_by(index)
        used = not (folder / "model.safetensors").is_file()  # transformers takes that one first
        if used and not isinstance(read_json(index).get("metadata"), dict):
            raise CheckpointError(f'{index}: has no "metadata": {{…}}, which transformers asks for; add '
                                  '"metadata": {} to it.')


def only_files(folder: Path) -> None:
    """CheckpointError where something in a folder is neither file nor folder: reading a pipe waits for ever."""
    odd = next((path for path in sorted(folder.iterdir())
                if path.exists() and not path.is_file() and not path.is_dir()), None)
    if odd is not None:
        raise CheckpointError(f"{odd}: is a pipe, a socket or a device, and no file; remove it.")


def named_by(index: Path) -> list[str]:
    """The files that an index has the tensors in, sorted; CheckpointError where it names none, or one elsewhere."""
    said = read_json(index)
    parts = said.get("weight_map")
    if not isinstance(parts, dict) or not parts:
        is_ = "is missing" if "weight_map" not in said else (
            "names no tensor" if isinstance(parts, dict) else f"is {json.dumps(parts)[:40]}, not an object")
        raise CheckpointError(f'{index}: "weight_map", which says in which file each tensor is, {is_}. Copy the index '
                              "anew from where the model is from.")
    names = sorted(set(map(str, parts.values())))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: {name!r} is no file beside it.")
    return names


def _named_weights(folder: Path) -> None:
    """CheckpointError where a config, or one in it, names weights that are no safetensors, or not beside it.

    Transformers reads them instead of the usual ones, and follows an index that lies deeper to wherever it points.
    """
    for name in _values(_read_if_can(folder / CONFIG), "transformers_weights"):
        whole = isinstance(name, str) and name.endswith((".safetensors", ".safetensors.index.json"))
        if not whole or Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{folder / CONFIG}: transformers_weights: {name!r} is no file of safetensors "
                                  "beside it.")


def _values(said: Any, name: str) -> Iterator[Any]:
    """What a field is, wherever it stands in nested objects, and isn't null."""
    left = [said]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
            if one.get(name) is not None:
                yield one[name]


def others_weights(folder: Path) -> str:
    """A file with weights that are another program's, and whose; "" where there is none."""
    for pattern, whose in OTHERS.items():
        for path in sorted(folder.glob(pattern)):
            return f"{path.name}, which is {whose}"
    return ""


def old_configs(folder: Path) -> list[Path]:
    """Files that are a model's config under another name: bert_config.json, albert_config_base.json …"""
    return [path for path in sorted(folder.glob("*config*.json"))
            if path.name not in (CONFIG, ADAPTER, "tokenizer_config.json", "generation_config.json")
            and {"vocab_size", "hidden_size"} <= set(_read_if_can(path))]


def _read_if_can(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where it holds none."""
    try:
        return read_json(path)
    except CheckpointError:
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError where there is none."""
    found = read_value(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no object {{…}}.")
    return found


def read_value(path: Path) -> Any:
    """What a JSON file holds; CheckpointError where it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't be read: {in_one_line(error)}") from error


def pin(folder: Path, commit: str) -> None:
    """Let an adapter's file say of which commit of a hub's model it is; nothing where its base isn't a hub's."""
    path = folder / ADAPTER
    if path.is_file() and not Path(str((said := read_json(path)).get("base_model_name_or_path") or ".")).exists():
        path.write_text(json.dumps({**said, "revision": commit}, indent=2), encoding="utf-8")


def in_one_line(error: BaseException) -> str:
    """What a library said, in one line."""
    return " ".join(f"{error or type(error).__name__}".split())[:300]


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; RequestError where none can be read."""
    try:
        return tokenizer_files.read(folder)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    except Exception as error:  # tokenizers raises nothing more precise
        why = ("" if isinstance(error, LlmkitError) else _no_tokenizer(folder)) or in_one_line(error)
        raise RequestError(f"{folder} has no tokenizer that can be read: {why}") from error


def _no_tokenizer(folder: Path) -> str:
    """Which of a tokenizer's files isn't one, where that can be seen; else empty."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if not (folder / name).is_file():
            continue
        try:
            said = read_json(folder / name)
        except CheckpointError as error:
            return str(error)
        if name == "tokenizer.json" and not isinstance(said.get("model"), dict):
            return f'{folder / name}: has no "model": {{…}}.'
    return ""


def dtype_of(name: str) -> Any:
    """The torch dtype of a name; RequestError with the nearest one where none is called so."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "int8":
        raise RequestError("int8 is no dtype of all numbers, but of weights: open_model(…, eight_bits=True).")
    if name not in known:
        raise RequestError(f"no dtype is called {name!r}.{nearest(name, (*known, 'int8'))}")
    return known[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own bars and warnings off the terminal while a model is read; errors are ours to say."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
