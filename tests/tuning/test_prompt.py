import json
import re

import pytest
import torch
import transformers
from peft import PeftModel, PromptTuningConfig, TaskType, get_peft_model
from torch.nn.functional import pad
from transformers import AutoConfig

from llmkit import recipe
from llmkit.objectives.permuted_lm import hidden
from llmkit.planning.settle import settle
from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.tuning.base import Setting
from llmkit.tuning.prompt import Prompt, closes, fitted, frequent, load, sides

POINTS = 3
IDS = torch.arange(5, 21).view(2, 8)
RIGHT = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
PADDED = IDS * RIGHT
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 64}
SEQ2SEQ = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "dropout": 0.0,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
           "decoder_start_token_id": 0, "bos_token_id": 1, "forced_eos_token_id": None, "init_std": 0.3}
CONFIGS = {
    "bert": WIDTH, "roberta": WIDTH, "electra": {**WIDTH, "embedding_size": 16},
    "albert": {**WIDTH, "embedding_size": 16},
    "deberta": {**WIDTH, "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm",
                "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "modernbert": {**WIDTH, "num_hidden_layers": 3, "local_attention": 32, "cls_token_id": 1, "sep_token_id": 2,
                   "bos_token_id": 1, "initializer_cutoff_factor": 9.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
             "attn_pdrop": 0.0, "bos_token_id": 1},
    "llama": {**WIDTH, "num_key_value_heads": 2},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
           "decoder_start_token_id": 0},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "dropout": 0.0},
    "bart": SEQ2SEQ, "transformer": {**SEQ2SEQ, "scale_embedding": True},
}
ENCODERS = ("bert", "roberta", "electra", "albert", "deberta", "modernbert")
HEADS = {name: f"AutoModelFor{name}" for name in (
    "MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "CausalLM", "Seq2SeqLM")}
CASES = (
    *((family, head) for family in ENCODERS
      for head in ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")),
    *((family, head) for family in ("gpt2", "llama")
      for head in ("CausalLM", "SequenceClassification", "TokenClassification")),
    *((family, "Seq2SeqLM") for family in ("t5", "bart", "transformer")),
    *(("xlnet", head) for head in ("SequenceClassification", "TokenClassification")),
    ("t5", "SequenceClassification"), ("bart", "SequenceClassification"), ("t5", "TokenClassification"))
PLAIN = (("gpt2", "CausalLM"), ("llama", "CausalLM"), ("t5", "Seq2SeqLM"), ("bart", "Seq2SeqLM"))


class Words:
    """A tokenizer whose words are `w0` to `w49`, after 5 special tokens; pieces of `w7+w8` are two."""

    all_special_tokens = ("[PAD]", "[CLS]", "[SEP]", "<s>", "[MASK]")
    all_special_ids = (0, 1, 2, 3, 4)

    def __call__(self, text, add_special_tokens=True):
        ids = [int(number) for number in re.findall(r"w(\d+)", text)]
        return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}

    def get_vocab(self):
        return {**dict(zip(self.all_special_tokens, range(5), strict=True)), **{f"w{i}": i for i in range(5, 50)}}


def model(family, head, **changes):
    torch.manual_seed(0)
    kind = registry.find("backbones", family).model_type
    spread = {} if family in ("t5", "bart", "transformer") else {"initializer_range": 0.3}
    config = AutoConfig.for_model(kind, **{
        "vocab_size": 50, "pad_token_id": 0, "eos_token_id": 2, "num_labels": 2, **spread, **CONFIGS[family],
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0), **changes})
    return getattr(transformers, f"AutoModelFor{head}").from_config(config).eval()


def setting(family, head, **more):
    return Setting(registry.find("backbones", family), f"AutoModelFor{head}", tokenizer=Words(), **more)


def made(family, head, method=None, **more):
    net = model(family, head)
    if more.get("gradient_checkpointing"):
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(1)
    return (method or Prompt(num_virtual_tokens=POINTS)).apply(net, setting(family, head, **more)).eval()


def new_part(family, head):
    return (registry.find("backbones", family).heads[f"AutoModelFor{head}"],) if not head.endswith("LM") else ()


def batch(family, head, ids=PADDED, **more):
    ids = ids.clone()
    if family in ("t5", "bart") and head == "SequenceClassification":  # these classify at the end token
        mask = more.get("attention_mask", torch.ones_like(ids))
        ids.scatter_(1, mask.sum(1, keepdim=True) - 1, 2)
    return {"input_ids": ids, **({"decoder_input_ids": IDS.flip(1)[:, :6]} if head == "Seq2SeqLM" else {}), **more}


def targets(head):
    if head == "SequenceClassification":
        return {"labels": torch.tensor([0, 1])}
    if head == "QuestionAnswering":
        return {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([3, 4])}
    return {"labels": {"TokenClassification": IDS % 2, "Seq2SeqLM": IDS[:, :6].contiguous()}.get(head, IDS)}


def logits(net, **given):
    with torch.no_grad():
        out = net(**given)
    return torch.stack([out.start_logits, out.end_logits], 2) if "start_logits" in out else out.logits


def difference(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def embedded(net, ids):
    return net.get_input_embeddings()(ids)


def by_hand(family, head, prompt, ids, **given):
    """The untuned model's logits for the text, where the prompt is put among its embeddings."""
    net, encoder = model(family, head), family in ENCODERS
    text = embedded(net, ids)
    if family == "transformer":
        text, prompt = text * 32**0.5, prompt * 32**0.5
    first = int(encoder)
    read = torch.cat([text[:, :first], prompt.expand(len(ids), -1, -1), text[:, first:]], 1)
    out = logits(net, inputs_embeds=read, **given)
    if head in ("SequenceClassification", "Seq2SeqLM"):
        return out
    return torch.cat([out[:, :first], out[:, first + len(prompt):]], 1)


def learned(net):
    with torch.no_grad():
        return net.soft_prompt.rows().clone()


def train(net, given, steps=10, rate=0.02):
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], rate)
    net.train()
    losses = []
    for _ in range(steps):
        loss = net(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    net.eval()
    return losses


def test_its_file_name_is_its_name():
    assert registry.find("tuning", "prompt") is Prompt


@pytest.mark.parametrize(("family", "head"), [c for c in CASES if c[0] not in ("t5", "bart") or c[1] == "Seq2SeqLM"])
def test_outputs_are_those_of_the_text_between_embeddings_put_there_by_hand(family, head):
    if (family, head) in (("gpt2", "SequenceClassification"), ("llama", "SequenceClassification")):
        pytest.skip("pools by ids, which embeddings don't have: see the next test")
    tuned = made(family, head)
    given = batch(family, head, IDS)
    seen = logits(tuned, **given)
    assert difference(seen, by_hand(family, head, learned(tuned), given.pop("input_ids"), **given)) <= 1e-5
    assert difference(seen, logits(model(family, head), **batch(family, head, IDS))) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_classifies_at_the_last_token_of_each_padded_row(family):
    tuned = made(family, "SequenceClassification")
    seen = logits(tuned, **batch(family, "SequenceClassification", attention_mask=RIGHT))
    head = model(family, "SequenceClassification")
    body = head.base_model
    for row, length in ((0, 8), (1, 5)):
        text = embedded(head, IDS[row : row + 1, :length])
        with torch.no_grad():
            hidden = body(inputs_embeds=torch.cat([learned(tuned)[None], text], 1)).last_hidden_state
            assert difference(seen[row], head.score(hidden[0, -1])) <= 1e-5


@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case != ("xlnet", "SequenceClassification")])
def test_padding_changes_nothing(family, head):
    tuned = made(family, head)
    seen = logits(tuned, **batch(family, head, attention_mask=RIGHT))
    short = batch(family, head, IDS[1:, :5])
    if head == "Seq2SeqLM":
        short["decoder_input_ids"] = short["decoder_input_ids"][1:]
    alone = logits(tuned, **short)
    whole = seen[1:] if head in ("Seq2SeqLM", "SequenceClassification") else seen[1:, :5]
    assert difference(whole, alone) <= 1e-5


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_padding_on_the_left_stays_on_the_left(family):
    head = {"bert": "TokenClassification", "t5": "Seq2SeqLM", "llama": "CausalLM"}[family]
    tuned = made(family, head)
    left = {"attention_mask": RIGHT[1:].flip(1)}
    if family == "bert":
        left["position_ids"] = torch.tensor([[0, 0, 0, 0, 1, 2, 3, 4]])
    given = batch(family, head, pad(IDS[1:, :5], (3, 0)), **left)
    short = batch(family, head, IDS[1:, :5])
    for one in (given, short):
        if head == "Seq2SeqLM":
            one["decoder_input_ids"] = one["decoder_input_ids"][1:]
    seen = logits(tuned, **given)
    assert difference(seen if head == "Seq2SeqLM" else seen[:, 3:], logits(tuned, **short)) <= 1e-5


