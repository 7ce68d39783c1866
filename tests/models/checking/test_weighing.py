"""A config must be near the weights beside it: what it asks for is counted before any of it is made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, XLNetConfig, XLNetModel

from llmkit.backbones.base import Family
from llmkit.models import Base, check_weights, config_of
from llmkit.models.checking.weighing import ROOM, check_size, check_types, numbers_asked, numbers_held
from llmkit.models.opening import beside
from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError, RequestError

GPT2 = {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
NUMBERS = 50 * 8 + 16 * 8 + (16 + 8 * 24 + 24 + 8 * 8 + 8 + 16 + 8 * 32 + 32 + 32 * 8 + 8) + 16
"""Words, positions; in a layer two norms, attention, its output, the two of the feed-forward part; a norm."""

IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "decoder_start_token_id")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    GPT2LMHeadModel(GPT2Config(**GPT2)).save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_both_sums_are_those_of_the_architecture(model: Path) -> None:
    assert (numbers_held(model), numbers_asked(config_of(model))) == (NUMBERS, NUMBERS)


def test_buffers_are_counted_in_numbers_of_four_bytes() -> None:
    config = BertConfig(vocab_size=10, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
                        max_position_embeddings=1000)
    weights = sum(weight.numel() for weight in BertModel(config).parameters())
    assert numbers_asked(config) == weights + 2 * 1000 * 8 // 4  # two rows of 1,000 whole numbers


@pytest.mark.parametrize("family", [name for name in registry.names("backbones") if name != "auto"])
def test_what_a_family_saves_is_about_what_its_config_asks_for(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    found: type[Family] = registry.find("backbones", family)
    config = AutoConfig.for_model(found.model_type, **{**found.sizes["tiny"], **found.small, "vocab_size": 500,
                                                      **dict.fromkeys(IDS, 0)})
    AutoModel.from_config(config).save_pretrained(tmp_path)
    held, asked = numbers_held(tmp_path), numbers_asked(config)
    assert held is not None
    assert asked is not None
    assert held <= asked <= held + 2 * 512 + 2**12  # numbers of positions, and what Marian counts out by sines
    check_size(tmp_path, config)


@pytest.mark.parametrize("fields", [
    {"vocab_size": 3_000_000}, {"n_embd": 8000}, {"n_positions": 2_200_000}, {"n_inner": 2**20, "n_layer": 30},
], ids=json.dumps)
def test_a_config_that_asks_for_more_than_the_weights_hold_is_refused_with_both_numbers(
    fields: dict[str, int], model: Path,
) -> None:
    change(model, **fields)
    asked = numbers_asked(config_of(model))
    assert asked is not None
    assert asked > 2 * NUMBERS + ROOM
    with pytest.raises(CheckpointError) as failed:
        Base.open(model).check_weights()
    assert str(failed.value) == (
        f"{model}/config.json asks for a gpt2 of {asked:,} numbers, and the weights beside it hold {NUMBERS:,}: it "
        "isn't the config of these weights.")


def test_a_config_that_asks_for_less_or_a_little_more_is_left_to_the_loader(model: Path) -> None:
    for fields in ({"n_layer": 2}, {"n_positions": 8}, {"vocab_size": 500_000}):
        change(model, **{**GPT2, **fields})
        Base.open(model).check_weights()


def test_parts_of_weights_are_added_up(model: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    for number, names in enumerate((sorted(weights)[:4], sorted(weights)[4:])):
        save_file({name: weights[name] for name in names}, model / f"model-{number}.safetensors")
    assert numbers_held(model) == NUMBERS


def test_a_quantized_file_may_hold_eight_numbers_in_one(tmp_path: Path) -> None:
    config = GPT2Config(**{**GPT2, "vocab_size": 3_000_000})  # 24,000,000 numbers in its table
    save_file({"a": torch.zeros(3_000_000, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="the weights beside it hold 3,000,000"):
        check_size(tmp_path, config)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    check_size(tmp_path, config)


def test_headers_that_cannot_be_read_are_left_to_the_loader(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\0" * 20)
    assert numbers_held(model) is None
    check_size(model, config_of(model))


@pytest.mark.parametrize("name", ["other.safetensors", "sub/model.safetensors", "../model/model.safetensors",
    "/model.safetensors", "model.bin", "adapter_model.bin", "", ".", "sub/x.safetensors.index.json", 7, ["a"],
    "model.safetensors/"])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_that_a_config_names_elsewhere_are_refused(name: Any, nested: bool, model: Path) -> None:
    (model / "sub").mkdir()
    shutil.copy(model / "model.safetensors", model / "sub")
    (model / "sub" / "x.safetensors.index.json").write_text(
        '{"weight_map": {"transformer.wte.weight": "../../other.safetensors"}}')
    change(model, **({"text_config": {"transformers_weights": name}} if nested else {"transformers_weights": name}))
    with pytest.raises(CheckpointError, match=r"config.json: transformers_weights: .* is no file of safetensors"):
        check_weights(model)


def test_weights_that_a_config_names_beside_it_are_read(model: Path) -> None:
    (model / "model.safetensors").rename(model / "mine.safetensors")
    change(model, transformers_weights="mine.safetensors")
    check_weights(model)
    (model / "mine.safetensors.index.json").write_text('{"weight_map": {"a": "../mine.safetensors"}}')
    change(model, transformers_weights="mine.safetensors.index.json")
    with pytest.raises(CheckpointError, match=r"'../mine.safetensors' is no file beside it"):
        check_weights(model)


def test_a_network_beside_a_model_opens_no_base_that_an_adapters_file_names(model: Path, tmp_path: Path) -> None:
    """transformers reads adapter_config.json beside any weights, and opens what that calls its base."""
    (model / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "elsewhere")}))
    with pytest.raises(CheckpointError, match=r"adapter_config.json is beside the weights"):
        beside(AutoModel, model)


def test_labels_of_a_network_beside_a_model_are_bounded_too(model: Path) -> None:
    change(model, num_labels=10**9)
    with pytest.raises(RequestError, match="num_labels is 1000000000"):
        beside(AutoModel, model)


@pytest.mark.parametrize("load", ["llmkit.data.tokenizer_files.load", "llmkit.models.files.tokenizer_of"])
def test_a_config_beside_a_tokenizer_is_bounded_too(load: str, tmp_path: Path) -> None:
    """transformers looks there for the tokenizer's class, and makes a label of each number."""
    from importlib import import_module

    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "num_labels": 1000000000}')
    module, _, name = load.rpartition(".")
    read: Callable[[Path], Any] = getattr(import_module(module), name)
    with pytest.raises((CheckpointError, RequestError), match="num_labels is 1000000000; the most is 100,000"):
        read(tmp_path)


