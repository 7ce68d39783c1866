import shutil

import pytest
import torch
from conftest import tiny
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmkit import recipe
from llmkit.backbones.bert import Bert
from llmkit.backbones.gpt2 import GPT2
from llmkit.backbones.llama import Llama
from llmkit.backbones.t5 import T5
from llmkit.recipe.registry import find
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit
from llmkit.tuning.base import Setting
from llmkit.tuning.lora import Lora

IDS = torch.arange(3, 27).view(3, 8)


def bert(head):
    torch.manual_seed(0)
    return head(BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).eval()


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=1, eos_token_id=2)).eval()


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=64)).eval()


def t5():
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0)).eval()


CASES = {
    "gpt2": (gpt2, Setting(GPT2, "AutoModelForCausalLM"), "CAUSAL_LM"),
    "llama": (llama, Setting(Llama, "AutoModelForCausalLM"), "CAUSAL_LM"),
    "t5": (t5, Setting(T5, "AutoModelForSeq2SeqLM"), "SEQ_2_SEQ_LM"),
    "bert-mlm": (lambda: bert(BertForMaskedLM), Setting(Bert, "AutoModelForMaskedLM"), None),
    "bert-classes": (
        lambda: bert(BertForSequenceClassification),
        Setting(Bert, "AutoModelForSequenceClassification", new=("bert.pooler.dense", "classifier"), base="a-base"),
        "SEQ_CLS"),
}


def batch(case):
    return {"input_ids": IDS, "labels": torch.tensor([0, 1, 0]) if case == "bert-classes" else IDS}


def train(model, inputs, steps=20):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def reopened(tuned, case, folder, tolerance=1e-6):
    """What peft opens where a method saved: it and its merged form give the tuned model's logits."""
    make, _, task_type = CASES[case]
    fresh = PeftModel.from_pretrained(make(), str(folder)).eval()
    assert fresh.peft_config["default"].task_type == task_type
    more = {"decoder_input_ids": IDS} if case == "t5" else {}
    with torch.no_grad():
        expected = tuned.eval()(input_ids=IDS, **more).logits
        assert (fresh(input_ids=IDS, **more).logits - expected).abs().max() <= tolerance
        kind = fresh.peft_config["default"].peft_type
        assert (fresh.merge_and_unload()(input_ids=IDS, **more).logits - expected).abs().max() <= 1e-5
    return kind


def unmoved(tuned, before):
    """Whether the base under an adapter has the weights that it had."""
    base = tuned.get_base_model().state_dict()
    for name, weight in before.items():
        part, _, leaf = name.rpartition(".")
        wrapped = (name, f"{part}.base_layer.{leaf}", f"{part}.original_module.{leaf}")
        if not torch.equal(base[next(n for n in wrapped if n in base)], weight):
            return False
    return True


def test_its_file_name_is_its_name():
    assert find("tuning", "lora") is Lora


@pytest.mark.parametrize("case", CASES)
def test_at_the_start_it_is_the_base_model(case):
    make, setting, _ = CASES[case]
    base, tuned = make(), Lora().apply(make(), setting)
    with torch.no_grad():
        assert torch.equal(base(**batch(case)).logits, tuned(**batch(case)).logits)


def test_a_span_model_still_gets_its_token_types():
    setting = Setting(Bert, "AutoModelForQuestionAnswering", new=("qa_outputs",))
    base, tuned = bert(BertForQuestionAnswering), Lora().apply(bert(BertForQuestionAnswering), setting)
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 3)
    with torch.no_grad():
        expected = base(input_ids=IDS, token_type_ids=types).start_logits
        assert torch.equal(tuned(input_ids=IDS, token_type_ids=types).start_logits, expected)
        assert not torch.equal(base(input_ids=IDS).start_logits, expected)


