"""An index of weights that lie in several files: what it lacks is told, and what transformers needs of it is there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from llmkit.models import check_weights
from llmkit.models.changing.converting import pickles_of
from llmkit.system.errors import CheckpointError

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of a model in two files."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    where = {name: PARTS[number % 2] for number, name in enumerate(sorted(weights))}
    for part in PARTS:
        save_file({name: weights[name] for name in where if where[name] == part}, tmp_path / part, {"format": "pt"})
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return path


def said(index: Path, **fields: Any) -> None:
    """Let the index say so; a field that is ... goes."""
    whole = {**json.loads(index.read_text()), **fields}
    index.write_text(json.dumps({name: value for name, value in whole.items() if value is not ...}))


def test_one_that_has_what_transformers_asks_for_is_opened(index: Path) -> None:
    check_weights(index.parent)
    assert AutoModelForCausalLM.from_pretrained(index.parent).num_parameters() > 0


@pytest.mark.parametrize("metadata", [..., None, [], "x"], ids=str)
def test_without_metadata_it_is_told_what_to_add_and_that_is_enough(metadata: Any, index: Path) -> None:
    said(index, metadata=metadata)
    with pytest.raises(CheckpointError, match=r'index\.json: has no "metadata": .*add "metadata": \{\} to it\.$'):
        check_weights(index.parent)
    with pytest.raises((KeyError, TypeError)):  # so transformers doesn't do without
        AutoModelForCausalLM.from_pretrained(index.parent)
    said(index, metadata={})
    check_weights(index.parent)


@pytest.mark.parametrize(("parts", "words"), [
    (..., "is missing"), (None, "is null, not an object"), ([], r"is \[\], not an object"), ({}, "names no tensor"),
    ("x", 'is "x", not an object')], ids=str)
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_without_a_map_of_its_tensors_it_is_told_to_copy_it_anew(
    parts: Any, words: str, name: str, index: Path,
) -> None:
    said(index, weight_map=parts)
    index.rename(index.with_name(name))
    with pytest.raises(CheckpointError, match=rf'{name}: "weight_map", .*, {words}. Copy the index anew'):
        (check_weights if "safetensors" in name else pickles_of)(index.parent)


@pytest.mark.parametrize(("content", "words"), [
    ("", "can't be read"), ("{", "can't be read"), ("null", "holds no object"), ("[]", "holds no object")])
def test_one_that_is_no_object_is_told(content: str, words: str, index: Path) -> None:
    index.write_text(content)
    with pytest.raises(CheckpointError, match=rf"index\.json: {words}"):
        check_weights(index.parent)


def test_one_that_nothing_reads_is_left_alone(index: Path) -> None:
    """Where all weights stand in one file too, transformers takes that."""
    weights = {name: tensor for part in PARTS for name, tensor in load_file(index.parent / part).items()}
    save_file(weights, index.parent / "model.safetensors", {"format": "pt"})
    said(index, metadata=...)
    check_weights(index.parent)
    assert AutoModelForCausalLM.from_pretrained(index.parent).num_parameters() > 0