def retyped(model: Path, name: str, kind: torch.dtype, beside: dict[str, torch.Tensor] | None = None) -> None:
    """Write a model's file anew, with a weight of another type and tensors beside it."""
    weights = load_file(model / "model.safetensors")
    save_file({**weights, name: weights[name].to(kind), **(beside or {})}, model / "model.safetensors")


@pytest.mark.parametrize(("kind", "said"), [
    (torch.bool, r"truth values \(BOOL\)"), (torch.int8, r"whole numbers \(I8\)"),
    (torch.int32, r"whole numbers \(I32\)"), (torch.int64, r"whole numbers \(I64\)"),
    (torch.complex64, r"complex numbers \(C64\)")])
def test_weights_that_are_no_real_numbers_are_not_cast(kind: torch.dtype, said: str, model: Path) -> None:
    retyped(model, "transformer.h.0.mlp.c_fc.weight", kind)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: the weight transformer\.h\.0\.mlp\.c_fc\.weight "
                                              rf"is stored as {said}, and the model computes with real numbers"):
        Base.open(model).check_weights()
    with pytest.raises(CheckpointError, match="it isn't cast"):
        beside(AutoModel, model)


def test_real_numbers_of_other_widths_and_what_is_no_weight_may_be_there(model: Path) -> None:
    """Old files of GPT-2 hold its mask of truth values, those of BERT its positions; quantised ones hold bytes."""
    retyped(model, "transformer.wte.weight", torch.float16, {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16, dtype=torch.bool),
        "embeddings.position_ids": torch.arange(16)[None]})
    Base.open(model).check_weights()
    retyped(model, "transformer.wte.weight", torch.uint8)
    config = config_of(model)
    with pytest.raises(CheckpointError, match=r"\(U8\).* need a quantization_config"):
        check_types(model, config)
    config.quantization_config = {"quant_method": "bitsandbytes"}
    check_types(model, config)


def test_a_weight_that_is_called_neither_weight_nor_bias_is_one(tmp_path: Path) -> None:
    """XLNet's r_w_bias and q."""
    network = XLNetModel(XLNetConfig(vocab_size=20, d_model=8, n_layer=1, n_head=2, d_inner=8))
    network.save_pretrained(tmp_path)
    retyped(tmp_path, "layer.0.rel_attn.q", torch.int64)
    with pytest.raises(CheckpointError, match=r"the weight layer\.0\.rel_attn\.q is stored as whole numbers"):
        check_types(tmp_path, network.config)