def test_a_virtual_token_has_the_type_of_the_token_that_it_follows_and_the_next_position():
    tuned = made("bert", "TokenClassification", Prompt(template="<soft> w9 {text} w8"))
    noted = {}
    tuned.bert.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: noted.update(kwargs), with_kwargs=True)
    positions, types = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]]), torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    logits(tuned, input_ids=IDS, attention_mask=RIGHT, token_type_ids=types, position_ids=positions)
    assert noted["input_ids"].tolist() == [
        [5, 1, 1, 6, 7, 8, 9, 10, 11, 1, 12], [13, 1, 1, 14, 15, 16, 1, 17, 18, 19, 20]]
    assert noted["token_type_ids"].tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]]
    assert noted["position_ids"].tolist() == [list(range(11))] * 2


def test_hidden_states_are_the_texts_own():
    given = {"input_ids": IDS, "output_hidden_states": True}
    for family, head in (("bert", "MaskedLM"), ("gpt2", "CausalLM")):
        with torch.no_grad():
            out = made(family, head)(**given)
        assert [hidden.shape for hidden in out.hidden_states] == [(2, 8, 32)] * 3


def test_a_plain_body_pools_its_own_first_token():
    torch.manual_seed(0)
    net = transformers.BertModel(model("bert", "MaskedLM").config).eval()
    text = embedded(net, IDS)
    tuned = Prompt(num_virtual_tokens=POINTS).apply(net, Setting(
        registry.find("backbones", "bert"), "AutoModel", tokenizer=Words()))
    prompt = learned(tuned).expand(2, -1, -1)
    with torch.no_grad():
        out = tuned(input_ids=IDS)
        read = torch.cat([text[:, :1], prompt, text[:, 1:]], 1)
        for hook in (tuned._forward_pre_hooks, tuned._forward_hooks):
            hook.clear()
        expected = tuned(inputs_embeds=read)
    assert out.last_hidden_state.shape == (2, 8, 32)
    assert difference(out.pooler_output, expected.pooler_output) <= 1e-6


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_embeddings_may_be_given_instead_of_ids(family):
    head = "MaskedLM" if family == "bert" else "CausalLM"
    tuned = made(family, head)
    assert difference(logits(tuned, inputs_embeds=embedded(tuned, IDS)), logits(tuned, input_ids=IDS)) <= 1e-6


