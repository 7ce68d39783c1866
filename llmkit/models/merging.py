"""Merging: what an adapter learned goes into the weights of its base."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmkit.models import layout
from llmkit.models.base import Base
from llmkit.models.opening import Opened, open_model
from llmkit.system.errors import RequestError


def merge(model: str | Path | Base, head: str | None = None) -> Opened:
    """Load an adapter and put what it learned into the weights of its base: the same model without an adapter.

    Of a base that was quantised, the numbers that the adapter trained over are taken, in full: they aren't those of the
    base's own files. `head` is a transformers auto class; where it is None, the one of the adapter's task.

    RequestError where that can't be: virtual tokens have no place in a weight, and some layers share their weights with
    layers that the adapter leaves alone.
    """
    import torch

    base = Base.open(model)
    name = base.folder if isinstance(model, Base) else model
    if "num_virtual_tokens" in base.adapter and (base.folder / layout.BASE).is_dir():
        raise RequestError(
            f"{name}: virtual tokens can't be merged into weights, and the model trained with them. Give away its "
            f"folder ({base.folder}), which holds both, and open it with llmkit; {base.folder / layout.BASE} is the "
            "model without its prompt.")
    if "num_virtual_tokens" in base.adapter:
        raise RequestError(
            f"{name}: virtual tokens can't be merged into weights. Give away the adapter's folder ({base.folder}) with "
            "its base, and open it with llmkit; or tune by a method that changes weights, as lora.")
    opened = open_model(base, head, in_full=True)
    if not base.is_adapter:
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
