"""X7: weights and configs from strangers, that name files elsewhere, lie about themselves or ask for all memory."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from reliability import runs
from reliability.commands import Server
from reliability.strangers import GIGABYTE, Payload, change, generate, held
from reliability.test_data import refused

pytestmark = pytest.mark.reliability
quick = pytest.mark.quick


@pytest.mark.parametrize("elsewhere", [
    pytest.param("../../secret.safetensors", id="X7-above", marks=quick), pytest.param("/secret.safetensors",
        id="X7-root"),
    pytest.param("missing.safetensors", id="X7-missing"), pytest.param(7, id="X7-number")])
def test_an_index_that_names_files_elsewhere_is_told(
    elsewhere: Any, llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, text: Path,
) -> None:
    from safetensors.torch import load_file

    model = copy("gpt2") / "model"
    weights = model / "model.safetensors"
    names = list(load_file(weights))
    shutil.copy(weights, tmp_path / "secret.safetensors")
    weights.rename(model / "model-00001-of-00002.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {
        name: elsewhere if i else "model-00001-of-00002.safetensors" for i, name in enumerate(names)}}))
    refused(generate(llmkit, model), 4, "is no file beside it")
    tree = tiny("gpt2", text, tmp_path / "run", max_steps=1)
    del tree["tokenizer"]
    refused(llmkit.run("pretrain", runs.write({**tree, "backbone": {"pretrained": str(model)}})), 4,
        "no file beside it")


def header(table: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


BOMBS: dict[str, bytes] = {
    "X7-empty": b"",
    "X7-short": b"\0\0",
    "X7-length-beyond": header({}, length=2**62),
    "X7-length-of-all": header({}, length=2**64 - 1),
    "X7-length-of-100-megabytes": header({}, length=100_000_000),
    "X7-shape-of-a-terabyte": header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-shape-that-overflows": header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
        b"\0" * 4),
    "X7-overlap": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                          "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12),
    "X7-backwards": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4),
    "X7-beyond-the-end": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
    "X7-hole": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
    "X7-type": header({"a": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-no-json": struct.pack("<Q", 4) + b"evil",
    "X7-deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "X7-other-names": header({"evil": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-other-shapes": header({"transformer.wte.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        b"\0" * 4),
    "X7-torch-file": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=quick if "beyond" in case else ()) for case in BOMBS])
def test_weights_that_lie_about_themselves_are_told(
    case: str, llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, text: Path,
) -> None:
    run = copy("gpt2")
    (run / "model" / "model.safetensors").write_bytes(BOMBS[case])
    done = generate(llmkit, run)
    refused(done, 4, "")
    assert done.peak < GIGABYTE
    tree = tiny("gpt2", text, tmp_path / "more", max_steps=1)
    del tree["tokenizer"]
    done = llmkit.run("pretrain", runs.write({**tree, "backbone": {"pretrained": str(run)}}))
    refused(done, done.status, "backbone.pretrained|weights")
    assert done.status in (2, 4)
    assert done.peak < GIGABYTE


@pytest.mark.parametrize("case", ["X7-length-beyond", "X7-shape-of-a-terabyte", "X7-overlap", "X7-other-names"])
def test_an_adapter_that_lies_about_itself_is_told(case: str, llmkit: Server, copy: Callable[[str], Path]) -> None:
    run = copy("adapter")
    (run / "model" / "adapter_model.safetensors").write_bytes(BOMBS[case])
    done = llmkit.run("classify", "the cat", "--model", run)
    held(done)
    assert done.status != 0 or case == "X7-other-names"


@pytest.mark.parametrize("fields", [
    {"vocab_size": 10**9}, {"n_embd": 10**6}, {"n_layer": 10**6}, {"n_positions": 10**9}, {"n_head": 0},
    {"n_embd": "x"},
    {"n_layer": -1}, {"vocab_size": None}, {"model_type": 7}, {"model_type": None}, {"architectures": "GPT2"},
    {"architectures": [7]}, {"id2label": 7}, {"dtype": "evil"}, {"torch_dtype": "float64"}, {"quantization_config": {}},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, {"activation_function": "evil"},
    {"pad_token_id": 10**9}, {"bos_token_id": "x"}, {"tie_word_embeddings": "x"}, {"is_encoder_decoder": True}],
    ids=lambda fields: "X7-" + json.dumps(fields)[:60])
def test_a_config_that_cannot_be_is_told_or_left_aside(
    fields: dict[str, Any], llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, text: Path,
) -> None:
    run = copy("gpt2")
    change(run / "model" / "config.json", **fields)
    held(generate(llmkit, run))
    tree = tiny("gpt2", text, tmp_path / "more", max_steps=1)
    del tree["tokenizer"]
    held(llmkit.run("pretrain", runs.write({**tree, "backbone": {"pretrained": str(run)}})))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000,
    b'{"a":' * 5000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_models_file_that_is_none_is_told(
    name: str, content: bytes, llmkit: Server, copy: Callable[[str], Path],
) -> None:
    """X7"""
    run = copy("gpt2")
    (run / "model" / name).write_bytes(content)
    done = generate(llmkit, run)
    held(done)
    assert done.status in (2, 4) or name in ("generation_config.json", "tokenizer_config.json")


@pytest.mark.parametrize("fields", [
    pytest.param({"num_labels": 10**9}, id="X12-labels", marks=quick), pytest.param({"num_labels": 3_000_000},
        id="X12-labels-that-fit"),
    pytest.param({"text_config": {"num_labels": 10**9}}, id="X12-labels-inside"),
    pytest.param({"id2label": {"999999999": "a"}}, id="X12-label-of-a-large-number"),
    pytest.param({"n_positions": 2**24}, id="X12-positions"), pytest.param({"vocab_size": 2**25}, id="X12-words"),
    pytest.param({"n_inner": 2**20, "n_layer": 1000}, id="X12-inner"),
    pytest.param({"num_labels": float("nan")}, id="X12-nan")])
def test_a_config_that_asks_for_all_memory_is_told_before_it_is_taken(
    fields: dict[str, Any], llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, text: Path, labelled: Path,
) -> None:
    run = copy("gpt2")
    change(run / "model" / "config.json", **fields)
    tree = tiny("gpt2", labelled, tmp_path / "more", max_steps=1)
    del tree["tokenizer"], tree["objective"]
    for done in (generate(llmkit, run), llmkit.run("evaluate", run, "--data", text),
                 llmkit.run("finetune", runs.write({
                     **tree, "task": "classification", "backbone": {"pretrained": str(run)}}))):
        refused(done, done.status, "config.json")
        assert done.status in (2, 4)
        assert done.peak < GIGABYTE


@pytest.mark.parametrize("named", [
    pytest.param("sub/x.safetensors.index.json", id="X13-index", marks=quick),
    pytest.param("../outside.safetensors", id="X13-above"), pytest.param("model.bin", id="X13-pickle")])
def test_weights_that_a_config_names_elsewhere_are_not_opened(
    named: str, llmkit: Server, copy: Callable[[str], Path], text: Path,
) -> None:
    from safetensors.torch import load_file

    model = copy("gpt2") / "model"
    shutil.copy(model / "model.safetensors", model.parent / "outside.safetensors")
    (model / "sub").mkdir()
    (model / "sub" / "x.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(
        load_file(model / "model.safetensors"), "../../outside.safetensors")}))
    change(model / "config.json", transformers_weights=named)
    for done in (generate(llmkit, model), llmkit.run("evaluate", model, "--data", text)):
        refused(done, 4, "transformers_weights: .* is no file of safetensors beside it")


@pytest.mark.parametrize(("fields", "error"), [
    pytest.param({"r": 30_000_000}, "r is 30000000, and the largest size", id="X14-rank", marks=quick),
    pytest.param({"rank_pattern": {".*": 40_000_000}}, "rank_pattern is 40000000", id="X14-rank-pattern"),
    pytest.param({"init_lora_weights": "pissa_niter_1000000"}, "taken out of the base's weights", id="X14-start"),
    pytest.param({"target_modules": ["(([a-z_.0-9]+)+)+!"]}, "no plain name of a layer", id="X14-names"),
    pytest.param({"target_modules": "(([a-z_.0-9]+)+)+!"}, "the adapter can.t be read", id="X14-pattern"),
    pytest.param({"layers_to_transform": [0], "layers_pattern": "(([a-z_.0-9]+)+)+!"}, "no plain name",
        id="X14-layers"),
    pytest.param({"layer_replication": [[0, 1]] * 200_000}, "entries", id="X14-replication"),
    pytest.param({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "other modules", id="X14-module"),
    pytest.param({"peft_type": "XLORA", "adapters": {"0": "evil/repo"}}, "peft_type", id="X14-xlora"),
    pytest.param({"peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init": "EXACT_SOURCE_TASK",
        "prompt_tuning_init_state_dict_path": "elsewhere.bin"}, "peft_type", id="X14-pickle-elsewhere")])
def test_an_adapter_that_asks_for_all_memory_or_time_is_told(
    fields: dict[str, Any], error: str, llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, marker: Path,
) -> None:
    run = copy("adapter")
    (tmp_path / "elsewhere.bin").write_bytes(pickle.dumps(Payload(marker)))
    change(run / "model" / "adapter_config.json", **fields)
    done = llmkit.run("classify", "the cat", "--model", run, seconds=60)
    refused(done, 4, error)
    assert done.peak < GIGABYTE
