"""Other people's tokenizers and models in a run: what is taken, what is concluded, what goes on from where."""

import json
import logging

import pytest
import torch
from conftest import SMALL, stories, tiny
from transformers import AutoConfig, AutoModelForCausalLM, BertTokenizer, T5Config, T5ForConditionalGeneration

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.models.base import Base
from llmkit.models.edges import give_ends
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.objectives.span_corruption import sentinels
from llmkit.planning.settle import settle
from llmkit.planning.vocabulary import speak
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmkit"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("llmkit"), "propagate", True)
    monkeypatch.setattr("llmkit.system.report.to_stderr", lambda *_, **__: None)
    caplog.set_level("INFO", logger="llmkit")
    return caplog


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer that somebody saved, and no model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = sorted({word for story in stories(120) for word in story.split()})
    BertTokenizer(vocab={word: i for i, word in enumerate([*SPECIAL, *words])}).save_pretrained(folder)
    (folder / "words").mkdir()
    lines = [*SPECIAL, *words[:3], *words]  # three stand twice
    (folder / "words" / "vocab.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("where", ["", "tokenizer.json", "words", "words/vocab.txt"])
def test_a_new_model_speaks_with_a_tokenizer_of_ones_own(where, tokenizer, text, tmp_path):
    tree = tiny("bert", text, tmp_path / "run", max_steps=1)
    summary = fit(recipe.load({**tree, "tokenizer": {"pretrained": str(tokenizer / where)}}))
    rows = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["vocab_size"]
    assert summary["steps"] == 1
    assert rows == tokenizers.rows_for(tokenizers.load(tokenizer / where))


def test_a_folder_without_a_tokenizer_and_a_model_without_one_say_so(tokenizer, text, tmp_path):
    (tmp_path / "empty").mkdir()
    tree = tiny("bert", text, tmp_path / "run", max_steps=1)
    with pytest.raises(RequestError, match=r"empty has no tokenizer: none of tokenizer_config.json, tokenizer.json"):
        fit(recipe.load({**tree, "tokenizer": {"pretrained": str(tmp_path / "empty")}}))
    with pytest.raises(RequestError, match=r"is no model: .*; it has a tokenizer, which `tokenizer: {pretrained: …}`"):
        fit(recipe.load({**tree, "backbone": {"pretrained": str(tokenizer)}, "tokenizer": None}))


def test_a_model_without_a_tokenizer_takes_one_that_fits(tokenizer, text, tmp_path, said):
    tree = tiny("bert", text, tmp_path / "run", max_steps=1)
    fit(recipe.load({**tree, "tokenizer": {"pretrained": str(tokenizer)}}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "run" / "model" / name).unlink()
    more = {**tree, "backbone": {"pretrained": str(tmp_path / "run")}, "output_dir": str(tmp_path / "more")}
    with pytest.raises(RequestError, match=r"has none of its own .*; say tokenizer: {pretrained: …}"):
        fit(recipe.load({**more, "tokenizer": None}))
    fit(recipe.load({**more, "tokenizer": {"pretrained": str(tokenizer)}}))
    assert "has no tokenizer of its own: the one that is named is taken for it" in said.text
    with pytest.raises(RequestError, match="has 38 embeddings, the tokenizer 41 tokens"):
        fit(recipe.load({**more, "output_dir": str(tmp_path / "never"),
                         "tokenizer": {"pretrained": str(tokenizer / "words")}}))


# ---- vocabularies of BERT in models that write ----


@pytest.fixture
def uer(tmp_path, tokenizer):
    """A T5 as UER's: BERT's vocabulary with extra0 …, and a decoder that starts from [CLS]."""
    folder = tmp_path / "uer"
    known = tokenizers.load(tokenizer).get_vocab()
    words = [*sorted(known, key=known.__getitem__), *(f"extra{i}" for i in range(100))]
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(
        vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=3,
        decoder_start_token_id=2)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def test_spans_are_uers_sentinels_and_its_decoder_starts_as_its_config_says(uer, text, tmp_path, said):
    asked = recipe.load({
        "backbone": {"pretrained": str(uer)}, "data": {"train": str(text), "max_length": 24}, "objective":
        "span_corruption", "training": {"figures": False,
                                        "max_steps": 1, "global_batch_size": 4}, "output_dir": str(tmp_path / "run")})
    settled = settle(asked)
    spoken = speak(settled)
    marks = sentinels(spoken)
    assert (len(marks), spoken.convert_ids_to_tokens(marks[3]), spoken.eos_token_id) == (100, "extra3", 3)
    assert settled.family.decoder_start(spoken) == 2
    assert fit(asked)["steps"] == 1
    assert "end with [SEP] (the model's eos_token_id)" in said.text
    assert "another tokenizer" not in said.text
    assert tokenizers.load(tmp_path / "run" / "model").eos_token == "[SEP]"


def test_a_new_decoder_with_berts_vocabulary_learns_where_texts_end(tokenizer, text, tmp_path, said):
    tree = tiny("gpt2", text, tmp_path / "run", max_steps=1)
    fit(recipe.load({**tree, "tokenizer": {"pretrained": str(tokenizer)}}))
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (2, 3)
    assert "texts begin with [CLS] (the tokenizer's cls token) and end with [SEP]" in said.text


def test_ends_that_are_given_once_are_kept(tokenizer):
    spoken = tokenizers.load(tokenizer)
    assert give_ends(spoken, {}) and give_ends(spoken, {}) == ""


# ---- types without a file ----


@pytest.mark.parametrize("kind", ["gpt_neox", "phi", "opt"])
def test_a_type_without_a_file_is_read_from_its_config(kind, tokenizer, text, tmp_path, said):
    spoken = tokenizers.load(tokenizer)
    fields = {"vocab_size": len(spoken), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "max_position_embeddings": 64, "word_embed_proj_dim": 32, "ffn_dim": 32, "intermediate_size": 32}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields)).save_pretrained(tmp_path / "base")
    spoken.save_pretrained(tmp_path / "base")
    for method in ("full", "lora"):
        summary = fit(recipe.load({
            "backbone": {"pretrained": str(tmp_path / "base")}, "data": {"train": str(text), "max_length": 24},
            "objective": "causal_lm", "tuning": {"method": method},
            "training": {"figures": False,
                         "max_steps": 1, "global_batch_size": 4}, "output_dir": str(tmp_path / method)}))
        assert summary["steps"] == 1
    assert f"backbone.family auto: llmkit has no file for {kind}" in said.text
    assert recipe.load(tmp_path / "full" / "recipe.yaml").backbone.family == "auto"


