import json

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import pad
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

from llmkit.backbones.base import Family
from llmkit.backbones.bert import Bert
from llmkit.backbones.gpt2 import GPT2
from llmkit.backbones.llama import Llama
from llmkit.backbones.t5 import T5
from llmkit.recipe.registry import find
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.tuning.base import Setting
from llmkit.tuning.prefix import Prefix, load

IDS = torch.arange(3, 27).view(3, 8)
RIGHT = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 7 + [0]])
POINTS = 5


class ModernBert(Family):
    model_type = "modernbert"
    shape = "encoder"


class Permuted(Family):
    model_type = "xlnet"
    shape = "permuted"


def gpt2(head=GPT2LMHeadModel):
    torch.manual_seed(0)
    return head(GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3)).eval()


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0, initializer_range=0.3)).eval()


def bert(head=BertForMaskedLM):
    torch.manual_seed(0)
    return head(BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.3)).eval()


def modernbert():
    torch.manual_seed(0)
    return ModernBertForMaskedLM(ModernBertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
        local_attention=8)).eval()


def t5(head=T5ForConditionalGeneration, dropout=0.0):
    torch.manual_seed(0)
    return head(T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=dropout, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=0)).eval()


HEADS = ("bert.pooler.dense", "classifier")
CASES = {
    "gpt2": (gpt2, Setting(GPT2, "AutoModelForCausalLM", base="a-base")),
    "gpt2-classes": (
        lambda: gpt2(GPT2ForSequenceClassification),
        Setting(GPT2, "AutoModelForSequenceClassification", new=("score",))),
    "llama": (llama, Setting(Llama, "AutoModelForCausalLM")),
    "bert-mlm": (bert, Setting(Bert, "AutoModelForMaskedLM")),
    "bert-classes": (
        lambda: bert(BertForSequenceClassification), Setting(Bert, "AutoModelForSequenceClassification", new=HEADS)),
    "bert-tags": (
        lambda: bert(BertForTokenClassification),
        Setting(Bert, "AutoModelForTokenClassification", new=("classifier",))),
    "bert-spans": (
        lambda: bert(BertForQuestionAnswering), Setting(Bert, "AutoModelForQuestionAnswering", new=("qa_outputs",))),
    "t5": (t5, Setting(T5, "AutoModelForSeq2SeqLM")),
    "t5-classes": (
        lambda: t5(T5ForSequenceClassification),
        Setting(T5, "AutoModelForSequenceClassification", new=("classification_head",))),
    "modernbert": (modernbert, Setting(ModernBert, "AutoModelForMaskedLM")),
}
PLAIN = ["gpt2", "gpt2-classes", "llama", "bert-mlm", "bert-classes", "bert-tags", "bert-spans"]
THROUGH_PEFT = ["gpt2", "gpt2-classes", "llama", "bert-classes", "bert-tags"]
OWN = ["t5", "t5-classes", "modernbert"]


def made(case, method=None, **changes):
    """A tuned model, with gradient checkpointing where the setting says so."""
    make, setting = CASES[case]
    setting = Setting(**{**vars(setting), **changes})
    model = make()
    if setting.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(1)
    return (method or Prefix(num_virtual_tokens=POINTS)).apply(model, setting).eval()


def inputs(case, **more):
    ids = IDS.clone()
    if case == "t5-classes":
        ids[:, -1] = 2
    return {"input_ids": ids, **({"decoder_input_ids": IDS.flip(1)} if case == "t5" else {}), **more}


def labelled(case):
    if case.endswith("classes"):
        return inputs(case, labels=torch.tensor([0, 1, 0]))
    if case.endswith("spans"):
        return inputs(case, start_positions=torch.tensor([0, 1, 2]), end_positions=torch.tensor([3, 3, 3]))
    return inputs(case, labels=IDS % 2 if case.endswith("tags") else IDS)


def outputs(model, **batch):
    with torch.no_grad():
        out = model(**batch)
    return torch.cat([out.start_logits, out.end_logits]) if "start_logits" in out else out.logits


def difference(a, b):
    return (a - b).abs().max().item()


def train(model, batch, steps=20):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.02)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def through_peft(model):
    return isinstance(model, PeftModel)


