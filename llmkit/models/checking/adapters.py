"""An adapter's config as peft may read it: known types, sizes near the weights, and nothing that takes for ever."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, get_type_hints

import regex  # type: ignore[import-untyped]
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from llmkit.models.checking.weighing import is_learned, not_real, unreal
from llmkit.models.files import UNREADABLE, in_one_line
from llmkit.models.layout import ADAPTER, ADAPTER_WEIGHTS
from llmkit.recipe import MOST_LAYERS
from llmkit.system.errors import CheckpointError, nearest
from llmkit.system.plural import many

log = logging.getLogger("llmkit")

TYPES = frozenset({
    "ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA",
    "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LLMKIT_PREFIX", "LLMKIT_PROMPT", "LN_TUNING", "LOHA", "LOKR", "LORA",
    "MISS", "OFT", "OSF", "PEANUT", "PREFIX_TUNING", "PROMPT_TUNING", "PSOFT", "PVERA", "P_TUNING", "RANDLORA", "ROAD",
    "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
})
"""Types that are opened: their files stand in one folder, and all sizes in their config are those of their weights."""
MOVED = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Starts of a LoRA that are taken out of the base's weights: without running them again, it is another model."""
CODE = ("megatron_core", "megatron_config", "arrow_config")
"""Fields by which peft would import a module, or open other adapters."""
NAMES = re.compile(r"\w*(modules|parameters|modules_to_save|pattern)\w*")
"""Fields with names of layers."""
WHOLE = ("target_modules", "exclude_modules")
"""Fields that may be one pattern for whole names."""
CHARACTERS = re.compile(r"(?:[\w.\\|^$\[\]-]|\((?:\?:)?|[)*+?])*")
"""What a name of a layer has, for peft also a pattern; two groups and two repeats in it take no time."""
UNSIZED = re.compile(r"\w*(seed|key|step|tinit|tfinal|deltaT|alpha|scal|ind[ei]|token_id|invocation|layers_to_transform"
                     r"|warmup|interval|lambda|bound|revision|layer_replication|version|dropout|config)\w*")
"""Fields with numbers that are no sizes."""
LACKS = "Found missing adapter keys while loading the checkpoint: "
"""What peft warns of where an adapter's file has less than its config asks for; peft 0.18 to 0.21."""
WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save|default)(?=\.)")
"""What peft puts into the names of a base's own weights."""
LEAST = 1024
"""A size that any adapter may have, be its weights smaller."""
MOST_UNKNOWN = 512
"""Names, or patterns, of layers that aren't the end of a layer's name."""
LONGEST, MOST_ENTRIES, SECONDS = 2000, 2**16, 2.0
"""Characters of a pattern; entries of a list; how long patterns may take for all names of a model's layers."""


def check_adapter(folder: Path, said: Mapping[str, Any]) -> None:
    """CheckpointError where an adapter's config is of no type that is opened, or asks for what its weights don't have.

    {"peft_type": "LORA", "r": 30000000, …}  ->  … r is 30000000, and the largest size in … is 32: …
    """
    path, kind = folder / ADAPTER, said.get("peft_type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise CheckpointError(f"{path}: peft_type: adapters of type {kind!r} aren't opened."
                              f"{nearest(str(kind).upper(), TYPES)} There is: {', '.join(sorted(TYPES))}.")
    for name in (name for name in CODE if said.get(name)):
        if name != "megatron_core" or said.get("megatron_config"):  # the one that peft always writes
            raise CheckpointError(f"{path}: {name}: an adapter that names other modules or adapters isn't opened.")
    start = str(said.get("init_lora_weights") or "").lower()
    if start.startswith(MOVED):
        raise CheckpointError(f"{path}: init_lora_weights: {start[:40]!r} is taken out of the base's weights at the "
                              "start, and that isn't done again to open it. Save the adapter with peft's "
                              "path_initial_model_for_weight_conversion, or merge it into its base.")
    for name, kind, sizes in unreal(folder / ADAPTER_WEIGHTS):
        if is_learned(name, sizes) or "lora_" in name:  # vblora_logits_topk_indices are whole numbers
            raise CheckpointError(f"{not_real(folder / ADAPTER_WEIGHTS, name, kind)} Get the file anew.")
    _check_lists(path, said)
    _check_names(path, said)
    _check_sizes(path, said, _largest(folder / ADAPTER_WEIGHTS))
    for name, value in said.items():  # lora_alpha: Infinity
        for one in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]):
            if isinstance(one, float) and not isfinite(one):
                raise CheckpointError(f"{path}: {name} is {one}, and no number that can be computed with.")


