"""Every family has the published sizes, refuses what its config can't be, and names parts that are there."""

import re

import pytest
import torch
import transformers
from conftest import SMALL, WORDS, stories

from llmkit import registry
from llmkit.backbones.base import restart, same
from llmkit.data import tokenizer as tokenizers
from llmkit.errors import RequestError
from llmkit.objectives.base import part

FAMILIES = registry.names("backbones")
SIZES = [(name, size) for name in FAMILIES for size in registry.find("backbones", name).sizes]


class Words:
    """A tokenizer of which only size and ids are asked."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size


def parameters(name, size, vocabulary, head):
    family = registry.find("backbones", name)
    with torch.device("meta"):
        model = getattr(transformers, head).from_config(family.config(size, {}, Words(vocabulary)))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "size", "vocabulary", "head", "published"), [
    ("bert", "tiny", 30522, "AutoModel", 4_385_920),
    ("bert", "mini", 30522, "AutoModel", 11_170_560),
    ("bert", "small", 30522, "AutoModel", 28_763_648),
    ("bert", "medium", 30522, "AutoModel", 41_373_184),
    ("bert", "base", 30522, "AutoModel", 109_482_240),
    ("bert", "large", 30522, "AutoModel", 335_141_888),
    ("gpt2", "small", 50257, "AutoModelForCausalLM", 124_439_808),
    ("gpt2", "medium", 50257, "AutoModelForCausalLM", 354_823_168),
    ("gpt2", "large", 50257, "AutoModelForCausalLM", 774_030_080),
    ("gpt2", "xl", 50257, "AutoModelForCausalLM", 1_557_611_200),
    ("t5", "small", 32128, "AutoModelForSeq2SeqLM", 60_506_624),
    ("t5", "base", 32128, "AutoModelForSeq2SeqLM", 222_903_552),
    ("t5", "large", 32128, "AutoModelForSeq2SeqLM", 737_668_096),
    ("llama", "base", 49152, "AutoModelForCausalLM", 134_515_008),  # SmolLM2-135M
])
def test_a_published_size_has_its_published_parameters(name, size, vocabulary, head, published):
    assert parameters(name, size, vocabulary, head) == published


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_every_size_is_a_config_with_the_tokenizers_ids(name, size):
    family = registry.find("backbones", name)
    config = family.config(size, {}, Words(1000))
    assert (config.model_type, config.vocab_size, config.pad_token_id, config.eos_token_id) == (name, 1000, 0, 2)
    assert config.hidden_size % config.num_attention_heads == 0
    family.check_config(family.sizes[size])
    if family.shape == "encoder-decoder":
        assert config.decoder_start_token_id == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_grow_and_the_recipe_is_over_both(name):
    family = registry.find("backbones", name)
    widths = [family.config(size, {}, Words(10)).hidden_size for size in family.sizes]
    assert widths == sorted(widths)
    assert "tiny" in family.sizes
    assert family.config("tiny", {**SMALL[name], "vocab_size": 77}, Words(10)).vocab_size == 77
    assert family.config("tiny", SMALL[name], Words(10)).hidden_size == 32
    assert family.config(None, {}, Words(10)).vocab_size == 10


@pytest.mark.parametrize(("name", "fields", "message"), [
    ("bert", {"hidden_sise": 64}, r"backbone\.config\.hidden_sise: no such field of bert\. Did you mean 'hidden_size'"),
    ("gpt2", {"n_embed": 64}, "Did you mean 'n_embd'"),
    ("bert", {"hidden_size": 0}, "0 must be a whole number above 0"),
    ("bert", {"hidden_size": -4}, "-4 must be a whole number above 0"),
    ("bert", {"hidden_size": 64.0}, "64.0 must be a whole number above 0"),
    ("bert", {"num_hidden_layers": "2"}, "'2' must be a whole number above 0"),
    ("bert", {"num_hidden_layers": True}, "True must be a whole number above 0"),
    ("bert", {"hidden_dropout_prob": "much"}, "'much' must be a number, 0 or above"),
    ("t5", {"dropout_rate": -0.1}, "-0.1 must be a number, 0 or above"),
    ("gpt2", {"resid_pdrop": None}, "None must be a number, 0 or above"),
])
def test_a_field_that_the_config_cannot_have_is_refused(name, fields, message):
    with pytest.raises(RequestError, match=message):
        registry.find("backbones", name).check_config(fields)


def test_fields_go_by_either_of_their_names():
    gpt2 = registry.find("backbones", "gpt2")
    gpt2.check_config({"hidden_size": 64, "num_attention_heads": 2, "resid_pdrop": 0, "n_inner": 128})
    assert gpt2.config("tiny", {"hidden_size": 64}, Words(10)).n_embd == 64


def test_position_limits_are_those_of_the_config():
    def limit(name, size, **fields):
        family = registry.find("backbones", name)
        return family.position_limit(family.config(size, fields, Words(10)))

    assert limit("bert", "base") == 512
    assert limit("bert", "tiny", max_position_embeddings=64) == 64
    assert limit("gpt2", "small") == 1024
    assert limit("gpt2", "tiny") == 256
    assert limit("llama", "tiny") == 512
    assert limit("t5", "base") is None


@pytest.mark.parametrize(("name", "head"), [
    (name, head) for name in FAMILIES for head in registry.find("backbones", name).heads])
def test_the_parts_of_every_head_are_there(name, head):
    family = registry.find("backbones", name)
    tokenizer = tokenizers.train(stories(80), family.tokenizer, WORDS[name])
    model = getattr(transformers, head).from_config(family.config("tiny", {**SMALL[name], "num_labels": 3}, tokenizer))
    assert model.config.vocab_size == len(tokenizer)
    module = part(model, family.heads[head])
    last = list(module.parameters())[-1]
    assert last.shape[0] in (3, len(tokenizer))  # it ends in labels or in words
    for stack in family.layers:
        layers = part(model, stack)
        assert len(layers) == 2
        names = {inner for inner, _ in layers[0].named_modules()}
        for pattern in family.feed_forward:
            assert any(re.fullmatch(pattern, inner) for inner in names), pattern
    with pytest.raises(RequestError, match="has no part 'no_head'"):
        part(model, "no_head")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_is_one_that_something_learns_with(name):
    family = registry.find("backbones", name)
    fits = [plugin for kind in ("objectives", "tasks") for each in registry.names(kind)
            if family.shape in (plugin := registry.find(kind, each)).shapes]
    heads = {plugin().head_for(family) for plugin in fits}
    assert heads <= set(family.heads)
    assert fits


def test_a_query_sees_its_own_document():
    seen = same(torch.tensor([[0, 0, 1, -1]]), torch.tensor([[0, 1, 1]]))
    assert seen.shape == (1, 1, 4, 3)
    assert seen[0, 0].int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_positions_start_again_with_each_document():
    assert restart(torch.tensor([[0, 0, 0, 1, 1, -1, -1], [0, 1, 2, 2, 3, 3, 3]])).tolist() == [
        [0, 1, 2, 0, 1, 0, 1], [0, 0, 0, 1, 0, 1, 2]]
