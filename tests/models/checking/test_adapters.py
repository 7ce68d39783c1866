"""Adapters from strangers: what their config may say, and what peft is given of it."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from llmkit.models.checking.adapters import SECONDS, TYPES, check_adapter, config_for
from llmkit.system.errors import CheckpointError

ENDLESS = r"(([a-z_.0-9]+)+)+!"
"""In Python's own `re`, a pattern that goes back and forth for minutes over a name of thirty letters."""
SLOW = r"(.)*?(.)*?(.)*?(.)*?(.)*?(.)*?(.)*?\7\6\5[^x]"
"""One that does so everywhere."""


def network(layers: int = 2) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=layers, n_head=2)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A LoRA of rank 2 whose weights do something."""
    tuned: Any = get_peft_model(network(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    tuned.save_pretrained(tmp_path)
    return tmp_path


def said(folder: Path, **fields: Any) -> dict[str, Any]:
    return {**json.loads((folder / "adapter_config.json").read_text()), **fields}


def opened(folder: Path, **fields: Any) -> Any:
    from peft import PeftModel

    about = said(folder, **fields)
    check_adapter(folder, about)
    model = network()
    return PeftModel.from_pretrained(model, folder, config=config_for(model, folder, about), local_files_only=True)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(6)[None]).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "written"), [(torch.int32, "I32"), (torch.bool, "BOOL"), (torch.complex64, "C64")])
def test_weights_of_an_adapter_that_are_no_real_numbers_are_not_cast(
    kind: torch.dtype, written: str, folder: Path
) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name)
    save_file({**weights, name: weights[name].to(kind)}, path)
    with pytest.raises(CheckpointError, match=rf"the weight {re.escape(name)} is stored as .*\({written}\)"):
        check_adapter(folder, said(folder))


def test_each_type_that_can_be_trained_can_be_opened_and_none_that_reads_other_files() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    from llmkit.models import OWN_ADAPTERS
    from llmkit.tuning.peft import OWN, UNFIT, changes_layers

    trained = {kind.value for kind in CONFIGS if kind.value in OWN
               or (kind.value not in UNFIT and changes_layers(kind.value))}
    assert trained | set(OWN_ADAPTERS) | {"ADAPTION_PROMPT", "TRAINABLE_TOKENS"} == TYPES
    assert not TYPES & {"XLORA", "MULTITASK_PROMPT_TUNING", "POLY", "CARTRIDGE"}


@pytest.mark.parametrize("kind", ["XLORA", "MULTITASK_PROMPT_TUNING", "EVIL", None, 7, "lora", ["LORA"], {}])
def test_other_types_are_refused_with_those_that_there_are(kind: Any, folder: Path) -> None:
    with pytest.raises(CheckpointError) as failed:
        check_adapter(folder, said(folder, peft_type=kind))
    assert f"peft_type: adapters of type {kind!r} aren't opened." in str(failed.value)
    assert "LORA" in str(failed.value)


@pytest.mark.parametrize(("fields", "name"), [
    ({"r": 30_000_000}, "r is 30000000"), ({"rank_pattern": {"c_attn": 40_000_000}}, "rank_pattern is 40000000"),
    ({"r": 1e9}, "r is 1000000000.0"), ({"r": float("nan")}, "r is nan"), ({"r": 10**40}, "r is 100000"),
    ({"num_virtual_tokens": 10**8}, "num_virtual_tokens is"), ({"encoder_hidden_size": 10**8}, "encoder_hidden_size"),
    ({"qalora_group_size": 10**8}, "qalora_group_size"), ({"n_frequency": 10**9}, "n_frequency"),
    ({"vector_length": 10**9}, "vector_length"), ({"init_r": 10**7}, "init_r"), ({"boft_block_num": 10**7}, "boft_"),
], ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "")
def test_sizes_are_near_those_of_the_weights(fields: dict[str, Any], name: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}.* the largest size in .*tensors is 24:"):
        check_adapter(folder, said(folder, **fields))


@pytest.mark.parametrize("fields", [
    {"lora_alpha": float("inf")}, {"lora_alpha": float("nan")}, {"alpha_pattern": {"c_attn": float("-inf")}}])
def test_a_scale_is_a_finite_number(fields: dict[str, Any], folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"alpha.* is -?(inf|nan), and no number that can be computed with"):
        check_adapter(folder, said(folder, **fields))


def test_a_size_of_an_empty_tensor_is_none(folder: Path) -> None:
    save_file({"lora_A": torch.zeros(10**9, 0), "b": torch.zeros(3, 4)}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"r is 2000, and the largest size in .* is 4:"):
        check_adapter(folder, said(folder, r=2000))


@pytest.mark.parametrize("fields", [
    {"r": 1024}, {"lora_alpha": 10**6}, {"layers_to_transform": [0, 1, 5000]}, {"total_step": 10**6},
    {"projection_prng_key": 2**40}, {"random_seed": 2**31}, {"loftq_config": {"loftq_bits": 4}}, {"r": True},
], ids=json.dumps)
def test_usual_sizes_and_numbers_that_are_none_are_left(fields: dict[str, Any], folder: Path) -> None:
    check_adapter(folder, said(folder, **fields))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_1000000", "olora", "OLoRA", "corda", "loftq", "lora_ga"])
def test_a_start_that_is_taken_out_of_the_base_is_refused(start: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"init_lora_weights: '{start.lower()}' is taken out of the base"):
        check_adapter(folder, said(folder, init_lora_weights=start))


@pytest.mark.parametrize("start", ["gaussian", "eva", "orthogonal", "mica", True, False, None])
def test_no_other_start_is_computed_when_an_adapter_is_opened(start: Any, folder: Path) -> None:
    model = network()
    config = config_for(model, folder, said(folder, init_lora_weights=start, **(
        {"eva_config": {"rho": 2}} if start == "eva" else {})))
    assert config.init_lora_weights == (True if isinstance(start, str) else start)
    usual = logits(opened(folder))
    assert torch.equal(logits(opened(folder, init_lora_weights=start)), usual)
    assert not torch.equal(usual, logits(model))


@pytest.mark.parametrize("fields", [
    {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, {"arrow_config": {"top_k": 1}}], ids=json.dumps)
def test_modules_and_adapters_that_a_config_names_are_refused(fields: dict[str, Any], folder: Path) -> None:
    with pytest.raises(CheckpointError, match="names other modules or adapters"):
        check_adapter(folder, said(folder, **fields))


@pytest.mark.parametrize(("name", "pattern"), [
    ("layers_pattern", ENDLESS), ("layers_pattern", [ENDLESS]), ("modules_to_save", [ENDLESS]),
    ("modules_to_save", [""]), ("rank_pattern", {ENDLESS: 2}), ("alpha_pattern", {"(a*)*": 2}),
    ("target_modules", [ENDLESS]), ("exclude_modules", ["a" * 2001]), ("target_parameters", ["(a|a)(a|a)(a|a)"]),
    ("feedforward_modules", "a?a?a?aaa"), ("rank_pattern", {"a**": 1}), ("rank_pattern", {"(a+)+": 1}),
    ("rank_pattern", {"x{1,99}": 1}), ("layers_pattern", "(?P<n>a)"), ("layers_pattern", "(?=a)"),
])
def test_names_that_are_patterns_with_long_ways_are_refused(name: str, pattern: Any, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}: .* is no plain name of a layer. List them by name"):
        check_adapter(folder, said(folder, **{name: pattern}))


@pytest.mark.parametrize(("name", "value"), [
    ("rank_pattern", {"c_attn": 2, ".*c_attn": 2, r"^transformer\.h\.0\.attn\.c_attn": 2, r"h\.(0|1)\.attn": 2,
                      r"h\.\d+\.mlp": 2}),
    ("target_modules", ["c_attn", "h.0.mlp.c_fc"]), ("layers_pattern", ["h", "layers"]), ("layers_pattern", None),
    ("modules_to_save", ["score", "lm_head"]), ("exclude_modules", [])])
def test_names_and_short_patterns_are_left(name: str, value: Any, folder: Path) -> None:
    check_adapter(folder, said(folder, **{name: value}))


@pytest.mark.parametrize("pattern", [ENDLESS, r"(([a-z_.0-9]+)+)+[!?]", r"(.*a.*)*(.*b.*)*[!?]", r".*.*.*.*.*.*[!]"])
def test_a_pattern_with_long_ways_takes_no_time(pattern: str, folder: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="not found in the base model"):
        opened(folder, target_modules=pattern)
    assert torch.equal(logits(opened(folder, exclude_modules=pattern)), logits(opened(folder)))
    assert time.monotonic() - start < 10 * SECONDS


@pytest.mark.parametrize("name", ["target_modules", "exclude_modules"])
def test_a_pattern_has_seconds_for_all_names(name: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}: a pattern .* repeats nothing 100 times, or what a group"):
        check_adapter(folder, said(folder, **{name: SLOW}))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"{name}: the pattern .* takes too long. List the layers by name"):
        config_for(network(), folder, said(folder, **{name: SLOW}))
    assert time.monotonic() - start < 30 * SECONDS


@pytest.mark.parametrize(("pattern", "error"), [
    ("a" * 2001, "has at most 2,000 characters"), ("(a{1000}){9}", "repeats nothing 100 times"),
    ("(?P<n>a)(?P=n)", "or what a group"), (r"(a)\1", "or what a group"), ("(a{1,1000})", "repeats nothing 100 times"),
    ("(a", r"the pattern '\(a' is none"), ("[", "is none"),
])
def test_patterns_that_are_long_or_none_are_refused(pattern: str, error: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=error):
        opened(folder, target_modules=pattern)


@pytest.mark.parametrize("pattern", [
    ".*c_attn", r"transformer\.h\.\d+\.attn\.c_attn", r"^(?!.*mlp).*(?:c_attn|q_proj)$", r".*\.(0|1)\..*c_attn",
    r"(?:.*?(?:language|h).*?(?:attn|mlp).*?(?:q_proj|c_attn).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:(?:up)))",
])
def test_patterns_that_people_have_match_what_they_match_in_peft(pattern: str, folder: Path) -> None:
    model = opened(folder, target_modules=pattern)
    assert torch.equal(logits(model), logits(opened(folder)))
    assert sorted(model.targeted_module_names) == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]


def test_a_pattern_is_given_to_peft_as_the_names_it_matches(folder: Path) -> None:
    config = config_for(network(), folder, said(folder, target_modules=".*c_(attn|fc)", exclude_modules=r".*\.1\..*"))
    assert set(config.target_modules.split("|")) == {
        rf"transformer\.h\.{i}\.{name}" for i in (0, 1) for name in ("attn\\.c_attn", "mlp\\.c_fc")}
    assert re.fullmatch(config.exclude_modules, "transformer.h.1.attn")
    assert not re.fullmatch(config.exclude_modules, "transformer.h.0.attn")
    assert config_for(network(), folder, said(folder, target_modules="all-linear")).target_modules == "all-linear"


@pytest.mark.parametrize(("fields", "error"), [
    ({"layer_replication": [[0, 1]] * 2000}, "layer_replication makes 2,000 layers; at most 1,000"),
    ({"layer_replication": [[0, 10**9]]}, "layer_replication makes 1,000,000,000 layers"),
    ({"target_modules": ["a"] * 70_000}, "target_modules has 70,000 entries; at most 65,536"),
    ({"alora_invocation_tokens": [1] * 70_000}, "alora_invocation_tokens has 70,000 entries"),
    ({"rank_pattern": {str(i): 1 for i in range(70_000)}}, "rank_pattern has 70,000 entries"),
], ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_long_lists_are_refused_with_their_length(fields: dict[str, Any], error: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=error):
        check_adapter(folder, said(folder, **fields))


def test_weights_that_cannot_be_read_are_told(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: the adapter can't be read"):
        check_adapter(folder, said(folder))


def test_an_adapter_of_another_type_is_opened_to_the_bit(tmp_path: Path) -> None:
    tuned: Any = get_peft_model(network(), IA3Config(
        target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "ia3" in name:
                weight.uniform_(0.5, 1.5)
    tuned.save_pretrained(tmp_path)
    assert torch.equal(logits(opened(tmp_path)), logits(tuned.eval()))
