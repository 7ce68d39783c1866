"""What a model's config asks for, and what its weights hold: two sums that must be near each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from llmkit.models.files import UNREADABLE
from llmkit.models.layout import CONFIG
from llmkit.system.errors import CheckpointError, NumberError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ROOM = 2**24
"""Numbers that a small model may be larger than its weights: what isn't saved, as masks."""
PACKED = 8
"""Numbers in one of a quantized file, at most."""
REAL = ("F", "BF")
"""How the types begin that safetensors calls a real number's: F32, BF16, F8_E4M3."""
KINDS = {"BOOL": "truth values", "C64": "complex numbers",
         **{f"{sign}{width}": "whole numbers" for sign in "IU" for width in (8, 16, 32, 64)}}
"""What the others are."""
LEARNED = ("weight", "bias", "gamma", "beta")
"""What the last part of a weight's name is."""


def check_size(folder: Path, config: PretrainedConfig) -> None:
    """CheckpointError where the config beside weights asks for more than twice what these hold.

    What a file lacks is made anew, so a config of a few bytes could take all memory. Heads aren't counted: another one
    may be wanted.
    """
    held, asked = numbers_held(folder), numbers_asked(config)
    if held is None or asked is None:
        return  # who reads them next says what is wrong
    if asked > 2 * held * (PACKED if hasattr(config, "quantization_config") else 1) + ROOM:
        raise CheckpointError(f"{folder / CONFIG} asks for a {config.model_type} of {asked:,} numbers, and the weights "
                              f"beside it hold {held:,}: it isn't the config of these weights.")


def check_rows(folder: Path, model: PreTrainedModel, rows: int) -> None:
    """CheckpointError where an adapter's folder asks for a larger table of tokens than its weights come near to.

    Its own rows stand in its file; those of the base are there already.
    """
    table: Any = model.get_input_embeddings()
    more = (rows - model.config.get_text_config().vocab_size) * table.weight.shape[-1]
    if more > 2 * (numbers_held(folder) or 0) + ROOM:
        raise CheckpointError(f"{folder} asks for a table of {rows:,} tokens over a model of "
                              f"{model.config.get_text_config().vocab_size:,}, and the weights in it hold "
                              f"{numbers_held(folder) or 0:,} numbers: it isn't the config of these weights.")


def numbers_held(folder: Path) -> int | None:
    """How many numbers the headers of a folder's weights name; None where one can't be read."""
    held = 0
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "np") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    held += _product(file.get_slice(name).get_shape())
    except (SafetensorError, *UNREADABLE):
        return None
    return held


def check_types(folder: Path, config: PretrainedConfig) -> None:
    """CheckpointError where a weight is stored as truth values, whole or complex numbers: to cast them loses something.

    Models that were quantised pack theirs into whole numbers, and their config says so. Positions and masks that older
    versions of transformers saved are no weights.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    odd = [(path, name, kind, sizes) for path in sorted(folder.glob("*.safetensors"))
           for name, kind, sizes in unreal(path)]
    model = _bare(config) if odd else None
    learned = set() if model is None else {name for name, _ in model.named_parameters()}
    for path, name, kind, sizes in odd:
        if is_learned(name, sizes) or any(one == name or name.endswith(f".{one}") for one in learned):
            raise CheckpointError(f"{not_real(path, name, kind)} Get the file anew; weights that were quantised need a "
                                  f"quantization_config in {CONFIG}.")


def unreal(path: Path) -> list[tuple[str, str, list[int]]]:
    """(name, type, shape) of each tensor of a file that isn't of real numbers; [] where the file can't be read."""
    try:
        with safe_open(path, "np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return [(name, str(part.get_dtype()), list(part.get_shape())) for name, part in parts.items()
                    if not str(part.get_dtype()).startswith(REAL)]
    except (SafetensorError, *UNREADABLE):
        return []  # who reads it next says what is wrong


def is_learned(name: str, sizes: Sequence[int]) -> bool:
    """Whether a tensor is a weight by its name: `h.0.attn.bias` of several dimensions is GPT-2's mask of old."""
    last = name.rpartition(".")[2]
    return last in LEARNED and (last != "bias" or len(sizes) < 2)


def not_real(path: Path, name: str, kind: str) -> str:
    """What is said of a weight of another type."""
    return (f"{path}: the weight {name} is stored as {KINDS.get(kind, 'other numbers')} ({kind}), and the model "
            "computes with real numbers (F32, F16, BF16): it isn't cast.")


def numbers_asked(config: PretrainedConfig) -> int | None:
    """How many numbers a config's model has without a head, buffers among them; None where it can't be built."""
    model = _bare(config)
    if model is None:
        return None
    return int(sum(weight.numel() for weight in model.parameters())
               + sum(buffer.nbytes for buffer in model.buffers()) // 4)


def _bare(config: PretrainedConfig) -> PreTrainedModel | None:
    """A config's model without a head and without numbers; None where it can't be built."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            auto: Any = transformers.AutoModel
            model: PreTrainedModel = auto.from_config(config, trust_remote_code=False)
            model.tie_weights()
    except UNREADABLE:
        return None
    return model


def _product(shape: list[int]) -> int:
    numbers = 1
    for size in shape:
        numbers *= size
    return numbers


def check_finite(model: PreTrainedModel, name: str, so: str = "the model's numbers stopped being finite") -> None:
    """NumberError where a weight isn't finite: attention makes ordinary answers of NaN, so answers don't show it.

    torch's scaled_dot_product_attention takes a row of NaN for one where nothing may be looked at, and gives 0.
    """
    for weight, tensor in model.named_parameters():
        if "vblora_logits" in weight:  # peft marks by infinity what wasn't saved of them
            continue
        if not tensor.is_floating_point() or not tensor.numel() or tensor.device.type == "meta":
            continue
        ends = tensor.detach().max(), tensor.detach().min()  # NaN where one is
        if not all(math.isfinite(float(end)) for end in ends):
            raise NumberError(f"{name}: its weight {weight} holds NaN or infinity; {so}.")