def _check_lists(path: Path, said: Mapping[str, Any]) -> None:
    if not isinstance(said.get("task_type"), str | None):
        raise CheckpointError(f"{path}: task_type is {str(said['task_type'])[:40]}, and no name of a task.")
    if not isinstance(said.get("num_virtual_tokens"), int | None):
        raise CheckpointError(f"{path}: num_virtual_tokens is {str(said['num_virtual_tokens'])[:40]}, and no number.")
    for name, value in said.items():
        if isinstance(value, list | dict) and len(value) > MOST_ENTRIES:
            raise CheckpointError(f"{path}: {name} has {len(value):,} entries; at most {MOST_ENTRIES:,} are read.")
    spans = said.get("layer_replication") or []
    if not isinstance(spans, list):
        raise CheckpointError(f"{path}: layer_replication is {str(spans)[:40]}, and no list of spans, as "
                              "[[0, 4], [2, 6]].")
    layers = sum(max(0, one[1] - one[0]) for one in spans
                 if isinstance(one, list) and len(one) == 2 and all(type(end) is int for end in one))
    if layers > MOST_LAYERS:
        raise CheckpointError(f"{path}: layer_replication makes {layers:,} layers; at most {MOST_LAYERS:,} are built.")


def _check_names(path: Path, said: Mapping[str, Any]) -> None:
    """Names of layers are plain, or at most one pattern for all; peft makes patterns of all of them."""
    for name, value in said.items():
        if not NAMES.fullmatch(name):
            continue
        if name in WHOLE and isinstance(value, str):
            if len(value) > LONGEST or re.search(r"\{\s*\d{3,}|,\s*\d{3,}|\\[1-9]|\(\?(P=|\()", value):
                raise CheckpointError(f"{path}: {name}: a pattern has at most {LONGEST:,} characters, and repeats "
                                      "nothing 100 times, or what a group found; this one has "
                                      f"{len(value):,}. List the layers by name.")
            continue
        for one in (value if isinstance(value, list | dict) else [value]):
            if isinstance(one, str) and (len(one) > LONGEST or not one or not _is_plain(one)):
                raise CheckpointError(f"{path}: {name}: {one[:60]!r} is no plain name of a layer. List them by name.")


def _is_plain(name: str) -> bool:
    r"""Whether a name, as a pattern, can't go back and forth for long: q_proj, .*q_proj, layers\.(0|1)\.fc\d+."""
    bare = name.replace("(?:", "(")
    if (CHARACTERS.fullmatch(name) is None or bare.count("(") > 2 or len(re.findall(r"[*+?]", bare)) > 2
            or re.search(r"[)*+?][*+?]", bare) is not None):
        return False
    try:
        re.compile(name)
    except re.error:
        return False
    return True


def _check_sizes(path: Path, said: Mapping[str, Any], largest: int) -> None:
    most = max(LEAST, 2 * largest)
    for name, size in _sizes(said):
        if not size <= most:  # NaN neither
            raise CheckpointError(f"{path}: {name} is {str(size)[:30]}, and the largest size in {ADAPTER_WEIGHTS} is "
                                  f"{largest:,}: it isn't the config of these weights.")


