"""The two files of an adapter that llmkit writes itself, in peft's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit.models import layout
from llmkit.system.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CONFIG, WEIGHTS, PLAIN_KEY = layout.ADAPTER, layout.ADAPTER_WEIGHTS, "prompt_embeddings"
"""peft's names for the two files of an adapter and for the one tensor of a prefix or a prompt."""


def put_back(model: PreTrainedModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copy saved weights of new parts to where they were; CheckpointError where the model has no such place."""
    own = model.state_dict()
    for key, tensor in tensors.items():
        name = key.removeprefix("base_model.")
        if name not in own or own[name].shape != tensor.shape:
            raise CheckpointError(f"{folder / WEIGHTS}: {key!r} {tuple(tensor.shape)} has no place in this model.")
        own[name].copy_(tensor)