@pytest.mark.parametrize(("family", "head"), PLAIN)
def test_peft_opens_what_is_saved_and_gives_the_same(family, head, tmp_path):
    tuned = made(family, head, base="a-base")
    train(tuned, {"input_ids": IDS, **targets(head)}, 3)
    Prompt().save(tuned, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "PROMPT_TUNING"
    assert config["base_model_name_or_path"] == "a-base"
    pefts = PeftModel.from_pretrained(model(family, head), str(tmp_path)).eval()
    for given in (batch(family, head, IDS), batch(family, head, attention_mask=RIGHT)):
        expected = logits(pefts, **given)
        seen = logits(tuned, **given)
        assert difference(seen, expected[:, -seen.shape[1]:]) <= 1e-5
    assert difference(logits(load(model(family, head), tmp_path), **given), seen) <= 1e-6
    length = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    ours, theirs = (net.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), **length) for net in
                    (tuned, pefts))
    assert torch.equal(ours, theirs)


def test_what_peft_trained_opens_too(tmp_path):
    for family, head, task in (("t5", "Seq2SeqLM", TaskType.SEQ_2_SEQ_LM), ("bert", "SequenceClassification",
                                                                              TaskType.SEQ_CLS)):
        pefts = get_peft_model(model(family, head), PromptTuningConfig(task_type=task, num_virtual_tokens=4)).eval()
        pefts.save_pretrained(str(tmp_path / family))
        opened = load(model(family, head), tmp_path / family)
        assert isinstance(opened, PeftModel) == (family == "bert")
        assert difference(logits(opened, **batch(family, head)), logits(pefts, **batch(family, head))) <= 1e-5


