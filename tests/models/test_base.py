"""A pretrained model's folder is read once, and what is made of it is each caller's own."""

import json
from collections import Counter
from copy import deepcopy

import pytest
import torch
from conftest import SMALL, STILL, WORDS, tiny
from transformers import AutoConfig, AutoTokenizer

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.inference.embedding import Embedder
from llmkit.models.base import Base
from llmkit.models.families import family_for
from llmkit.planning.network import found_again, network
from llmkit.planning.settle import settle
from llmkit.planning.vocabulary import speak
from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.training.fit import fit


@pytest.fixture
def reads(monkeypatch):
    """How often transformers is told to read a config and a tokenizer; what it reads for itself isn't counted."""
    count, under_way = Counter(), []

    def counted(kind, name):
        real = getattr(kind, name)

        def read(*words, **options):
            count[kind.__name__] += not under_way
            under_way.append(kind)
            try:
                return real(*words, **options)
            finally:
                under_way.pop()

        monkeypatch.setattr(kind, name, read)

    counted(AutoConfig, "from_pretrained")
    counted(AutoTokenizer, "from_pretrained")
    return count


@pytest.fixture(scope="module")
def pretrained(text, tmp_path_factory):
    """A run of a tiny GPT-2."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    fit(recipe.load(tiny("gpt2", text, folder, max_steps=1)))
    return folder


def asked(folder, labelled):
    return recipe.load({
        "name": "tuned", "backbone": {"pretrained": str(folder), "config": {"resid_pdrop": 0.25}},
        "data": {"train": str(labelled)}, "task": "classification", "output_dir": "never"})


def test_a_run_reads_the_config_and_the_tokenizer_of_its_base_once(pretrained, labelled, reads):
    settled = settle(asked(pretrained, labelled))
    tokenizer = speak(settled)
    made = network(settled, tokenizer, {"labels": ["animal", "other"]})
    assert made.model.config.resid_pdrop == 0.25
    assert made.base == str((pretrained / "model").resolve())
    assert reads == {"AutoConfig": 1, "AutoTokenizer": 1}


def test_an_encoder_reads_its_config_once(encoder, reads):
    Embedder.open(encoder)
    assert reads == {"AutoConfig": 1, "AutoTokenizer": 1}


@pytest.mark.parametrize("family", list(STILL))
def test_a_config_with_other_fields_is_the_one_that_transformers_reads(family, tmp_path):
    kind = registry.find("backbones", family)
    AutoConfig.for_model(kind.model_type, **{**kind.sizes["tiny"], **SMALL[family]}).save_pretrained(tmp_path)
    base = Base.open(tmp_path)
    for fields in ({}, STILL[family], {"num_labels": 3}, {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}):
        theirs = AutoConfig.from_pretrained(tmp_path, **fields)
        theirs._attn_implementation = theirs._experts_implementation = None
        assert vars(base.config(**fields)) == vars(theirs)


def test_a_config_that_is_changed_leaves_the_next_one_alone(pretrained):
    base = Base.open(pretrained)
    base.config().vocab_size = 1
    base.config(vocab_size=2)
    assert base.config().vocab_size > 2


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_copied_tokenizer_cuts_text_like_the_first(family, text, tmp_path):
    kind = registry.find("backbones", family)
    tokenizers.train(text.read_text().splitlines(), kind.tokenizer, WORDS[family], special=kind.special) \
        .save_pretrained(tmp_path)
    AutoConfig.for_model(kind.model_type).save_pretrained(tmp_path)
    base = Base.open(tmp_path)
    assert tokenizers.fingerprint(deepcopy(base.tokenizer)) == tokenizers.fingerprint(tokenizers.load(tmp_path))
    assert deepcopy(base.tokenizer).init_kwargs == tokenizers.load(tmp_path).init_kwargs


def test_the_tokenizer_of_a_base_stays_as_it_is_where_a_run_adds_to_it(pretrained, text):
    settled = settle(recipe.load({
        "name": "more", "backbone": {"pretrained": str(pretrained)}, "data": {"train": str(text)},
        "objective": "prefix_lm", "output_dir": "never"}))
    before = settled.base.tokenizer.get_vocab()
    speak(settled).add_tokens(["<new>"])
    assert settled.base.tokenizer.get_vocab() == before


def test_a_family_is_that_of_the_config_and_of_an_adapter_that_of_what_it_stands_on(pretrained, tmp_path):
    assert Base.open(pretrained).family is registry.find("backbones", "gpt2")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(pretrained)}))
    assert Base.open(tmp_path).family is registry.find("backbones", "gpt2")
    assert Base.open(tmp_path).below.folder == pretrained / "model"


def test_a_model_that_no_file_is_for_has_the_family_that_its_config_makes(tmp_path):
    AutoConfig.for_model("gpt_neox", hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=64, vocab_size=50).save_pretrained(tmp_path)
    family = Base.open(tmp_path).family
    assert (family.shape, family.model_type) == ("decoder", "gpt_neox")
    assert family_for(Base.open(tmp_path).config()).shape == "decoder"


def test_an_adapter_over_an_adapter_says_what_to_do(tmp_path):
    for name, below in (("one", "nowhere"), ("two", str(tmp_path / "one"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": below}))
    with pytest.raises(RequestError, match="is an adapter too"):
        _ = Base.open(tmp_path / "two").below
    with pytest.raises(RequestError, match=r"adapter_config\.json: base_model_name_or_path: no model is called"):
        _ = Base.open(tmp_path / "one").below


def test_a_config_that_is_no_json_is_the_checkpoints_fault(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="can't be read"):
        _ = Base.open(tmp_path).said


def test_an_adapter_finds_a_folder_again_though_the_catalogue_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path / "gpt2")
    assert found_again(Base.open("gpt2")) == str((tmp_path / "gpt2").resolve())
    assert found_again(Base("gpt2-xl", tmp_path / "gpt2")) == "gpt2-xl"
    assert found_again(Base("t5-small", tmp_path / "gpt2")) == "google-t5/t5-small"


def test_opening_leaves_a_model_without_gradients_to_itself(pretrained):
    from llmkit.models import open_model

    base = Base.open(pretrained)
    first, second = (open_model(base) for _ in range(2))
    assert first.model.config is not second.model.config
    assert all(torch.equal(one, other) for one, other in
               zip(first.model.parameters(), second.model.parameters(), strict=True))