# ---- two networks ----


@pytest.mark.parametrize(("family", "objective", "name"), [
    ("electra", {"name": "replaced_token"}, "generator"),
    ("gpt2", {"name": "adversarial", "sample_length": 6, "warmup": 1}, "discriminator")])
def test_a_continued_run_goes_on_with_both_networks(family, objective, name, text, tmp_path, said):
    tree = tiny(family, text, tmp_path / "first", max_steps=3)
    tree["objective"] = objective
    if name == "discriminator":
        tree["objective"] = {**objective, "discriminator_config": SMALL["bert"]}
    fit(recipe.load(tree))
    again = {**tree, "backbone": {"pretrained": str(tmp_path / "first")}, "tokenizer": None,
             "training": {**tree["training"], "max_steps": 1, "learning_rate": 0.0},
             "output_dir": str(tmp_path / "again")}
    fit(recipe.load(again))
    first, second = (weights(tmp_path / run / name) for run in ("first", "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert f"{name}: goes on from {tmp_path / 'first' / name}" in said.text
    fit(recipe.load({**again, "backbone": {"pretrained": str(tmp_path / "first" / "model")},
                     "tokenizer": {"train": {"vocab_size": 90 if family == "electra" else 270}},
                     "output_dir": str(tmp_path / "other")}))
    rows = json.loads((tmp_path / "other" / name / "config.json").read_text())["vocab_size"]
    assert rows == tokenizers.rows_for(tokenizers.load(tmp_path / "other" / "model"))


def test_a_network_that_nobody_left_is_said_to_be_new(text, tmp_path, said):
    fit(recipe.load(tiny("electra", text, tmp_path / "first", max_steps=1)))  # masked_lm: no second network
    fit(recipe.load({**tiny("electra", text, tmp_path / "again", max_steps=1), "tokenizer": None,
                     "backbone": {"pretrained": str(tmp_path / "first")}, "objective": "replaced_token"}))
    assert f"generator: starts from random weights, for {tmp_path / 'first'} has none beside it" in said.text


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


# ---- words of Chinese ----


@pytest.mark.parametrize(("line", "segmenter"), [
    ("我爱北京天安门，他们在学校里读书。", "jieba"), ("the cat sat on the mat .", "tokenizer"),
    ("私は昨日、東京の学校で本を読みました。", "tokenizer"), ("we say 你好 to all the people here", "tokenizer"),
    ("小狗用 Python 写程序", "jieba")])
def test_the_words_of_chinese_text_are_jiebas(line, segmenter, write):
    pytest.importorskip("jieba")
    chosen = MaskedLM(whole_word=True).suited([write(f"{line}\n" * 9, name="lines.txt")])
    assert chosen.segmenter == segmenter


def test_without_jieba_chinese_is_warned_of(write, monkeypatch, said):
    monkeypatch.setattr("llmkit.objectives.masked_lm.find_spec", lambda name: None)
    assert MaskedLM(spans=True).suited([write("我爱北京天安门。\n" * 9, name="zh.txt")]).segmenter == "tokenizer"
    assert "the text is Chinese (100% of its letters), and what a tokenizer takes for a word there is one" in said.text


def test_where_no_words_are_hidden_nobody_finds_any(write):
    assert MaskedLM().suited([write("我爱北京。\n", name="zh.txt")]).segmenter == "tokenizer"
    named = MaskedLM(whole_word=True, segmenter="tokenizer")
    assert named.suited([write("我爱北京。\n", name="zh.txt")]).segmenter == "tokenizer"


# ---- revisions ----


def test_a_revision_is_of_a_pretrained_model_and_the_commit_is_recorded(text, tmp_path, monkeypatch):
    tree = tiny("gpt2", text, tmp_path / "first", max_steps=1)
    with pytest.raises(RequestError, match=r"backbone.revision: a revision is of a hub's model"):
        recipe.load({**tree, "backbone": {**tree["backbone"], "revision": "v1"}})
    fit(recipe.load(tree))
    commit = "89" * 20
    there = tmp_path / "hub" / "snapshots" / commit
    (tmp_path / "first" / "model").rename(there.parent.mkdir(parents=True) or there)
    asked = []
    monkeypatch.setattr("llmkit.models.base.resolve", lambda name, revision=None: asked.append(revision) or there)
    summary = fit(recipe.load({**tree, "tokenizer": None, "backbone": {"pretrained": "some/one", "revision": "v1"},
                               "tuning": {"method": "lora"}, "output_dir": str(tmp_path / "again")}))
    assert summary["base"] == {"name": "some/one", "commit": commit}
    adapter = json.loads((tmp_path / "again" / "model" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("some/one", commit)
    _ = Base.open(Base("x", tmp_path / "again" / "model")).below
    assert asked == ["v1", commit]