def both(case, tmp_path):
    """One set of weights through transformers' attention interface and through peft."""
    ours = made(case, packed=True)
    assert not through_peft(ours)
    Prefix().save(ours, tmp_path)
    return ours, PeftModel.from_pretrained(CASES[case][0](), str(tmp_path)).eval()


def test_its_file_name_is_its_name():
    assert find("tuning", "prefix") is Prefix


@pytest.mark.parametrize("case", CASES)
def test_peft_is_used_where_it_is_right(case, caplog):
    with caplog.at_level("INFO", "llmkit"):
        assert through_peft(made(case)) == (case in THROUGH_PEFT)
        assert not through_peft(made(case, packed=True))
        assert not through_peft(made(case, gradient_checkpointing=True))
    said = [record.message for record in caplog.records]
    assert (said[0] == "prefix: through peft.") == (case in THROUGH_PEFT)
    assert said[1].startswith("prefix: through transformers' attention interface (")


@pytest.mark.parametrize("case", PLAIN)
def test_both_ways_give_the_same_outputs_from_the_same_weights(case, tmp_path):
    ours, pefts = both(case, tmp_path)
    batches = [inputs(case), inputs(case, attention_mask=RIGHT)]
    if case != "bert-spans":  # peft drops position_ids here
        batches.append(inputs(case, attention_mask=RIGHT, position_ids=torch.arange(8).expand(3, 8) + 2))
    for batch in batches:
        expected = outputs(pefts, **batch)
        seen = outputs(ours, **batch)
        assert difference(seen, expected) <= 1e-5
    base = CASES[case][0]()
    assert difference(outputs(base, **inputs(case)), outputs(ours, **inputs(case))) > 1e-2
    if case in ("gpt2", "llama"):
        left = inputs(case, attention_mask=RIGHT.flip(1))
        assert difference(outputs(ours, **left)[left["attention_mask"] == 1],
                          outputs(pefts, **left)[left["attention_mask"] == 1]) <= 1e-5


@pytest.mark.parametrize("case", THROUGH_PEFT)
@pytest.mark.parametrize("projection", [False, True])
def test_both_ways_start_from_the_same_weights_and_train_alike(case, projection):
    method = Prefix(POINTS, prefix_projection=projection, encoder_hidden_size=16 if projection else None)
    pefts, ours = made(case, method), made(case, method, gradient_checkpointing=True)
    assert through_peft(pefts) and not through_peft(ours)
    assert difference(outputs(pefts, **inputs(case)), outputs(ours, **inputs(case))) <= 1e-5
    for a, b in zip(train(pefts, labelled(case), 5), train(ours, labelled(case), 5), strict=True):
        assert abs(a - b) <= 2e-4


def test_a_prefix_takes_the_first_positions_of_gpt2_and_its_columns_are_layer_then_key_then_value(tmp_path):
    ours = made("gpt2", packed=True)
    Prefix().save(ours, tmp_path)
    from safetensors.torch import load_file

    table = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    assert table.shape == (5, 2 * 2 * 32)
    assert torch.equal(table[:, 64:128], ours.transformer.h[1].attn.prefix.rows())
    key, _ = ours.transformer.h[1].attn.prefix(torch.zeros(1, 4, 0, 8), torch.zeros(1, 4, 0, 8))
    assert torch.equal(key[0].transpose(0, 1).reshape(5, 32), table[:, 64:96])
    seen = []
    ours.transformer.wpe.register_forward_hook(lambda module, args, out: seen.append(args[0].tolist()))
    outputs(ours, **inputs("gpt2"))
    assert seen == [[[5, 6, 7, 8, 9, 10, 11, 12]]]


def test_a_t5_has_a_prefix_in_every_attention_without_distance_to_it():
    ours = made("t5")
    names = [name for name, _ in ours.named_parameters() if name.endswith("prefix.weight")]
    assert [name.removesuffix(".prefix.weight") for name in names] == [
        "encoder.block.0.layer.0.SelfAttention", "encoder.block.1.layer.0.SelfAttention",
        "decoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.1.EncDecAttention",
        "decoder.block.1.layer.0.SelfAttention", "decoder.block.1.layer.1.EncDecAttention"]
    module, zeros = ours.encoder.block[0].layer[0].SelfAttention, torch.zeros(1, 4, 2, 8)
    with torch.no_grad():  # keys of 0 without bias share the attention evenly: values of 7 on 5 of 7 keys
        module.prefix.weight.view(POINTS, 2, 4, 8)[:, 0] = 0
        module.prefix.weight.view(POINTS, 2, 4, 8)[:, 1] = 7
        from llmkit.tuning.shared.attention_prefix import attend

        seen, _ = attend(module, zeros, zeros, zeros, None, scaling=1.0, position_bias=torch.zeros(1, 4, 2, 2))
    assert difference(seen, torch.full((1, 2, 4, 8), 5.0)) <= 1e-5


