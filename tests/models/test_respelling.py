"""Another tokenizer for a trained model, and where texts end."""

import logging

import pytest
import torch
import transformers
from conftest import FAMILIES, SMALL
from transformers import AutoConfig, BertTokenizer, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from llmkit.models import open_model
from llmkit.models.base import Base
from llmkit.models.changing.respelling import of_words, respell
from llmkit.models.edges import give_ends, tell

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OLD = [*SPECIAL, *"abcdefghijk"]
NEW = [*SPECIAL[::-1], "new", *"kjihgfedcb"]


def spoken(tokens):
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def biased(head, config):
    """A model whose output biases are the numbers of their tokens."""
    torch.manual_seed(0)
    model = getattr(transformers, head).from_config(config)
    with torch.no_grad():
        for name in of_words(model):
            tensor = model.get_parameter(name) if "final_logits_bias" not in name else model.get_buffer(name)
            if tensor.squeeze().dim() == 1:
                tensor[:] = torch.arange(float(len(OLD)))
    return model


def others(kind):
    """The config of a type that has no file here."""
    fields = {"distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
              "phi": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}}
    return AutoConfig.for_model(kind, vocab_size=len(OLD), pad_token_id=0, **fields[kind])


BIASED = {"bert": "MaskedLM", "roberta": "MaskedLM", "albert": "MaskedLM", "electra": "MaskedLM",
          "deberta": "MaskedLM", "modernbert": "MaskedLM", "bart": "Seq2SeqLM", "transformer": "Seq2SeqLM",
          "distilbert": "MaskedLM", "phi": "CausalLM"}


@pytest.mark.parametrize("name", list(BIASED))
def test_output_biases_move_with_their_tokens(name):
    old, new = spoken(OLD), spoken(NEW)
    config = FAMILIES[name].config("tiny", SMALL[name], old) if name in FAMILIES else others(name)
    model = biased(f"AutoModelFor{BIASED[name]}", config)
    table = model.get_input_embeddings().weight.detach().clone()
    respell(model, old, new)
    now = dict([*model.named_parameters(), *model.named_buffers()])
    biases = [now[one].squeeze() for one in of_words(model) if one in now and now[one].squeeze().dim() == 1]
    mean = (len(OLD) - 1) / 2
    assert [bias.tolist() for bias in biases] == [[4, 3, 2, 1, 0, mean, *range(15, 5, -1)]]
    assert torch.equal(model.get_input_embeddings().weight[6], table[15])


def test_a_vocabulary_with_no_token_in_common_starts_from_the_mean():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=16, n_layer=1, n_head=2, n_positions=8))
    mean = model.transformer.wte.weight.detach().mean(0)
    respell(model, spoken(SPECIAL), transformers.T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)],
                                                            extra_ids=0))
    assert torch.equal(model.transformer.wte.weight, mean.expand(3, -1))


def test_the_ids_in_the_configs_are_those_of_the_same_tokens():
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=16, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=3,
        decoder_start_token_id=2))
    new = spoken(NEW)
    new.eos_token = "[SEP]"
    respell(model, spoken(OLD), new)
    assert (model.config.pad_token_id, model.config.eos_token_id, model.config.decoder_start_token_id) == (4, 1, 2)
    assert (model.generation_config.eos_token_id, model.generation_config.decoder_start_token_id) == (1, 2)


# ---- ends ----


@pytest.mark.parametrize(("said", "begin", "end", "why"), [
    ({}, "[CLS]", "[SEP]", "the tokenizer's sep token"),
    ({"eos_token_id": 0}, "[CLS]", "[PAD]", "the model's eos_token_id"),
    ({"eos_token_id": [3, 5], "bos_token_id": 4}, "[MASK]", "[SEP]", "the model's bos_token_id"),
    ({"eos_token_id": 5}, "[CLS]", "[SEP]", "the tokenizer's sep token"),
    ({"eos_token_id": 50256, "bos_token_id": None}, "[CLS]", "[SEP]", "the tokenizer's cls token")])
def test_a_tokenizer_without_ends_has_those_of_the_config_else_berts(said, begin, end, why):
    tokenizer = spoken(OLD)
    note = give_ends(tokenizer, said)
    assert (tokenizer.bos_token, tokenizer.eos_token) == (begin, end)
    assert note.startswith(f"the tokenizer has no eos token: texts begin with {begin} (") and why in note


def test_a_tokenizer_with_an_end_stays_as_it_is():
    tokenizer = transformers.GPT2Tokenizer(vocab={"<|endoftext|>": 0}, merges=[])
    assert give_ends(tokenizer, {"eos_token_id": 5}) == ""
    assert tokenizer.eos_token_id == 0


def test_a_models_own_end_is_kept_but_for_one_outside_its_table():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=8, bos_token_id=5))
    tokenizer = spoken(OLD)
    give_ends(tokenizer, {})
    tell(model, tokenizer)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id) == (5, 3, 3)


@pytest.fixture
def chinese(tmp_path):
    """A GPT-2 as Chinese ones are: BERT's vocabulary, and no end."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=8, bos_token_id=None,
                               eos_token_id=None)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(OLD) + "\n")
    return tmp_path


def test_a_decoder_with_berts_vocabulary_ends_by_sep_and_goes_on_with_an_open_text(chinese):
    from llmkit.inference.writing.writer import Writer

    writer = Writer("chinese", open_model(chinese))
    assert writer.ids("a b") == [2, 5, 6]
    assert writer.opened.model.generation_config.eos_token_id == 3


def test_a_decoder_without_any_end_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmkit"), "propagate", True)
    GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=8, bos_token_id=None,
                               eos_token_id=None)).save_pretrained(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=spoken(OLD).backend_tokenizer)
    tokenizer.save_pretrained(tmp_path)
    open_model(tmp_path)
    assert "no token that ends a text, and the model's config names none" in caplog.text


def test_a_decoder_starts_from_the_token_that_its_config_names_in_any_vocabulary(tmp_path):
    T5Config(vocab_size=16, d_model=16, pad_token_id=0, decoder_start_token_id=2).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(OLD) + "\n")
    family, foreign = Base.open(tmp_path).family, transformers.T5Tokenizer(
        vocab=[("</s>", 0.0), ("<pad>", 0.0), ("<unk>", 0.0)], extra_ids=0)
    assert family.decoder_start(spoken(OLD)) == 2
    assert family.decoder_start(spoken(NEW)) == 2 == spoken(NEW).cls_token_id
    assert family.decoder_start(foreign) == 1  # no [CLS]: as T5's, its padding token
