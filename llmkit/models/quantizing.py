"""A base whose layers bitsandbytes holds in 4 or 8 bits: how it is loaded, how large it is, and its numbers in full."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llmkit.backbones.kernels.privates import without
from llmkit.recipe import Quantization
from llmkit.recipe.registry import module
from llmkit.system.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from llmkit.backbones.base import Family

QUANTIZED = "quantization_config"
"""The field by which a config says that weights are quantised."""
METHOD = "bitsandbytes"
"""What a config calls this way of quantising, among others that llmkit doesn't train."""
BLOCK, ROW = 64, 4
"""Numbers that share a scale in 4 bits; bytes of a row's scale in 8 bits."""


def bits(chosen: Quantization) -> int:
    """4 or 8."""
    return 4 if chosen.load_in_4bit else 8


def check_installed(what: str) -> None:
    """RequestError where bitsandbytes isn't installed; `what` is what needs it."""
    if find_spec("bitsandbytes") is None:
        raise RequestError(f"{what} needs bitsandbytes, which isn't installed: pip install 'llmkit-train[quantized]'.")


def bitsandbytes() -> Any:
    """The library, imported so that it fetches no code from a hub: it asks the package kernels for some, if it can."""
    with without("kernels"):
        return module("bitsandbytes")


# ---- how it is loaded ----


def options(chosen: Quantization, skipped: Iterable[str] = ()) -> dict[str, Any]:
    """What `from_pretrained` takes; `skipped`: parts that stay whole beside those that the recipe names."""
    from transformers import BitsAndBytesConfig

    said = {name: value for name, value in asdict(chosen).items() if value is not None}
    whole = sorted({*(chosen.llm_int8_skip_modules or ()), *skipped})
    made = BitsAndBytesConfig(**{**said, "llm_int8_skip_modules": whole})  # type: ignore[no-untyped-call]
    bitsandbytes()
    return {"quantization_config": made}


def kept_whole(model: PreTrainedModel, family: type[Family]) -> set[str]:
    """Names of parts that aren't quantised: what makes logits or reads whole texts, and may be new and train.

    `model` is one without weights. transformers leaves what it finds out only where nothing is named.
    """
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    known = {*family.heads.values(), *family.poolers}
    return {name for name, part in model.named_modules() if name in known or (output is not None and part is output)}


def prepared(model: Any) -> None:
    """Let layers of 4 bits compute on a CPU what they compute on a GPU, in evaluations too.

    bitsandbytes lays them out anew in eval mode on CPUs with bf16, rounds their scales to it, and doesn't bring them
    back: a run that evaluates would go on with another base. Any other model stays as it is.
    """
    if not vars(model).get("is_loaded_in_4bit"):
        return
    linear = bitsandbytes().nn.Linear4bit
    for part in model.modules():
        if isinstance(part, linear):
            part.support_avx512bf16_for_cpu = False


def taken_from(config: PretrainedConfig, where: str) -> Quantization | None:
    """How a config says that a base is quantised, taken out of it; None where it doesn't, or not by bitsandbytes.

    CheckpointError where it says it in a way that no base can be.
    """
    from pydantic import TypeAdapter, ValidationError

    said = config.to_dict().get(QUANTIZED)
    if not isinstance(said, Mapping) or said.get("quant_method") != METHOD:
        return None
    own = {field.name: said[field.name] for field in fields(Quantization) if said.get(field.name) is not None}
    try:
        chosen = TypeAdapter(Quantization).validate_python(own)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(f"{where}: quantization_config.{'.'.join(map(str, first['loc']))}: {first['msg']}."
                              ) from error
    if odd := next((name for name in chosen.llm_int8_skip_modules or () if not re.fullmatch(r"[\w.]+", name)), None):
        raise CheckpointError(f"{where}: quantization_config.llm_int8_skip_modules: {odd[:60]!r} is no plain name of a "
                              "layer.")
    if chosen.load_in_4bit == chosen.load_in_8bit:
        raise CheckpointError(f"{where}: quantization_config: one of load_in_4bit and load_in_8bit is needed.")
    del config.quantization_config
    return chosen


# ---- how large it is ----


def held(model: PreTrainedModel, whole: Iterable[str], chosen: Quantization) -> int:
    """Bytes of a base once it is quantised; `model` is one without weights, `whole` the parts that aren't."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    inside = tuple(f"{name}." for name in whole)
    left, total = {id(parameter) for parameter in model.parameters()}, 0.0
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | Conv1D) and not f"{name}.".startswith(inside) and id(part.weight) in left:
            left.discard(id(part.weight))
            total += packed(part.weight.numel(), part.weight.shape[0], chosen)
    return int(total + sum(4 * parameter.numel() for parameter in model.parameters() if id(parameter) in left))


def packed(numbers: int, rows: int, chosen: Quantization) -> float:
    """Bytes of a matrix with its scales: 4 bits and 32 a block; of double quantisation 8 a block; 8 bits, 32 a row."""
    if chosen.load_in_8bit:
        return numbers + ROW * rows
    return numbers / 2 + numbers / BLOCK * (1 if chosen.bnb_4bit_use_double_quant else 4)


def numbers_in(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers parameters hold; what is packed two in a byte counts as two."""
    return sum(_state(one).shape.numel() if _state(one) is not None else one.numel() for one in parameters)


def bytes_in(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, with the scales of those that are quantised."""
    return sum(tensor.nbytes + _scales(tensor) for tensor in tensors)


def _state(tensor: Any) -> Any:
    """What bitsandbytes knows of a tensor of 4 bits; None of any other."""
    return vars(tensor).get("quant_state")


def _scales(tensor: Any) -> int:
    state, rows = _state(tensor), vars(tensor).get("SCB")
    if state is None:
        return 0 if rows is None else int(rows.nbytes)
    more = 0 if state.state2 is None else int(state.state2.absmax.nbytes)
    return int(state.absmax.nbytes) + more


# ---- its numbers in full ----


def pour(quantized: PreTrainedModel, whole: PreTrainedModel) -> None:
    """Put the numbers that a quantised model computes with into the same model in full; GPT-2's lie transposed."""
    import torch
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    four, eight = bitsandbytes().nn.Linear4bit, bitsandbytes().nn.Linear8bitLt
    with torch.no_grad():
        for name, part in quantized.named_modules():
            if isinstance(part, four | eight):
                place: Any = whole.get_submodule(name)
                state = part.state if isinstance(part, eight) else None
                numbers = dequantize_bnb_weight(part.weight, state)
                place.weight.copy_(numbers if isinstance(place, torch.nn.Linear) else numbers.t())
