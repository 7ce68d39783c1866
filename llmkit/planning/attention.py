"""How a model attends: in its family's usual way, or as a recipe says, where all that it has to do can be done so."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family
from llmkit.backbones.kernels.privates import ways_to_attend
from llmkit.planning.choices import DROPOUTS, lacks_compiler
from llmkit.recipe import Attention, Recipe, registry
from llmkit.system import devices
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AMPERE = (8, 0)
"""The compute capability from which FlashAttention 2 has kernels."""
MASKED = {"eager": "adds its mask to the scores", "flash_attention_2": "takes no mask but for padding",
          "flex_attention": "reads a mask in blocks of its own"}
"""Why a way can't take the masks of documents and prefixes, which say true or false for each pair of tokens."""
APART = {"flash_attention_2": ("encoder", "decoder"), "flex_attention": ("encoder", "decoder")}
"""Ways that keep the documents of a row apart without such a mask, and in which shapes of models: FlashAttention is
told where they begin, FlexAttention reads blocks."""
LEAST_HEAD = 16
"""Numbers of a head that FlexAttention's kernel needs."""


def settled(request: Recipe, family: type[Family], empty: PreTrainedModel, packing: str, precision: str) -> Attention:
    """The way in which a recipe's model attends; `empty` is the model without weights.

    RequestError, with the reason, where model, method, objective, packing or machine can't have the one it names.
    """
    name = request.backbone.attn_implementation
    usual: Any = family.attention
    if name in ("auto", usual):
        return usual  # type: ignore[no-any-return]
    able = ways_to_attend(empty)
    if name not in able:
        raise refused(name, f"transformers' {type(empty).__name__} isn't written for it; it has "
                            f"{', '.join(sorted(able))}")
    if not request.learning.adapters:
        raise refused(name, f"{registry.name_of(request.learning)} trains two networks, and both attend in their "
                            f"family's usual way, {usual}")
    if request.tuning.attends:
        raise refused(name, f"{registry.name_of(request.tuning)} attends in a way of its own, over sdpa")
    if packing == "documents" and not keeps_apart(name, family):
        raise refused(name, f"it {MASKED[name]}, and data.packing: documents keeps documents apart by one. Choose "
                            "data.packing: blocks or none, or sdpa")
    if request.learning.masks:
        raise refused(name, f"it {MASKED[name]}, and {registry.name_of(request.learning)} needs one. Choose sdpa")
    if name == "flash_attention_2" and family.shape == "encoder-decoder":
        raise refused(name, "transformers' cross-attention takes the padding of the encoder's rows for that of the "
                            "decoder's (seen in 5.23), and losses would be wrong. Choose sdpa")
    if name == "flash_attention_2" and (lacks := lacks_flash(precision)):
        raise refused(name, lacks)
    if name == "flex_attention" and (lacks := lacks_flex(empty)):
        raise refused(name, lacks)
    return name


def keeps_apart(name: str, family: type[Family]) -> bool:
    """Whether documents that share a row can be kept apart in a way to attend."""
    return name in ("auto", "sdpa") or family.shape in APART.get(name, ())


def refused(name: str, why: str) -> RequestError:
    """The error for a way that can't be had."""
    return RequestError(f"backbone.attn_implementation: {name} can't be used: {why}.")


def lacks_flash(precision: str) -> str:
    """What FlashAttention 2 needs and there isn't; "" where all is there."""
    import torch

    if devices.kind() != "cuda":
        return "FlashAttention runs on NVIDIA GPUs, and there is none; sdpa runs everywhere"
    if torch.cuda.get_device_capability() < AMPERE:
        return "this GPU has a compute capability below 8.0, for which FlashAttention 2 has no kernels; choose sdpa"
    if find_spec("flash_attn") is None:
        return "the package flash-attn isn't installed (pip install flash-attn --no-build-isolation); sdpa needs none"
    return "" if precision != "fp32" else "it multiplies in 16 bits only; training.precision: bf16, or sdpa"


def lacks_flex(empty: PreTrainedModel) -> str:
    """What FlexAttention needs to train and there isn't; "" where all is there."""
    if devices.on_cpu():
        return "on a CPU FlexAttention has no backward pass; choose sdpa"
    if missing := lacks_compiler():
        return f"{missing}, and FlexAttention is compiled; choose sdpa"
    config: Any = empty.config.get_text_config()
    said, heads = vars(config), config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    if head < LEAST_HEAD:
        return f"its kernel needs heads of {LEAST_HEAD} numbers or more, and this model's have {head}; choose sdpa"
    dropout = next((field for field in DROPOUTS[:3] if said.get(field)), None)
    return "" if dropout is None else f"it has no dropout, and {dropout} is {said[dropout]}; make that 0, or take sdpa"