@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case not in PLAIN])
def test_what_peft_cannot_reproduce_is_refused_by_it_and_opens_in_load(family, head, tmp_path):
    new = new_part(family, head)
    tuned = made(family, head, new=new)
    train(tuned, {**batch(family, head), **targets(head)}, 2)
    Prompt().save(tuned, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == (list(new) or None)
    with pytest.raises(KeyError, match="LLMKIT_PROMPT"):
        PeftModel.from_pretrained(model(family, head), str(tmp_path))
    opened = load(model(family, head), tmp_path)
    given = batch(family, head, attention_mask=RIGHT)
    assert difference(logits(opened, **given), logits(tuned, **given)) <= 1e-6
    assert not any(p.requires_grad for p in opened.parameters())
    again = tmp_path / "again"
    Prompt().save(opened, again)
    assert (again / "adapter_model.safetensors").read_bytes() == (tmp_path / "adapter_model.safetensors").read_bytes()


def test_load_refuses_another_models_prompt(tmp_path):
    Prompt().save(made("bert", "MaskedLM"), tmp_path)
    with pytest.raises(CheckpointError, match=r"a prompt of shape \(3, 32\), where .* takes \(3, 16\)"):
        load(model("electra", "MaskedLM"), tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_is_the_forward_pass_a_token_at_a_time(family):
    tuned, ones = made(family, "CausalLM"), torch.ones_like(IDS)
    length = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    text = tuned.generate(input_ids=IDS, attention_mask=ones, **length)
    ids = IDS
    for _ in range(6):
        last = by_hand(family, "CausalLM", learned(tuned), ids)[:, -1].clone()
        last[:, 2] = -1e9  # min_new_tokens forbids the end
        ids = torch.cat([ids, last.argmax(-1, keepdim=True)], 1)
    assert torch.equal(text, ids)
    assert torch.equal(tuned.generate(input_ids=IDS, attention_mask=ones, use_cache=False, **length), text)
    left = tuned.generate(input_ids=pad(IDS, (3, 0)), attention_mask=pad(ones, (3, 0)), **length)
    assert torch.equal(left[:, 3:], text)
    ragged = tuned.generate(
        input_ids=torch.stack([IDS[0], pad(IDS[1, :5], (3, 0))]), attention_mask=RIGHT.sort(1).values, **length)
    alone = tuned.generate(input_ids=IDS[1:, :5], attention_mask=ones[1:, :5], **length)
    assert torch.equal(ragged[1:, 8:], alone[:, 5:])
    beams = tuned.generate(input_ids=IDS, attention_mask=ones, num_beams=2, **length)
    assert torch.equal(beams, tuned.generate(
        input_ids=IDS, attention_mask=ones, num_beams=2, use_cache=False, **length))


@pytest.mark.parametrize("family", ["t5", "bart", "transformer"])
def test_an_encoder_decoder_generates_the_forward_pass_a_token_at_a_time(family):
    tuned = made(family, "Seq2SeqLM")
    length = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    text = tuned.generate(input_ids=PADDED, attention_mask=RIGHT, **length)
    seen = logits(tuned, input_ids=PADDED, attention_mask=RIGHT, decoder_input_ids=text[:, :-1]).clone()
    seen[..., 2] = -1e9
    if family == "transformer":
        seen[..., 0] = -1e9  # Marian never writes padding
    assert torch.equal(text[:, 1:], seen.argmax(-1))
    assert torch.equal(tuned.generate(input_ids=PADDED, attention_mask=RIGHT, num_beams=2, **length), tuned.generate(
        input_ids=PADDED, attention_mask=RIGHT, num_beams=2, use_cache=False, **length))


@pytest.mark.parametrize(("family", "head", "checkpointing"), [
    *((*case, False) for case in CASES), (*CASES[0], True), ("gpt2", "CausalLM", True), ("t5", "Seq2SeqLM", True)])
def test_only_the_prompt_and_new_parts_train_also_in_bf16(family, head, checkpointing):
    new = new_part(family, head)
    tuned = made(family, head, new=new, gradient_checkpointing=checkpointing).train()
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert {name for name in trained if not name.startswith(new)} == {"soft_prompt.rows.weight"} or not new
    assert new or trained == {"soft_prompt.rows.weight"}
    given = {**batch(family, head, attention_mask=RIGHT), **targets(head)}
    gradients = []
    for narrow in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = tuned(**given).loss
        loss.backward()
        gradients.append(tuned.soft_prompt.rows.weight.grad.clone())
        tuned.zero_grad()
    assert all(gradient.isfinite().all() and gradient.any(1).all() for gradient in gradients)
    frozen = {name: p.clone() for name, p in tuned.named_parameters() if not p.requires_grad}
    if not checkpointing:
        losses = train(tuned, given)
        assert losses[-1] < losses[0]
        assert all(torch.equal(p, frozen[name]) for name, p in tuned.named_parameters() if name in frozen)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_documents_that_share_a_row_of_a_decoder_see_the_prompt_but_not_each_other(family):
    tuned, kind = made(family, "CausalLM", packed=True), registry.find("backbones", family)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2]])
    with torch.no_grad():
        row = kind.outputs(tuned, {"input_ids": IDS[:1], "documents": documents}).logits
        both = kind.outputs(tuned, {
            "input_ids": IDS[:1], "prefix": torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]]), "documents": documents}).logits
    for start, end in ((0, 3), (3, 7), (7, 8)):
        assert difference(row[:, start:end], logits(tuned, input_ids=IDS[:1, start:end])) <= 1e-5
    assert difference(both[:, 3:], row[:, 3:]) <= 1e-5
    assert difference(both[:, :1], row[:, :1]) > 1e-3