@pytest.mark.parametrize("case", CASES)
def test_it_trains_only_products_and_new_parts_and_peft_opens_what_it_saves(case, tmp_path):
    make, setting, _ = CASES[case]
    method, before = Lora(), make().state_dict()
    tuned = method.apply(make(), setting)
    losses = train(tuned, batch(case))
    assert losses[-1] < losses[0]
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or ".modules_to_save." in name for name in trained)
    assert sum(".modules_to_save." in name for name in trained) == (4 if case == "bert-classes" else 0)
    method.save(tuned, tmp_path)
    assert unmoved(tuned, before)
    fresh = PeftModel.from_pretrained(make(), str(tmp_path))
    assert fresh.peft_config["default"].base_model_name_or_path == setting.base
    reopened(tuned, case, tmp_path)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_leaves_no_gradient_at_zero(case, reentrant):
    make, setting, _ = CASES[case]
    model = make()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    tuned = Lora().apply(model, setting)
    tuned.train()
    tuned(**batch(case)).loss.backward()
    for name, p in tuned.named_parameters():
        if p.requires_grad and ".lora_A." not in name:  # A's gradient is 0 while B is
            assert p.grad.abs().sum() > 0, name


def test_options_are_pefts_own():
    tuned = Lora(r=4, lora_alpha=4, lora_dropout=0.1, target_modules=["c_proj"], use_rslora=True, use_dora=True,
                 bias="lora_only").apply(gpt2(), Setting(GPT2, "AutoModelForCausalLM"))
    config = tuned.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (4, 4, 0.1, "lora_only")
    assert config.use_rslora and config.use_dora and config.target_modules == {"c_proj"}


STARTS = [("bert-mlm", "gaussian"), ("bert-classes", "orthogonal"), ("gpt2", "mica"), ("bert-classes", "pissa"),
          ("gpt2", "pissa"), ("llama", "pissa_niter_4"), ("llama", "olora")]


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["plain", "rslora", "dora"])
@pytest.mark.parametrize(("case", "start"), STARTS, ids=["-".join(pair) for pair in STARTS])
def test_every_start_is_the_base_model_and_is_saved_beside_the_base_as_it_was(case, start, options, tmp_path):
    make, setting, _ = CASES[case]
    method = Lora(init_lora_weights=start, **options)
    if start == "mica" and "use_dora" in options:
        with pytest.raises(RequestError, match="no DoRA that starts by mica"):
            method.check(setting.family, setting.head)
        return
    method.check(setting.family, setting.head)
    base, tuned = make(), method.apply(make(), setting)
    more = {"decoder_input_ids": IDS} if case == "t5" else {}
    with torch.no_grad():
        assert (base(input_ids=IDS, **more).logits - tuned(input_ids=IDS, **more).logits).abs().max() <= 1e-5
    losses = train(tuned, batch(case))
    assert losses[-1] < losses[0]
    method.save(tuned, tmp_path)
    fresh = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert fresh.peft_config["default"].r == (16 if start.startswith(("pissa", "olora")) else 8)
    with torch.no_grad():
        expected = tuned(input_ids=IDS, **more).logits
        assert (fresh(input_ids=IDS, **more).logits - expected).abs().max() <= 1e-5
        assert (fresh.merge_and_unload()(input_ids=IDS, **more).logits - expected).abs().max() <= 1e-5


def test_a_killed_run_that_took_its_start_out_of_the_base_goes_on_bit_for_bit(text, tmp_path):
    fit(recipe.load(tiny("gpt2", text, tmp_path / "base", max_steps=1)))
    asked = recipe.load({
        "backbone": {"pretrained": str(tmp_path / "base")}, "tuning": {"method": "lora", "init_lora_weights": "pissa"},
        "data": {"train": str(text), "max_length": 32}, "objective": "causal_lm", "output_dir": str(tmp_path / "run"),
        "training": {"max_steps": 4, "save_steps": 2, "global_batch_size": 8, "precision": "fp32"}})
    fit(asked)
    whole = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    fit(asked, resume="must")
    cut = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_pissa_starts_from_the_largest_singular_values():
    tuned = Lora(r=2, lora_alpha=2, init_lora_weights="pissa").apply(llama(), Setting(Llama, "AutoModelForCausalLM"))
    layer = tuned.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    weight = llama().get_submodule("model.layers.0.self_attn.q_proj").weight
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    largest = torch.linalg.svdvals(weight)[:2]
    assert torch.allclose(torch.linalg.svdvals(product)[:2], largest, atol=1e-5)
    assert torch.allclose(layer.base_layer.weight + product, weight, atol=1e-6)