@pytest.mark.parametrize("place", ["encoder.block.1.layer.0.SelfAttention", "decoder.block.0.layer.0.SelfAttention",
                                   "decoder.block.1.layer.1.EncDecAttention"])
def test_every_attention_of_a_t5_sees_its_prefix(place):
    ours = made("t5")
    before = outputs(ours, **inputs("t5"))
    with torch.no_grad():
        ours.get_submodule(place).prefix.weight.neg_()
    assert difference(outputs(ours, **inputs("t5")), before) > 1e-3


def test_the_prefix_acts_when_encoder_and_decoder_are_called_apart():
    ours = made("t5")
    ids, targets = inputs("t5").values()
    with torch.no_grad():
        hidden = ours.get_encoder()(input_ids=ids)
        apart = ours(encoder_outputs=hidden, decoder_input_ids=targets).logits
    assert torch.equal(apart, outputs(ours, **inputs("t5")))


@pytest.mark.parametrize("case", ["gpt2", "llama", "bert-mlm"])
def test_documents_that_share_a_row_see_the_prefix_but_not_each_other(case):
    ours, family = made(case, packed=True), CASES[case][1].family
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2]])
    with torch.no_grad():
        row = family.outputs(ours, {"input_ids": IDS[:1], "documents": documents}).logits
    for start, end in ((0, 3), (3, 7), (7, 8)):
        assert difference(row[:, start:end], outputs(ours, input_ids=IDS[:1, start:end])) <= 1e-5


def test_documents_that_share_a_row_of_t5_see_the_prefix_but_not_each_other():
    ours, targets = made("t5", packed=True), IDS[1:2]
    with torch.no_grad():
        row = T5.outputs(ours, {
            "input_ids": IDS[:1], "documents": torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]]),
            "decoder_input_ids": targets, "decoder_documents": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])}).logits
    first = outputs(ours, input_ids=IDS[:1, :5], decoder_input_ids=targets[:, :3])
    assert difference(row[:, :3], first) <= 1e-5
    alone = outputs(ours, input_ids=IDS[:1, 5:], decoder_input_ids=targets[:, 3:])
    assert difference(row[:, 3:4], alone[:, :1]) <= 1e-5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("checkpointing", "projection"), [(False, False), (True, False), (True, True)])
def test_only_prefix_and_new_parts_train_and_none_of_them_without_gradient(case, checkpointing, projection):
    method = Prefix(num_virtual_tokens=POINTS, prefix_projection=projection)
    tuned = made(case, method, gradient_checkpointing=checkpointing)
    trained = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    new = CASES[case][1].new
    for name in trained:
        assert ".prefix." in name or "prompt_encoder" in name or any(part in name for part in new), name
    for part in new:
        assert any(part in name for name in trained)
    frozen = {name: p.clone() for name, p in tuned.named_parameters() if not p.requires_grad}
    tuned.train()
    tuned(**labelled(case)).loss.backward()
    for name, p in trained.items():
        assert p.grad.abs().sum() > 0, name
    losses = train(tuned, labelled(case))
    assert losses[-1] < losses[0]
    for name, p in tuned.named_parameters():
        assert name not in frozen or torch.equal(p, frozen[name])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("case", PLAIN)