def _sizes(said: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers that make an adapter larger, by the names of their fields: r, rank_pattern, num_virtual_tokens …"""
    for name, value in said.items():
        if UNSIZED.fullmatch(name):
            continue
        for one in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]):
            if type(one) in (int, float):
                yield name, one


def _largest(path: Path) -> int:
    """The largest size of a tensor that holds something; CheckpointError where the file can't be read."""
    try:
        with safe_open(path, "np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, *UNREADABLE) as error:
        raise CheckpointError(f"{path}: the adapter can't be read: {in_one_line(error)}") from error
    return max((max(shape) for shape in shapes if shape and min(shape)), default=0)


def brought(folder: Path, wanted: Iterable[str]) -> set[str]:
    """Those of a model's weights that an adapter holds whole: `base_model.model.classifier.bias` is `classifier.bias`.

    CheckpointError where its file can't be read.
    """
    held = _names(folder / ADAPTER_WEIGHTS)
    return {name for name in wanted if any(key.endswith(f".{name}") for key in held)}


def _names(path: Path) -> list[str]:
    """What an adapter's weights are called; CheckpointError where the file can't be read."""
    try:
        with safe_open(path, "np") as file:
            return list(file.keys())
    except (SafetensorError, *UNREADABLE) as error:
        raise CheckpointError(f"{path}: the adapter can't be read: {in_one_line(error)}") from error


def check_taken(folder: Path, tuned: Any, warned: Iterable[str], whole: bool = True) -> None:
    """CheckpointError where an adapter isn't the one that was trained: weights that its config asks for aren't in its
    file, and stay what chance made them, or weights in its file have no place by its config.

    warned   what peft warned of as it was loaded
    whole    whether all of its weights must have a place: not under another head than its own
    """
    from peft import get_peft_model_state_dict

    path, told = folder / ADAPTER_WEIGHTS, next((one for one in warned if LACKS in one), None)
    if told is not None:
        lacking = re.findall(r"'([^']+)'", told.partition(LACKS)[2])
        raise CheckpointError(f"{path}: lacks {many(len(lacking), 'weight')} that {ADAPTER} asks for, {lacking[0]} "
                              "first: with random ones in their place it would be another adapter. Copy the folder "
                              "anew.")
    if not whole:
        return
    places = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    base = {WRAPPED.sub("", name) for name in tuned.get_base_model().state_dict()}  # tied ones by both names
    left = [name for name in _names(path) if name not in places and ".experts." not in name
            and next(_ends(WRAPPED.sub("", name), base), None) is None]
    if left:
        raise CheckpointError(f"{path}: {len(left):,} of its weights have no place by {ADAPTER}, {left[0]} first: they "
                              "are of another model, or of another adapter's config. Copy the folder anew.")


def _ends(name: str, known: Collection[str]) -> Iterator[str]:
    """The ends of a dotted name that are known: `base_model.model.lm_head.weight` -> `lm_head.weight`."""
    parts = name.split(".")
    return (end for i in range(len(parts)) if (end := ".".join(parts[i:])) in known)


def adapter_not_made(folder: Path, said: Mapping[str, Any], error: BaseException) -> CheckpointError:
    """Why peft couldn't read an adapter, with the field of its config that is of another kind, where there is one."""
    path, why = folder / ADAPTER, f"{type(error).__name__}: {in_one_line(error)}"
    for name, (kind, value) in _kinds(said).items():
        try:
            TypeAdapter(kind, config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError:
            shown = str(kind).replace("typing.", "").replace("<class '", "").replace("'>", "")
            return CheckpointError(f"{path}: {name} is {json.dumps(value)[:40]}, and peft takes {shown[:80]} ({why}).")
        except PydanticUserError:
            continue
    return CheckpointError(f"{folder}: the adapter can't be read: {why}")


def _kinds(said: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{field: (its type in peft, its value)} of an adapter's config."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(said["peft_type"])
    try:
        hints = {} if known is None else get_type_hints(known)
    except (NameError, TypeError):
        return {}
    return {name: (hints[name], value) for name, value in said.items() if name in hints and value is not None}


def config_for(model: Any, folder: Path, said: Mapping[str, Any]) -> Any:
    """The config in peft of a checked adapter, for the model below it: no start is computed, patterns are whole names.

    CheckpointError where a pattern takes too long.
    """
    from peft import PeftConfig

    fields = dict(said)
    names = [name for name, _ in model.named_modules()]
    _check_unknown(folder / ADAPTER, said, names)
    for name in WHOLE:
        if isinstance(pattern := fields.get(name), str) and pattern != "all-linear":
            fields[name] = _spelled_out(pattern, names, f"{folder / ADAPTER}: {name}")
    if isinstance(fields.get("init_lora_weights"), str):
        fields["init_lora_weights"] = True
    return PeftConfig.from_peft_type(**fields)  # type: ignore[no-untyped-call]


def _check_unknown(path: Path, said: Mapping[str, Any], names: Iterable[str]) -> None:
    """CheckpointError where a config names many layers that the model doesn't have: peft looks for each of them in all.

    layers h.0.attn, h.1.attn: {"target_modules": ["attn", "h.1.attn", "x1", "x2"]} names 2 that aren't there
    """
    known = {".".join(parts[i:]) for name in names for parts in [name.split(".")] for i in range(len(parts))}
    for name, value in said.items():
        if NAMES.fullmatch(name) and isinstance(value, list | dict):
            unknown = sum(1 for one in value if one not in known)
            if unknown > MOST_UNKNOWN:
                raise CheckpointError(f"{path}: {name} names {unknown:,} layers that the model below it doesn't have; "
                                      f"at most {MOST_UNKNOWN} are looked for. It isn't an adapter of this model.")


def _spelled_out(pattern: str, names: Iterable[str], where: str) -> str:
    r"""A pattern of the names that it matches, in full: `.*q_proj` -> `layers\.0\.q_proj|layers\.1\.q_proj`."""
    end = time.monotonic() + SECONDS
    try:
        known = regex.compile(pattern)
        found = [name for name in names if known.fullmatch(name, timeout=max(0.001, end - time.monotonic()))]
    except (regex.error, TimeoutError, RecursionError, OverflowError) as error:
        why = "takes too long" if isinstance(error, TimeoutError) else f"is none: {in_one_line(error)}"
        raise CheckpointError(f"{where}: the pattern {pattern[:60]!r} {why}. List the layers by name.") from error
    return "|".join(map(re.escape, found)) or re.escape(pattern)
