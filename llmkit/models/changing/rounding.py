"""Rounding: the weights of a model's linear layers become bytes, for a CPU; what that changes is measured and said."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmkit.models.base import Base
from llmkit.models.files import dtype_of, quiet
from llmkit.models.merging import merge
from llmkit.models.opening import Opened, open_model
from llmkit.models.quantizing import QUANTIZED
from llmkit.system import devices
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("llmkit")

INT8 = "int8"
"""What it is called where numbers are chosen."""
TEXT = ("The boats were still in the harbour, and the wind had gone down in the night. She took a light and some "
        "bread, and went along the wall to the last house, where an old man was sitting by the window. He had seen the "
        "ship come in, he said, and nobody had left it since.")
"""Read before and after, to say what has changed."""
TOKENS = 64
"""Of it, that are read at most."""


def check_rounds(name: str, model: object = None) -> None:
    """RequestError where weights of 8 bits can't be computed with: before anything is fetched or opened.

    `model` is what somebody gave as one: one that is open already stays as it is.
    """
    from llmkit.backbones.kernels.eight_bits import here

    if isinstance(model, Opened):
        raise RequestError(f"{name}: the model is open already, in numbers of its own; leave it out, or open it so: "
                           "open_model(…, eight_bits=True).")
    if not devices.on_cpu():
        raise RequestError(f"{name}: weights of 8 bits are for CPUs, and here a {devices.NAMES[devices.kind()]} "
                           "computes. Leave it out for the numbers that are fast there, or let the CPU compute: "
                           "llmkit --device cpu ….")
    if not here():
        raise RequestError(f"{name}: this CPU, or this torch, has no exact products of 8 bits (oneDNN's, on x86 with "
                           "VNNI or AMX); take bfloat16 or float32.")


def opened_in_eight_bits(base: Base, head: str | None, dtype: str) -> Opened:
    """Open a model whose linear layers have weights of 8 bits; all else is of `dtype`.

    What an adapter changes in weights is put into them first; virtual tokens stay what they are. RequestError where
    that can't be, the weights are of few bits already, or none is of a linear layer.
    """
    check_rounds(INT8)
    if QUANTIZED in base.said if not base.is_adapter else QUANTIZED in base.below.said:
        raise RequestError(f"{INT8}: the weights of {base.name} have few bits in its own files already; leave it out.")
    if base.is_adapter and "num_virtual_tokens" not in base.adapter:
        try:
            opened = merge(base, head)
        except RequestError as error:
            raise RequestError(f"{INT8}: the adapter must be put into its base's weights before they are rounded. "
                               f"{error} To use it here, leave {INT8} out.") from error
        opened.model.to(dtype_of(dtype))
        return rounded(opened, base.name)
    return rounded(open_model(base, head, dtype=dtype), base.name)


def rounded(opened: Opened, name: str) -> Opened:
    """Round an opened model in place, and say what it computes now; RequestError where it has nothing to round."""
    from llmkit.backbones.kernels.eight_bits import round_layers, settle

    model: Any = opened.model
    before, ids = outputs(opened), read(opened)
    count = round_layers(model)
    if not count:
        raise RequestError(f"{INT8}: {name} has no linear layers of its own whose weights could be of 8 bits; leave it "
                           "out.")
    try:
        after = outputs(opened)
    except (RuntimeError, TypeError, AttributeError) as error:  # a layer whose weight is read by another
        raise RequestError(f"{INT8}: a {model.config.model_type} can't compute with weights of 8 bits "
                           f"({' '.join(str(error).split())[:120]}); leave it out.") from error
    settle(model)
    log.info("%s: the %s weights of its linear layers are of 8 bits: %s", name, f"{count:,}",
             changed(opened.kind, before, after, ids))
    return opened


def read(opened: Opened) -> list[int]:
    """The text's first token ids, as many as the model has positions for."""
    config: Any = opened.model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or TOKENS
    room = limit - opened.virtual_tokens - 4 if limit > 0 else TOKENS
    ids: list[int] = opened.tokenizer(TEXT)["input_ids"]
    known = int(config.vocab_size)
    return [one for one in ids if one < known][: max(2, min(TOKENS, room))]


def outputs(opened: Opened) -> Tensor:
    """The first thing that the model computes of the text: its logits, (1, tokens, …), where it has some."""
    import torch

    model: Any = opened.model
    ids = torch.tensor([read(opened)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder and "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = ids
    with quiet(), torch.inference_mode():
        found: Tensor = model(**inputs)[0].float()
    return found


def changed(kind: str, before: Tensor, after: Tensor, ids: Sequence[int]) -> str:
    """What a model computes before and after, in words: of one that goes on with a text, how well it does.

    a short English text has perplexity 21.43, and had 21.31
    """
    if kind == "AutoModelForCausalLM" and before.shape[:2] == (1, len(ids)):
        now, was = perplexity(after, ids), perplexity(before, ids)
        return f"a short English text has perplexity {now:,.2f}, and had {was:,.2f}"
    off = float((after - before).norm() / before.norm().clamp(min=1e-30))
    return f"what it computes of a short English text is off by {off:.1%} (root mean square)"


def perplexity(logits: Tensor, ids: Sequence[int]) -> float:
    """Of all tokens of a text but the first, each given those before; `logits` are (1, tokens, vocabulary)."""
    import torch
    from torch.nn.functional import cross_entropy

    return float(cross_entropy(logits[0, :-1], torch.tensor(ids[1:])).exp())
