"""A base in 4 or 8 bits, before it is loaded: whether it can be so, what is left open of it, and how large it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from llmkit.backbones.base import Family
from llmkit.models import quantizing
from llmkit.models.base import Base
from llmkit.planning.choices import Size
from llmkit.recipe import Backbone, Recipe, registry
from llmkit.system import machine
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUMBERS: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What torch calls the numbers of a precision."""
UNCOMPILED = "layers of bitsandbytes aren't compiled"


def settled(backbone: Backbone, precision: str) -> Backbone:
    """A backbone whose quantisation says in which numbers it computes; RequestError without bitsandbytes."""
    chosen = backbone.quantization_config
    if chosen is None:
        return backbone
    quantizing.check_installed("backbone.quantization_config:")
    if chosen.load_in_4bit and chosen.bnb_4bit_compute_dtype is None:
        chosen = replace(chosen, bnb_4bit_compute_dtype=NUMBERS[precision])
    return replace(backbone, quantization_config=chosen)


def check_base(request: Recipe, base: Base | None) -> None:
    """RequestError where a base whose files are quantised is to be quantised again, or tuned as it can't be."""
    if base is None or quantizing.QUANTIZED not in base.said:
        return
    if request.backbone.quantization_config is not None:
        raise RequestError(f"backbone.quantization_config: {base.folder} is quantised already, by its own config; "
                           "leave it out.")
    if why := request.tuning.unquantized:
        raise RequestError(f"tuning: {base.folder} is quantised, and {registry.name_of(request.tuning)} can't have "
                           f"that: {why}. Use lora, or take the model that it was made from.")


def sized(size: Size, empty: PreTrainedModel, family: type[Family], backbone: Backbone) -> Size:
    """The size of a model whose base is quantised, where it is; `empty` is that without weights."""
    chosen = backbone.quantization_config
    if chosen is None:
        return size
    whole = {*quantizing.kept_whole(empty, family), *(chosen.llm_int8_skip_modules or ())}
    return replace(size, quantized=quantizing.held(empty, whole, chosen))


def check_compiled(compiled: bool, backbone: Backbone) -> None:
    """RequestError where layers are to be compiled that are quantised."""
    if compiled and backbone.quantization_config is not None:
        raise RequestError(f"training.compile: {UNCOMPILED}; leave it out, or backbone.quantization_config.")


def in_words(size: Size, backbone: Backbone) -> str:
    """`base in 4 bits (nf4): 173 MB, 538 MB in fp32`; "" where it is whole."""
    chosen = backbone.quantization_config
    if chosen is None:
        return ""
    kind = f" ({chosen.bnb_4bit_quant_type})" if chosen.load_in_4bit else ""
    return (f"base in {quantizing.bits(chosen)} bits{kind}: about {machine.size(size.weights)}, "
            f"{machine.size(4 * size.parameters)} in fp32")
