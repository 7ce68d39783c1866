"""The most that a number of a config.json may be, by its name; and that no model people have is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmkit.recipe import registry
from llmkit.recipe.bounds import BOUNDS, MOST_BYTES, bound_of, check_config, excesses
from llmkit.system.errors import RequestError

NAMES = {
    # every number that a config of the families here has, and what it is taken for
    "labels": "num_labels num_classes",
    "layers": "num_hidden_layers num_layers num_decoder_layers encoder_layers decoder_layers n_layer n_layers "
              "num_hidden_groups inner_group_num pretraining_tp max_window_layers depth num_nextn_predict_layers",
    "experts": "num_experts num_local_experts n_routed_experts moe_num_experts num_experts_per_tok zero_expert_num "
               "n_shared_experts",
    "heads, or their width": "num_attention_heads n_head num_heads encoder_attention_heads decoder_attention_heads "
                             "num_key_value_heads head_dim attention_head_dim d_head mamba_n_heads",
    "parts": "relative_attention_num_buckets position_buckets n_group conv_kernel mamba_d_conv num_centroids",
    "positions that a text is filled up to": "attention_window block_size local_attn_chunk_length axial_pos_shape",
    "tokens": "vocab_size type_vocab_size decoder_vocab_size src_vocab_size vocab_size_per_layer_input tgt_vocab_size",
    "positions": "max_position_embeddings n_positions n_ctx max_relative_positions relative_attention_max_distance "
                 "mem_len sliding_window original_max_position_embeddings max_seq_len max_target_positions",
    "numbers wide": "hidden_size n_embd d_model intermediate_size d_ff d_kv d_inner n_inner encoder_ffn_dim "
                    "decoder_ffn_dim embedding_size pooler_hidden_size q_lora_rank ssm_state_size dff "
                    "moe_intermediate_size hidden_size_per_layer_input lru_width",
    "times": "factor rope_factor low_freq_factor",
    "of a rotary base": "rope_theta local_rope_theta",
    "numbers": "pad_token_id decoder_start_token_id rotary_embedding_base whatever clamp_len",
}


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, names in NAMES.items() for name in names.split()])
def test_a_number_has_the_bound_of_its_kind(what: str, name: str) -> None:
    bound = bound_of(name)
    assert bound.what == what
    assert list(excesses({name: bound.most})) == []
    assert list(excesses({name: bound.most + 1})) == [(name, str(bound.most + 1), bound)]


def test_each_bound_has_a_name_that_is_tested() -> None:
    assert {bound_of(name) for names in NAMES.values() for name in names.split()} == set(BOUNDS)


@pytest.mark.parametrize("said", [
    {"text_config": {"num_labels": 10**9}}, {"decoder": {"encoder": {"n_layer": 1001}}},
    {"rope_parameters": {"full_attention": {"factor": 1e300}}}, {"rope_scaling": {"long_factor": [1.0] * 70_000}},
    {"hidden_sizes": [32, 2**21]}, {"vocab_size": 1e30}, {"hidden_size": float("inf")}, {"d_ff": float("nan")},
    {"whatever": 2**31 + 1}, {"layer_types": ["full_attention"] * 70_000}, {"eos_token_id": [[1, 2**40]]},
    {"sub_configs": [{"num_labels": 100_001}]}, {"num_labels": 10**400},
    {"num_hidden_layers": 1000, "num_experts": 16_000}, {"id2label": {"100000": "a"}},
    {"id2label": {"9" * 50: "a"}}, {"id2label": {str(i): "a" for i in range(100_001)}}, {"label2id": {"a": 10**9}},
], ids=lambda said: json.dumps(said)[:50])
def test_what_is_too_large_is_found_wherever_it_stands(said: dict[str, Any]) -> None:
    assert len(list(excesses(said))) >= 1


@pytest.mark.parametrize("said", [
    {"tie_word_embeddings": True, "num_labels": True}, {"num_labels": "1000000000"}, {"max_relative_positions": -1},
    {"hidden_size": None}, {"time_step_limit": [0.0, float("inf")]}, {"gradient_clipping": 1e10},
    {"id2label": {"0": "a", "x": "b", "-1": "c"}}, {"id2label": 7}, {"label2id": {"a": 0, "b": "x"}}, [], 7, None,
    {"num_hidden_layers": 61, "n_routed_experts": 384, "num_experts_per_tok": 8},
], ids=lambda said: json.dumps(said)[:50])
def test_what_is_no_size_or_a_usual_one_is_left_to_transformers(said: Any) -> None:
    assert list(excesses(said)) == []


def test_configs_nested_as_deep_as_json_goes_are_looked_through() -> None:
    said: dict[str, Any] = {"n_layer": 1001}
    for _ in range(5000):
        said = {"a": said}
    ((name, value, _),) = excesses(said)
    assert (name[-9:], value) == ("a.n_layer", "1001")


def test_the_error_names_file_field_value_and_the_most(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "gpt2", "num_labels": 1000000000}')
    with pytest.raises(RequestError) as failed:
        check_config(path)
    assert str(failed.value) == f"{path} can't be used: num_labels is 1000000000; the most is 100,000 (labels)."


def test_a_value_of_many_digits_is_cut_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_labels": 10**400}))
    with pytest.raises(RequestError, match=r"num_labels is 100000000000000000000000000000…; the most is 100,000"):
        check_config(path)


def test_a_config_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(RequestError, match=r"it has 16,777,217 bytes; a config has at most 16,777,216"):
        check_config(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"7", b'{"num_labels": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_is_left_to_whoever_reads_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    check_config(tmp_path / "config.json")
    check_config(tmp_path / "none.json")


@pytest.mark.parametrize("family", [name for name in registry.names("backbones") if name != "auto"])
def test_every_size_of_a_family_is_within_the_bounds(family: str) -> None:
    from transformers import AutoConfig

    found = registry.find("backbones", family)
    for size in found.sizes.values():
        said = json.loads(AutoConfig.for_model(found.model_type, **size).to_json_string(use_diff=False))
        assert list(excesses(said)) == []


def test_every_config_that_transformers_has_is_within_the_bounds() -> None:
    """What `family: auto` may meet: models that write or fill in text, as they are by default."""
    from transformers.models.auto import configuration_auto as configs
    from transformers.models.auto import modeling_auto as auto

    types = [*auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
             *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES]
    refused, seen = {}, 0
    for kind in sorted(set(types) - {"gemma4_assistant"}):  # which can't be made by default
        said = json.loads(json.dumps(configs.CONFIG_MAPPING[kind]().to_dict(), default=str))
        refused |= {kind: found} if (found := list(excesses(said))) else {}
        seen += 1
    assert (refused, seen > 200) == ({}, True)
