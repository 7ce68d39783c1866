"""What a layer keeps for the backward pass, against the tensors that autograd really keeps under autocast."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import tiny

from llmkit import recipe as recipes
from llmkit.planning.clusters.anatomy import anatomy
from llmkit.planning.clusters.memory import Demand, activations, copies
from llmkit.planning.settle import settle, weightless

ROWS, LENGTH = 4, 128


def kept(model: Any, shape: str, ids: torch.Tensor) -> tuple[int, int]:
    """(bytes of activations, bytes of copies of weights) that a forward pass leaves for the backward pass."""
    held: dict[int, torch.Tensor] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {size for parameter in model.parameters() if parameter.dim() == 2
              for size in (tuple(parameter.shape), tuple(parameter.shape)[::-1])}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    more = {} if shape == "encoder" else {"use_cache": False}
    more |= {"decoder_input_ids": ids} if shape == "encoder-decoder" else {}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        model.base_model(input_ids=ids, **more)
    copied = {key: tensor for key, tensor in held.items()
              if tuple(tensor.shape) in shapes and tensor.dtype == torch.bfloat16}
    size = {key: tensor.untyped_storage().nbytes() for key, tensor in held.items()}
    return sum(size.values()) - sum(size[key] for key in copied), sum(size[key] for key in copied)


@pytest.mark.parametrize(("family", "low", "high"), [
    ("llama", 0.8, 1.25), ("qwen3", 0.8, 1.25), ("qwen3_moe", 0.7, 1.4), ("modernbert", 0.7, 1.4), ("gpt2", 0.5, 2.0),
    ("bert", 0.5, 2.0), ("t5", 0.5, 2.0)])
def test_activations_are_those_that_autograd_keeps(
    family: str, low: float, high: float, text: Path, tmp_path: Path) -> None:
    tree = tiny(family, text, tmp_path / "run", micro_batch_size=1)
    tree["backbone"] = {"family": family, "size": "mini" if family != "modernbert" else "tiny"}
    tree["data"]["max_length"] = LENGTH
    settled = settle(recipes.load(tree))
    model = getattr(transformers, settled.head).from_config(weightless(settled).config)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # its masks are a byte a number, and none by default
    measured, _ = kept(model.train(), settled.family.shape, torch.randint(5, 50, (ROWS, LENGTH)))
    reckoned = ROWS * activations(anatomy(settled), Demand(ROWS, LENGTH, 2.0))
    assert low < reckoned / measured < high


def test_a_copy_in_16_bits_is_made_of_what_is_multiplied(text: Path, tmp_path: Path) -> None:
    settled = settle(recipes.load(tiny("llama", text, tmp_path / "run", micro_batch_size=1)))
    model = getattr(transformers, settled.head).from_config(weightless(settled).config)
    _, measured = kept(model, "decoder", torch.randint(5, 50, (3, 7)))
    found = anatomy(settled)
    assert copies(found, Demand(1, LENGTH, 2.0), "ddp") == pytest.approx(measured, rel=0.02)
    assert copies(found, Demand(1, LENGTH, 2.0, bytes=4), "ddp") == 0