@pytest.mark.parametrize("padded", [False, True])
def test_a_permuted_model_predicts_its_targets_after_the_prompt(padded):
    ids, order = IDS[:1, :6], torch.tensor([[-1, 1, -1, 0, -1, -1]])
    target = torch.zeros(1, 2, 6)
    target[0, 0, 1] = target[0, 1, 3] = 1
    tuned = made("xlnet", "CausalLM")
    given = {"input_ids": ids, "perm_mask": hidden(order).float(), "target_mapping": target}
    expected = logits(
        model("xlnet", "CausalLM"), inputs_embeds=torch.cat([learned(tuned)[None], embedded(tuned, ids)], 1),
        perm_mask=hidden(pad(order, (3, 0), value=-1)).float(), target_mapping=pad(target, (3, 0)))
    if padded:
        given = {**{name: pad(value, (0, 2)) for name, value in given.items()}, "attention_mask": RIGHT[:1].clone()}
        given["attention_mask"][0, 6:] = 0
        given["perm_mask"] = pad(given["perm_mask"], (0, 0, 0, 2))
    assert difference(logits(tuned, **given), expected) <= 1e-5


def settled(text, family, objective, **data):
    return settle(recipe.load({
        "backbone": {"family": family, "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
        "data": {"train": str(text), "max_length": 32, **data}, "objective": objective, "tuning": "prompt",
        "output_dir": "nowhere"}))


def test_packing_by_documents_is_for_decoders(text):
    assert settled(text, "gpt2", "causal_lm").recipe.data.packing == "documents"
    assert settled(text, "bert", "masked_lm").recipe.data.packing == "blocks"
    with pytest.raises(RequestError, match=r"data.packing: with prompt, documents that share a row of a t5 would share "
                                           "what is learned between them; use blocks or none"):
        settled(text, "t5", "span_corruption", packing="documents")


def test_a_template_falls_into_words_and_soft_tokens():
    assert sides("<soft> {text} <soft> It was <soft>great?") == (
        ["<soft>"], ["<soft>", " It", " was", "<soft>", "great", "?"])
    assert sides("Review: {text}") == ([" Review", ":"], [])
    assert Prompt(template="<soft> {text} It was <soft> .").virtual_tokens == 5


def test_each_word_of_a_template_starts_as_its_own_embedding():
    tuned = made("bert", "SequenceClassification", Prompt(template="<soft> w9 {text} w8w7 <soft>"))
    table, rows = tuned.get_input_embeddings().weight, learned(tuned)
    assert torch.equal(rows[1], table[9])
    assert difference(rows[2], (table[8] + table[7]) / 2) <= 1e-6
    assert any(torch.equal(rows[0], word) for word in table)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_template_stands_around_each_text_before_the_token_that_closes_it(family):
    head = "TokenClassification"
    tuned = made(family, head, Prompt(template="w9 w8 {text} w7"))
    net = model(family, head)
    rows = [[13, 9, 8, 14, 15, 16, 7, 17], [9, 8, 13, 14, 15, 16, 7, 17]][family == "t5"]
    read = torch.tensor([[*rows, 0, 0, 0]])
    expected = logits(net, input_ids=read, attention_mask=(read > 0).long())
    places = [0, 3, 4, 5, 7] if family == "bert" else [2, 3, 4, 5, 7]
    seen = logits(tuned, input_ids=PADDED, attention_mask=RIGHT)
    assert difference(seen[1:, :5], expected[:, places]) <= 1e-5


def test_a_template_around_an_encoder_decoders_text_is_read_by_its_decoder(tmp_path):
    tuned = made("t5", "Seq2SeqLM", Prompt(template="w9 {text} w7 w6"))
    given = batch("t5", "Seq2SeqLM", attention_mask=RIGHT)
    read = torch.tensor([[9, 5, 6, 7, 8, 9, 10, 11, 7, 6, 12], [9, 13, 14, 15, 16, 7, 6, 17, 0, 0, 0]])
    expected = logits(model("t5", "Seq2SeqLM"), input_ids=read, attention_mask=(read > 0).long(),
                      decoder_input_ids=given["decoder_input_ids"])
    assert difference(logits(tuned, **given), expected) <= 1e-5
    Prompt().save(tuned, tmp_path)  # peft has no place behind the text
    assert difference(logits(load(model("t5", "Seq2SeqLM"), tmp_path), **given), expected) <= 1e-5


def test_it_starts_from_what_is_asked_for():
    table = model("bert", "MaskedLM").get_input_embeddings().weight
    text = made("bert", "MaskedLM", Prompt(3, prompt_tuning_init="text", prompt_tuning_init_text="w9 w8"))
    assert torch.equal(learned(text), table[[9, 8, 9]])
    words = learned(made("bert", "MaskedLM", Prompt(30)))
    assert all(any(torch.equal(row, word) for word in table[5:]) for row in words)
    noise = learned(made("bert", "MaskedLM", Prompt(30, prompt_tuning_init="random")))
    assert noise.std().item() == pytest.approx(table.std().item(), rel=0.1)
    assert not torch.equal(words, learned(made("bert", "MaskedLM", Prompt(30, prompt_tuning_init="random"))))
    assert torch.equal(words, learned(made("bert", "MaskedLM", Prompt(30))))


def test_what_a_tokenizer_says():
    assert frequent(Words())[:3] == [5, 6, 7]
    assert closes(Words())
    assert fitted("w5 w6 w7", Words(), 2) == [5, 6]


def test_it_takes_positions_and_says_how_many():
    assert Prompt().virtual_tokens == 20
    assert Prompt(num_virtual_tokens=7).virtual_tokens == 7
    assert Prompt(num_virtual_tokens=7).describe() == "7 virtual tokens, from vocabulary"


@pytest.mark.parametrize(("options", "family", "reason"), [
    ({"prompt_tuning_init": "text"}, "bert", "prompt_tuning_init_text: give the text"),
    ({"prompt_tuning_init_text": "x"}, "bert", "only with prompt_tuning_init: text"),
    ({"template": "It was {text}", "num_virtual_tokens": 3}, "bert", "the template's words say how many: 2"),
    ({"template": "It was"}, "bert", "must have {text} once"),
    ({"template": "{text}"}, "bert", "and words around it"),
    ({"template": "{text} It was <mask>."}, "bert", "leave the mask out"),
    ({"template": "{text} It was"}, "gpt2", "gpt2 reads from left to right and never sees what is behind {text}"),
    ({"template": "It was {text}", "prompt_tuning_init": "text", "prompt_tuning_init_text": "x"}, "bert",
     "no <soft> of the template starts from it"),
])
def test_what_cannot_work_is_refused_with_the_way_out(options, family, reason):
    with pytest.raises(RequestError, match=reason):
        Prompt(**options).check(registry.find("backbones", family), "AutoModelForSequenceClassification")


def test_what_fits_is_not_refused():
    for family, template in (("bert", "<soft> {text} It was great."), ("gpt2", "<soft> Review: {text}")):
        Prompt(template=template).check(registry.find("backbones", family), "AutoModelForSequenceClassification")
