"""An adapter is opened as it was trained, or not at all: no weight of it is left to chance, and none is left out."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_config, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llmkit.cli import main
from llmkit.models.checking.adapters import TYPES, check_adapter, check_taken, config_for
from llmkit.models.layout import ADAPTER, ADAPTER_WEIGHTS
from llmkit.system.errors import CheckpointError

OWN = {"LLMKIT_PREFIX", "LLMKIT_PROMPT", "PREFIX_TUNING", "PROMPT_TUNING"}
"""Types that llmkit's own tuning methods read."""
MORE: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10}, "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": None},
    "BOFT": {"boft_block_size": 4}, "OFT": {"oft_block_size": 4}, "IA3": {"feedforward_modules": ["down_proj"]},
    "P_TUNING": {"num_virtual_tokens": 3, "encoder_hidden_size": 8, "target_modules": None},
    "LN_TUNING": {"target_modules": ["input_layernorm"]}, "VBLORA": {"vector_length": 4, "num_vectors": 8},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [1, 2]},
    "FOURIERFT": {"n_frequency": 10}, "SHIRA": {"r": 2}, "C3A": {"block_size": 8}, "MISS": {"r": 4},
    "PSOFT": {"r": 4}, "ROAD": {"group_size": 8}, "WAVEFT": {"n_frequency": 10},
}


def network() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()


def opened(folder: Path) -> Any:
    about = json.loads((folder / ADAPTER).read_text())
    check_adapter(folder, about)
    model = network()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        tuned = PeftModel.from_pretrained(model, folder, config=config_for(model, folder, about), local_files_only=True)
    check_taken(folder, tuned, [str(one.message) for one in warned])
    return tuned


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(3, 9)[None]).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", sorted(TYPES - OWN))
def test_an_adapter_of_each_type_is_taken_whole(kind: str, tmp_path: Path) -> None:
    fields = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"], **MORE.get(kind, {})}
    tuned: Any = get_peft_model(network(), get_peft_config({"peft_type": kind, **{
        name: value for name, value in fields.items() if value is not None}}))
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.01 * torch.rand_like(weight))
    tuned.save_pretrained(tmp_path)
    assert torch.isfinite(logits(opened(tmp_path))).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A LoRA of both layers."""
    tuned: Any = get_peft_model(network(), get_peft_config({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "v_proj"]}))
    tuned.save_pretrained(tmp_path)
    return tmp_path


def without(*parts: str) -> Callable[[Path], None]:
    """Take the weights out of whose names one of these is a part."""
    def spoil(folder: Path) -> None:
        held = load_file(folder / ADAPTER_WEIGHTS)
        save_file({name: one for name, one in held.items() if not any(part in name for part in parts)},
                  folder / ADAPTER_WEIGHTS)
    return spoil


def saying(**fields: Any) -> Callable[[Path], None]:
    """Change the config."""
    def spoil(folder: Path) -> None:
        about = json.loads((folder / ADAPTER).read_text())
        (folder / ADAPTER).write_text(json.dumps({**about, **fields}))
    return spoil


SPOILED = {
    "no B": (without("lora_B"), "lacks 4 weights that adapter_config.json asks for, base_model.model.model.layers.0."),
    "no A": (without("lora_A"), "lacks 4 weights"),
    "one layer": (without("layers.0"), "lacks 4 weights"),
    "one weight": (without("layers.1.self_attn.v_proj.lora_B"), "lacks 1 weight "),
    "DoRA": (saying(use_dora=True), "lacks 4 weights"),
    "another type": (saying(peft_type="IA3", feedforward_modules=[]), "lacks 4 weights"),
    "norms": (saying(peft_type="LN_TUNING", target_modules=["input_layernorm"]), "lacks 2 weights"),
    "fewer modules": (saying(target_modules=["q_proj"]), "4 of its weights have no place by adapter_config.json"),
    "fewer layers": (saying(layers_to_transform=[0]), "4 of its weights have no place by adapter_config.json"),
    "other modules": (saying(target_modules=["k_proj", "o_proj"]), "lacks 8 weights"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_part_of_an_adapter_is_none(case: str, folder: Path) -> None:
    spoil, error = SPOILED[case]
    assert logits(opened(folder)).shape == (1, 6, 60)
    spoil(folder)
    with pytest.raises(CheckpointError, match="Copy the folder anew") as failed:
        opened(folder)
    assert error in str(failed.value)


@pytest.mark.parametrize(("fields", "error"), [
    ({"alpha_pattern": {"(": 1}}, "alpha_pattern: '(' is no plain name of a layer"),
    ({"rank_pattern": {"[a": 1}}, "rank_pattern: '[a' is no plain name of a layer"),
    ({"layer_replication": 5}, "layer_replication is 5, and no list of spans"),
    ({"layer_replication": "0-4"}, "layer_replication is 0-4, and no list of spans"),
    ({"lora_alpha": "much"}, 'lora_alpha is "much", and peft takes int'),
    ({"modules_to_save": 3}, "modules_to_save is 3, and peft takes "),
])
def test_a_field_of_another_kind_is_named(
        fields: dict[str, Any], error: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        words_of: Path) -> None:
    saying(base_model_name_or_path=str(words_of), **fields)(folder)
    assert main(["generate", "the cat", "--max-new-tokens", "2", "--model", str(folder)]) == 4
    said = capsys.readouterr().err
    assert error in said


@pytest.fixture(scope="module")
def words_of(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model below, with a tokenizer."""
    from conftest import stories

    from llmkit.data import tokenizer

    place = tmp_path_factory.mktemp("below")
    network().save_pretrained(place)
    tokenizer.train(stories(40), "characters", 60).save_pretrained(place)
    return place
