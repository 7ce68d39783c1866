"""From sources to rows: what is held out, laid out and told."""

import re

import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.objectives.base import Setup
from llmkit.objectives.causal_lm import CausalLM
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError
from llmkit.system.language import translate


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(stories(80), "bpe", 300)


@pytest.fixture
def write(tmp_path):
    def make(lines, name):
        (tmp_path / name).write_text("\n".join(lines))
        return open_source(Source(str(tmp_path / name)), "line")

    return make


def prepared(train, validation, tokenizer, packing="documents"):
    setup = Setup(tokenizer, registry.find("backbones", "gpt2"), 32, packing, seed=0)
    return CausalLM().prepare(train, validation, setup)


def test_sources_keep_their_places_though_one_is_held_out_whole(write, bpe):
    many = [write(stories(1, seed) * 2, f"{seed}.txt") for seed in range(12)]
    sets = prepared([*many, write(stories(50), "large.txt")], 0.5, bpe)
    assert len(sets.train) == len(sets.validation) == 13
    assert 0 in map(len, sets.train)  # two equal documents, both held out
    assert 0 in map(len, sets.validation)


def test_the_entropy_is_that_of_all_sources(write, bpe):
    one, two = write(["the the the the"], "one.txt"), write(stories(50), "two.txt")
    whole = write(["the the the the", *stories(50)], "whole.txt")
    assert prepared([one, two], None, bpe).facts["unigram_entropy"] == pytest.approx(
        prepared([whole], None, bpe).facts["unigram_entropy"])


@pytest.mark.parametrize("packing", ["blocks", "documents", "none"])
def test_what_is_learned_and_held_out_is_told(write, bpe, packing):
    sets = prepared([write(stories(50), "a.txt")], 0.2, bpe, packing)
    assert f"in {len(sets.train[0]):,} rows" in sets.notes[0]
    assert f"held out in {len(sets.validation[0]):,}" in sets.notes[0]


def test_a_share_that_leaves_one_side_empty_is_refused(write, bpe):
    empty = r"data\.validation: a share of 1e-09 of 50 documents leaves one side empty"
    with pytest.raises(DataError, match=empty) as refused:
        prepared([write(stories(50), "a.txt")], 1e-9, bpe)
    proposed = r"; --set data\.validation=(\S+) holds out (\d+) documents?; or "
    share, count = re.search(proposed, str(refused.value)).groups()
    works = prepared([write(stories(50), "a.txt")], float(share), bpe)
    assert len(works.validation) == 1
    assert translate(str(refused.value), "zh") == (
        "data.validation: 从 50 篇文档中取 1e-09，会有一边是空的；"
        f"--set data.validation={share} 会留出 {count} 篇文档；也可以另给验证数据。")


def test_equal_documents_stay_together_so_no_share_is_proposed(write, bpe):
    alone = r"a share of 0.5 of 3 documents .* empty; give validation sources of its own\.$"
    with pytest.raises(DataError, match=alone):
        prepared([write(["the same tale"] * 3, "a.txt")], 0.5, bpe)
