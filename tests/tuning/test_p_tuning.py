import pytest
import torch
from peft import PeftModel
from test_prompt import HEADS, IDS, PADDED, RIGHT, batch, difference, learned, logits, made, model, targets, train

from llmkit.recipe.registry import find
from llmkit.tuning.p_tuning import PTuning
from llmkit.tuning.prompt import load

KINDS = ("MLP", "LSTM")
CASES = (("bert", "SequenceClassification"), ("bert", "MaskedLM"), ("gpt2", "CausalLM"), ("t5", "Seq2SeqLM"))


def method(kind, **options):
    return PTuning(num_virtual_tokens=3, encoder_reparameterization_type=kind, **options)


def test_its_file_name_is_its_name():
    assert find("tuning", "p_tuning") is PTuning
    assert set(HEADS) >= {head for _, head in CASES}


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_words_and_trains_a_network(kind):
    tuned = made("bert", "MaskedLM", method(kind, encoder_hidden_size=7))
    table = tuned.get_input_embeddings().weight
    assert all(any(torch.equal(row, word) for word in table) for row in learned(tuned))
    shapes = {name.removeprefix("soft_prompt.rows."): tuple(p.shape) for name, p in tuned.named_parameters()
              if p.requires_grad}
    assert shapes.pop("weight") == (3, 32)
    assert all(name.startswith(("mlp", "lstm")) for name in shapes)
    assert shapes["mlp.0.weight"] == ((7, 32) if kind == "MLP" else (14, 14))
    assert ("lstm.weight_hh_l1_reverse" in shapes) == (kind == "LSTM")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "head"), CASES)
def test_what_came_out_of_the_network_is_saved(family, head, kind, tmp_path):
    new = ("classifier",) if head == "SequenceClassification" else ()
    tuned = made(family, head, method(kind), new=new, gradient_checkpointing=kind == "LSTM")
    start = learned(tuned)
    losses = train(tuned, {**batch(family, head), **targets(head)})
    assert losses[-1] < losses[0]
    assert difference(learned(tuned), tuned.soft_prompt.rows.weight.detach()) > 1e-3
    assert difference(learned(tuned), start) > 1e-3
    method(kind).save(tuned, tmp_path)
    given = batch(family, head, attention_mask=RIGHT)
    opened = load(model(family, head), tmp_path)
    assert not any("mlp" in name or "lstm" in name for name, _ in opened.soft_prompt.named_parameters())
    assert difference(logits(opened, **given), logits(tuned, **given)) <= 1e-5
    if head in ("CausalLM", "Seq2SeqLM"):
        pefts = logits(PeftModel.from_pretrained(model(family, head), str(tmp_path)).eval(), **given)
        seen = logits(tuned, **given)
        assert difference(pefts[:, -seen.shape[1]:], seen) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_its_state_is_ordinary_parameters(kind):
    tuned = made("gpt2", "CausalLM", method(kind))
    train(tuned, {"input_ids": IDS, "labels": IDS}, 3)
    state = {name: p.detach().clone() for name, p in tuned.named_parameters() if p.requires_grad}
    other = made("gpt2", "CausalLM", method(kind))
    other.load_state_dict(state, strict=False)
    assert torch.equal(logits(other, input_ids=PADDED), logits(tuned, input_ids=PADDED))


def test_it_trains_around_the_words_of_a_template():
    tuned = made("bert", "SequenceClassification", PTuning(template="<soft> {text} w7 w8"))
    assert torch.equal(learned(tuned)[1:], tuned.get_input_embeddings().weight[[7, 8]])


def test_it_says_what_it_is():
    assert PTuning().describe() == "20 virtual tokens, from vocabulary, out of an MLP"
    assert PTuning(encoder_reparameterization_type="LSTM").virtual_tokens == 20