def test_a_plain_adapter_opens_in_peft_and_in_load(case, checkpointing, tmp_path):
    tuned = made(case, gradient_checkpointing=checkpointing)
    train(tuned, labelled(case), 3)
    Prefix().save(tuned, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "PREFIX_TUNING"
    assert config["base_model_name_or_path"] == CASES[case][1].base
    if case == "bert-classes":
        assert set(HEADS) <= set(config["modules_to_save"])
    expected = outputs(tuned, **inputs(case, attention_mask=RIGHT))
    for opened in (PeftModel.from_pretrained(CASES[case][0](), str(tmp_path)).eval(), load(CASES[case][0](), tmp_path)):
        assert difference(outputs(opened, **inputs(case, attention_mask=RIGHT)), expected) <= 2e-6


@pytest.mark.parametrize("case", OWN)
def test_an_adapter_that_peft_cannot_reproduce_is_refused_by_it_and_opens_in_load(case, tmp_path):
    tuned = made(case)
    train(tuned, labelled(case), 3)
    Prefix().save(tuned, tmp_path)
    with pytest.raises(KeyError, match="LLMKIT_PREFIX"):
        PeftModel.from_pretrained(CASES[case][0](), str(tmp_path))
    opened = load(CASES[case][0](), tmp_path)
    assert difference(outputs(opened, **inputs(case)), outputs(tuned, **inputs(case))) <= 1e-6
    assert not any(p.requires_grad for p in opened.parameters())
    again = tmp_path / "again"
    Prefix().save(opened, again)
    assert (again / "adapter_model.safetensors").read_bytes() == (tmp_path / "adapter_model.safetensors").read_bytes()


def test_load_refuses_another_models_prefix(tmp_path):
    Prefix().save(made("t5"), tmp_path)
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.prefix' is missing; it belongs to another model"):
        load(gpt2(), tmp_path)
    Prefix().save(made("gpt2", packed=True), tmp_path)
    with pytest.raises(CheckpointError, match="it belongs to another model"):
        load(llama(), tmp_path)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("case", ["gpt2", "t5"])
def test_a_projection_is_saved_as_what_came_out_of_it_and_its_state_is_ordinary_parameters(case, projection, tmp_path):
    method = Prefix(num_virtual_tokens=POINTS, prefix_projection=projection)
    tuned = made(case, method, packed=True)
    train(tuned, labelled(case), 3)
    state = {name: p.detach().clone() for name, p in tuned.named_parameters() if p.requires_grad}
    other = made(case, method, packed=True)
    assert difference(outputs(other, **inputs(case)), outputs(tuned, **inputs(case))) > 1e-4
    other.load_state_dict(state, strict=False)
    assert torch.equal(outputs(other, **inputs(case)), outputs(tuned, **inputs(case)))
    method.save(tuned, tmp_path)
    assert difference(outputs(load(CASES[case][0](), tmp_path), **inputs(case)), outputs(tuned, **inputs(case))) <= 1e-5


def generate(model, ids, mask, **more):
    length = {"max_new_tokens": 6, "min_new_tokens": 6}
    return model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **length, **more)


@pytest.mark.parametrize("way", ["peft", "attention", "attention, checkpointing"])
@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_generation_is_the_forward_pass_a_token_at_a_time(case, way):
    tuned = made(case, packed=way == "attention", gradient_checkpointing=way.endswith("checkpointing"))
    assert through_peft(tuned) == (way == "peft")
    text = generate(tuned, IDS, torch.ones_like(IDS))
    logits = outputs(tuned, input_ids=text, attention_mask=torch.ones_like(text))[:, 7:-1].clone()
    logits[..., 2] = -1e9  # min_new_tokens forbids the end
    assert torch.equal(text[:, 8:], logits.argmax(-1))
    padded = generate(tuned, pad(IDS, (3, 0)), pad(torch.ones_like(IDS), (3, 0)))
    assert torch.equal(padded[:, 11:], text[:, 8:])
    if way != "peft":
        assert torch.equal(generate(tuned, IDS, torch.ones_like(IDS), use_cache=False), text)


def test_both_ways_generate_the_same(tmp_path):
    for case in ("gpt2", "llama"):
        ours, pefts = both(case, tmp_path / case)
        assert torch.equal(generate(ours, IDS, torch.ones_like(IDS)), generate(pefts, IDS, torch.ones_like(IDS)))


def test_t5_generation_is_the_forward_pass_a_token_at_a_time():
    tuned = made("t5")
    text = generate(tuned, IDS, torch.ones_like(IDS))
    logits = outputs(tuned, input_ids=IDS, decoder_input_ids=text[:, :-1]).clone()
    logits[..., 2] = -1e9
    assert torch.equal(text[:, 1:], logits.argmax(-1))
    assert torch.equal(generate(tuned, IDS, torch.ones_like(IDS), use_cache=False), text)
    assert torch.equal(generate(tuned, IDS, torch.ones_like(IDS), num_beams=2)[:, 0], text[:, 0])
    padded = generate(tuned, pad(IDS, (0, 3)), pad(torch.ones_like(IDS), (0, 3)))
    assert torch.equal(padded, text)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_trains_under_bf16_autocast(case, checkpointing):
    tuned = made(case, gradient_checkpointing=checkpointing).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = tuned(**labelled(case)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in tuned.parameters() if p.requires_grad)