@pytest.mark.parametrize(("options", "why"), [
    ({"init_lora_weights": "eva"}, "eva needs a pass over the training data"),
    ({"init_lora_weights": "loftq"}, "loftq needs quantized weights, which llmkit doesn't do"),
    ({"init_lora_weights": "pisa"}, r"no start is called 'pisa'\. Did you mean 'pissa'"),
    ({"init_lora_weights": "orthogonal", "r": 3}, "3 is odd"),
    ({"init_lora_weights": "olora"}, "of gpt2, which are stored transposed"),
])
def test_a_start_that_can_not_be_is_refused_with_what_can(options, why):
    with pytest.raises(RequestError, match=why):
        Lora(**options).check(GPT2, "AutoModelForCausalLM")


def test_dora_and_rslora_train_and_reload_the_same(tmp_path):
    method = Lora(use_dora=True, use_rslora=True, r=4)
    tuned = method.apply(gpt2(), Setting(GPT2, "AutoModelForCausalLM"))
    assert any("lora_magnitude_vector" in name for name, p in tuned.named_parameters() if p.requires_grad)
    layer = tuned.get_submodule("base_model.model.transformer.h.0.attn.c_attn")
    assert layer.scaling["default"] == 16 / 4**0.5
    train(tuned, batch("gpt2"))
    method.save(tuned, tmp_path)
    fresh = PeftModel.from_pretrained(gpt2(), str(tmp_path)).eval()
    with torch.no_grad():
        expected = tuned(input_ids=IDS).logits
        assert (fresh(input_ids=IDS).logits - expected).abs().max() <= 1e-6
        assert (fresh.merge_and_unload()(input_ids=IDS).logits - expected).abs().max() <= 1e-5


def test_a_typo_in_one_of_several_names_is_an_error_with_the_nearest_name():
    with pytest.raises(RequestError, match=r"'qury'\. Did you mean 'query'"):
        Lora(target_modules=["qury", "value"]).apply(bert(BertForMaskedLM), Setting(Bert, "AutoModelForMaskedLM"))


def test_a_pattern_that_matches_nothing_or_is_none_is_an_error():
    setting = Setting(Bert, "AutoModelForMaskedLM")
    with pytest.raises(RequestError, match="matches the whole name of no layer"):
        Lora(target_modules="query").apply(bert(BertForMaskedLM), setting)
    with pytest.raises(RequestError, match="is no regular expression"):
        Lora(target_modules="(query").apply(bert(BertForMaskedLM), setting)
    Lora(target_modules=r".*\.query").apply(bert(BertForMaskedLM), setting)


def test_all_linear_leaves_a_new_head_to_train_whole():
    make, setting, _ = CASES["bert-classes"]
    tuned = Lora(target_modules="all-linear").apply(make(), setting)
    names = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert "base_model.model.classifier.modules_to_save.default.weight" in names
    assert "base_model.model.bert.pooler.dense.modules_to_save.default.weight" in names
    assert not any("classifier" in name and "lora" in name for name in names)


def test_a_family_without_a_default_takes_all_linear_layers_but_the_head():
    class Strange(Bert):
        model_type = "modernbert"

    Lora().check(Strange, "AutoModelForMaskedLM")
    linear = {"query", "key", "value", "dense"}
    tuned = Lora().apply(bert(BertForMaskedLM), Setting(Strange, "AutoModelForMaskedLM"))
    changed = {name for name, _ in tuned.named_modules() if name.endswith("lora_A")}
    assert {name.split(".")[-2] for name in changed} == linear and not any("decoder" in name for name in changed)
    Lora(target_modules=["Wqkv"]).check(Strange, "AutoModelForMaskedLM")
    Lora().check(Bert, "AutoModelForMaskedLM")
    with pytest.raises(RequestError, match="nothing is named"):
        Lora(target_modules=[]).check(Bert, "AutoModelForMaskedLM")
