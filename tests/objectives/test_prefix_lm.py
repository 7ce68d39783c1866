"""Prefix language modelling: what is read, what is written, and who sees what on the way."""

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.objectives.base import Setup, join
from llmkit.objectives.prefix_lm import PrefixLM, _TwoSided, cut
from llmkit.recipe import Source, registry
from llmkit.system.errors import RequestError

calm = settings(deadline=None, max_examples=60)  # a busy machine is no defect
PAD, END = 0, 1


class Words:
    """A tokenizer of which only ids are needed."""

    pad_token_id, eos_token_id, bos_token_id = PAD, END, None


class Chance:
    """A generator that cuts where it was told to."""

    def __init__(self, place):
        self.place = place

    def integers(self, low, high):
        assert low <= self.place < high
        return self.place


def lists(features):
    return {name: values.tolist() for name, values in features.items()}


# ---- literal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "prefix", "labels"), [
    (1, [1, 0, 0, 0], [12, 13, 14, END]),
    (2, [1, 1, 0, 0], [-100, 13, 14, END]),
    (4, [1, 1, 1, 1], [-100, -100, -100, END]),
])
def test_the_last_token_of_the_prefix_predicts_the_first_of_the_rest(place, prefix, labels):
    drawn = PrefixLM().draw(np.array([11, 12, 13, 14, END], np.uint16), Chance(place), Words())
    assert lists(drawn) == {"input_ids": [11, 12, 13, 14], "prefix": prefix, "labels": labels}


def test_an_encoder_reads_the_prefix_and_a_decoder_writes_the_rest():
    drawn = _TwoSided().draw(np.array([11, 12, 13, 14, 15], np.uint16), Chance(2), Words())
    assert lists(drawn) == {
        "input_ids": [11, 12, END], "labels": [13, 14, 15, END], "decoder_input_ids": [PAD, 13, 14, 15]}


def test_the_same_generator_cuts_the_same():
    ids = np.arange(10, 40, dtype=np.uint16)
    lengths = [PrefixLM().draw(ids, np.random.default_rng(seed), Words())["prefix"].sum() for seed in (0, 0, 1, 2)]
    assert lengths[0] == lengths[1]
    assert len(set(lengths)) > 1


# ---- properties -------------------------------------------------------------------------------------------------


@calm
@given(st.lists(st.integers(2, 50), min_size=3, max_size=60), st.integers(0, 10_000))
def test_what_is_read_and_what_is_written_is_the_text(ids, seed):
    one = PrefixLM().draw(np.array(ids, np.uint16), np.random.default_rng(seed), Words())
    length = int(one["prefix"].sum())
    assert 1 <= length < len(ids)
    assert one["input_ids"].tolist() == ids[:-1]
    assert one["prefix"].tolist() == [1] * length + [0] * (len(ids) - 1 - length)
    assert one["labels"][one["labels"] != -100].tolist() == ids[length:]
    two = _TwoSided().draw(np.array(ids, np.uint16), np.random.default_rng(seed), Words())
    assert [*two["input_ids"][:-1], *two["labels"][:-1]] == ids
    assert two["input_ids"][-1] == two["labels"][-1] == END
    assert two["decoder_input_ids"].tolist() == [PAD, *two["labels"][:-1]]
    assert max(len(two["input_ids"]), len(two["labels"])) <= len(ids)


def test_every_cut_is_as_likely():
    rng = np.random.default_rng(0)
    counts = np.bincount([cut(6, rng) for _ in range(5000)], minlength=7)
    assert counts[0] == counts[6] == 0
    assert (np.abs(counts[1:6] - 1000) < 150).all()  # five standard deviations


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(stories(80), "bpe", 300)


@pytest.mark.parametrize("packing", ["documents", "blocks", "none"])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_rows_are_made_for_the_shape_of_the_family(name, packing, bpe, text):
    setup = Setup(bpe, registry.find("backbones", name), 24, packing, seed=0)
    sets = PrefixLM().prepare([open_source(Source(str(text)), "line")], None, setup)
    rows = [sets.train[0].draw(row, np.random.default_rng(row)) for row in range(len(sets.train[0]))]
    sides = {"gpt2": ("input_ids", "prefix"), "t5": ("input_ids", "decoder_input_ids")}[name]
    assert set(sides) | {"labels"} <= set(rows[0])
    assert ("prefix" in rows[0]) == (name == "gpt2")
    assert all(len(row[side]) <= 24 and (row["labels"] != -100).any() for row in rows for side in sides)
    if packing == "documents":
        assert any(row["documents"][-1] > 0 for row in rows)


def test_padding_is_neither_prefix_nor_target(bpe):
    rows = [join([PrefixLM().draw(np.arange(10, stop, dtype=np.uint16), np.random.default_rng(0), bpe)])
            for stop in (14, 19)]
    batch = PrefixLM().collate(rows, bpe)
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 8]
    assert batch["prefix"][0, 3:].tolist() == [0] * 5
    assert batch["labels"][0, 3:].tolist() == [-100] * 5


def test_what_it_cannot_do_is_refused(bpe):
    with pytest.raises(RequestError, match="2 leaves no room for a prefix and an end"):
        _TwoSided().layout(bpe, 2, "none")
    assert _TwoSided().layout(bpe, 3, "none").length == 3


# ---- the loss ---------------------------------------------------------------------------------------------------


def model_for(name, tokenizer):
    import transformers

    torch.manual_seed(0)
    family = registry.find("backbones", name)
    auto = getattr(transformers, PrefixLM().head_for(family))
    model = auto.from_config(family.config("tiny", SMALL[name] | STILL[name], tokenizer)).eval()
    for parameter in model.parameters():  # far from zero: attention matters
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return family, model


def test_a_prefix_of_one_token_is_a_causal_language_model(bpe):
    """With nothing to look ahead to, the loss is transformers' own."""
    family, model = model_for("gpt2", bpe)
    ids = np.array(bpe("the cat saw the moon . a dog found a hat .")["input_ids"], np.uint16)
    one, all_but_one = (PrefixLM().collate([join([PrefixLM().draw(ids, Chance(place), bpe)])], bpe)
                        for place in (1, len(ids) - 1))
    whole = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        ours = PrefixLM().loss(model, one, family)["loss"].item()
        assert ours == pytest.approx(model(whole, labels=whole).loss.item() * (len(ids) - 1), rel=1e-5)
        last = -model(whole).logits[0, -2].log_softmax(-1)[ids[-1]].item()
        # the same last word from a prefix that sees itself from both sides is another number
        assert PrefixLM().loss(model, all_but_one, family)["loss"].item() != pytest.approx(last, rel=1e-3)


def test_the_loss_of_an_encoder_decoder_is_transformers_own():
    unigram = tokenizers.train(stories(80), "unigram", 200)
    family, model = model_for("t5", unigram)
    rows = [join([_TwoSided().draw(np.array(unigram(story, add_special_tokens=False)["input_ids"], np.uint16),
                                   np.random.default_rng(i), unigram)]) for i, story in enumerate(stories(6))]
    batch = _TwoSided().collate(rows, unigram)
    with torch.no_grad():
        ours = PrefixLM().loss(model, batch, family)["loss"].item()
        theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
    assert ours == pytest.approx(theirs.loss.item() * int(PrefixLM().targets(batch)["loss"]), rel=1e-5)