def test_t5_with_dropout_checkpoints_to_the_same_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = t5(dropout=0.1)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(1)
        tuned = Prefix(num_virtual_tokens=POINTS).apply(model, CASES["t5"][1]).train()
        torch.manual_seed(2)
        tuned(**labelled("t5")).loss.backward()
        gradients.append([p.grad for p in tuned.parameters() if p.requires_grad])
    assert len(gradients[0]) == 6
    for plain, recomputed in zip(*gradients, strict=True):
        assert difference(plain, recomputed) <= 1e-6


def test_the_global_seed_decides_where_it_starts():
    a, b = made("t5"), made("t5")
    assert torch.equal(outputs(a, **inputs("t5")), outputs(b, **inputs("t5")))


def test_it_takes_positions_and_says_how_many():
    assert Prefix(num_virtual_tokens=7).virtual_tokens == 7
    assert Prefix(num_virtual_tokens=7).describe() == "7 virtual tokens"


def test_what_cannot_work_is_refused():
    Prefix().check(GPT2, "AutoModelForCausalLM")
    with pytest.raises(RequestError, match=r"prefix doesn't fit xlnet.*Use lora or full instead"):
        Prefix().check(Permuted, "AutoModelForCausalLM")
    with pytest.raises(RequestError, match="set prefix_projection: true too"):
        Prefix(encoder_hidden_size=8).check(GPT2, "AutoModelForCausalLM")


class Words:
    """A tokenizer whose words are numbers."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [int(word) for word in text.split()]}


def from_text(case, text="7 9 30 31 32", **changes):
    return made(case, Prefix(num_virtual_tokens=POINTS, prefix_init_text=text), tokenizer=Words(), **changes)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_a_decoders_prefix_that_starts_from_a_text_is_that_text(case, packed):
    text = torch.tensor([[7, 9, 30, 31, 32]]).expand(3, -1)
    expected = outputs(CASES[case][0](), input_ids=torch.cat([text, IDS], 1))[:, 5:]
    assert difference(outputs(from_text(case, packed=packed), **inputs(case)), expected) <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_every_attention_starts_from_the_texts_keys_and_values_and_trains(case, tmp_path):
    tuned, noise = from_text(case), made(case)
    assert through_peft(tuned) == (case in THROUGH_PEFT)
    assert difference(outputs(tuned, **inputs(case)), outputs(noise, **inputs(case))) > 1e-4
    assert difference(outputs(tuned, **inputs(case)), outputs(from_text(case, "9 8"), **inputs(case))) > 1e-6
    losses = train(tuned, labelled(case), 10)
    assert losses[-1] < losses[0]


def test_a_short_text_is_repeated_and_a_long_one_cut():
    for text, fits in (("7 9", "7 9 7 9 7"), ("7 9 30 31 32 33 34", "7 9 30 31 32")):
        assert torch.equal(outputs(from_text("t5", text), **inputs("t5")),
                           outputs(from_text("t5", fits), **inputs("t5")))


def test_the_encoders_first_layer_starts_from_the_texts_own_keys_and_values():
    tuned = from_text("t5")
    layer = tuned.encoder.block[0].layer[0]
    with torch.no_grad():
        read = layer.layer_norm(tuned.shared(torch.tensor([7, 9, 30, 31, 32])))
        expected = torch.cat([layer.SelfAttention.k(read), layer.SelfAttention.v(read)], 1)
    assert difference(layer.SelfAttention.prefix.rows(), expected) <= 1e-5


def test_a_text_goes_with_no_projection():
    with pytest.raises(RequestError, match=r"prefix_init_text: what a projection starts from"):
        Prefix(prefix_init_text="a", prefix_projection=True).check(GPT2, "AutoModelForCausalLM")
    with pytest.raises(RequestError, match=r"prefix_init_text: there is no word in it"):
        Prefix(prefix_init_text=" ").check(GPT2, "AutoModelForCausalLM")
