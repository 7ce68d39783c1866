"""Models whose weights are of 8 bits: what they write and measure, what is said of it, and who can't have it."""

import json
import logging
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import tiny
from tokenizers import Tokenizer
from tokenizers import models as token_models
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from llmkit import models, recipe
from llmkit.backbones.kernels import eight_bits
from llmkit.backbones.kernels.eight_bits import EightBit
from llmkit.cli import main
from llmkit.inference.evaluate import evaluate
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.writer import Writer
from llmkit.models.changing.rounding import perplexity
from llmkit.serving.served import WritingModel, open_all
from llmkit.system import devices
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

pytestmark = pytest.mark.skipif(not eight_bits.here(), reason="a CPU without exact products of 8 bits")

SENTENCE = "the boats were still in harbour and wind had gone down night She took a light"
WORDS = ["<pad>", "<end>", *SENTENCE.split()]
GREEDY = Options(max_new_tokens=6, do_sample=False)


def saved(model: Any, folder: Path) -> Path:
    inner = Tokenizer(token_models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<pad>",
                            ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    config = LlamaConfig(vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4, bos_token_id=None,
                         eos_token_id=1, pad_token_id=0, tie_word_embeddings=True, max_position_embeddings=64)
    return saved(LlamaForCausalLM(config), tmp_path_factory.mktemp("llama") / "model")


def poured(folder: Path, into: Path) -> Path:
    """A model in full whose weights are the numbers that rounded ones stand for."""
    opened, rounded = models.open_model(folder), models.open_model(folder, eight_bits=True)
    model: Any = opened.model
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    model.config.tie_word_embeddings = False
    for name, layer in rounded.model.named_modules():
        if isinstance(layer, EightBit):
            model.get_submodule(name).weight.data = layer.plain().float() * layer.scale[:, None]
    return saved(model, into)


def test_what_is_written_is_what_the_rounded_weights_say_in_full(llama: Path, tmp_path: Path) -> None:
    prompts = [[2, 3, 4], [5, 6, 7, 8, 9]]
    rounded, full = Writer.open(str(llama), dtype="int8"), Writer.open(str(poured(llama, tmp_path / "full")))
    assert rounded.decoder is not None
    assert [[one.ids for one in some] for some in rounded.write(prompts, GREEDY)] == [
        [one.ids for one in some] for some in full.write(prompts, GREEDY)]


def test_what_rounding_changes_is_said(llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llmkit"):
        models.open_model(llama, eight_bits=True)
    count = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48) + len(WORDS) * 32
    assert f"the {count:,} weights of its linear layers are of 8 bits: a short English text has perplexity" in (
        caplog.text)


def test_perplexity_is_that_of_all_tokens_but_the_first() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, 1.0986123], [9.0, 9.0]]])  # ln 3: chances 1/4 and 3/4
    assert perplexity(logits, [0, 1, 1]) == pytest.approx((2 * 4 / 3) ** 0.5)


def test_an_encoder_decoder_writes_and_its_difference_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
                      decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    with caplog.at_level(logging.INFO, "llmkit"):
        writer = Writer.open(str(saved(T5ForConditionalGeneration(config), tmp_path / "t5")), dtype="int8")
    assert "what it computes of a short English text is off by" in caplog.text
    assert len(writer.write([[2, 3, 1]], GREEDY)[0]) == 1
    assert isinstance(writer.opened.model.get_submodule("lm_head"), EightBit)


def test_what_an_adapter_changes_in_weights_is_put_into_them_first(llama: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    base = LlamaForCausalLM.from_pretrained(llama)
    tuned = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "lora")
    rounded = models.open_model(tmp_path / "lora", eight_bits=True)
    assert not any("lora" in name for name, _ in rounded.model.named_modules())
    ids = torch.tensor([[2, 3, 4, 5]])
    with torch.no_grad():
        found, expected, without = (one(ids).logits for one in (
            rounded.model, tuned.eval(), LlamaForCausalLM.from_pretrained(llama)))
    assert (found - expected).norm() < 0.05 * expected.norm() < (without - expected).norm()


def test_an_adapters_virtual_tokens_stay_what_they_are(llama: Path, tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tuned = peft.get_peft_model(LlamaForCausalLM.from_pretrained(llama), config)
    tuned.save_pretrained(tmp_path / "prompt")
    writer, whole = (Writer.open(str(tmp_path / "prompt"), dtype=dtype) for dtype in ("int8", "float32"))
    assert writer.opened.virtual_tokens == 3
    assert any(isinstance(part, EightBit) for part in writer.opened.model.modules())
    assert writer.write([[2, 3, 4]], GREEDY)[0][0].tokens == whole.write([[2, 3, 4]], GREEDY)[0][0].tokens


def test_serve_opens_what_writes_so_but_not_for_adapters_that_share_it(llama: Path) -> None:
    (served,) = open_all({"small": llama}, {}, "int8").values()
    assert isinstance(served, WritingModel) and served.writer.decoder is not None
    assert isinstance(served.writer.decoder.head, EightBit)
    with pytest.raises(RequestError, match=r"an adapter .* shares its base's weights, which can't be rounded for both"):
        open_all({"small": llama}, {"over": (llama, "small")}, "int8")


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of one step."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    tree = tiny("bert", labelled, folder, max_steps=1)
    del tree["objective"]
    fit(recipe.load({**tree, "task": "classification"}))
    return folder


def test_a_model_is_measured_with_weights_of_8_bits(run: Path, labelled: Path) -> None:
    found, exact = (evaluate(run, labelled, precision=precision) for precision in ("int8", "fp32"))
    assert found["precision"] == "int8"
    assert found["metrics"]["loss"] == pytest.approx(exact["metrics"]["loss"], rel=0.02)
    assert found["metrics"]["loss"] != exact["metrics"]["loss"]


def test_the_commands_take_it(llama: Path, run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "the boats", "--model", str(llama), "--dtype", "int8", "--max-new-tokens", "3",
                 "--temperature", "0", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["completions"]
    assert "weights of its linear layers are of 8 bits" in said.err
    assert main(["predict", str(run), str(labelled), "--precision", "int8"]) == 0
    assert "label" in json.loads(capsys.readouterr().out.splitlines()[0])


def test_a_gpu_is_told_what_to_use_instead(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "kind", lambda: "cuda")
    with pytest.raises(RequestError, match=r"^--dtype int8: weights of 8 bits are for CPUs, and here a GPU computes\. "
                                           "Leave it out .*, or let the CPU compute: llmkit --device cpu"):
        Writer.open(str(llama), dtype="int8")


def test_a_processor_without_exact_products_is_told_so_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(eight_bits, "onednn_multiplies_int8", lambda: False)
    for command in (["generate", "hi", "--model", "no/such"], ["chat", "--model", "no/such"], ["serve", "no/such"]):
        assert main([*command, "--dtype", "int8"]) == 2
        assert "llmkit: error: --dtype int8: this CPU, or this torch, has no exact products of 8 bits" in (
            capsys.readouterr().err)


def test_who_cannot_have_it_is_told_why(llama: Path, run: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="precision int8: the model is open already"):
        evaluate(models.open_model(run / "model"), labelled, precision="int8")
    with pytest.raises(RequestError, match="int8 is no dtype of all numbers, but of weights"):
        models.open_model(llama, dtype="int8")
    packed = tmp_path / "packed"
    saved(LlamaForCausalLM.from_pretrained(llama), packed)
    said = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**said, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(RequestError, match=r"int8: the weights of .*packed have few bits in its own files already"):
        models.open_model(packed, eight_bits=True)
