"""Whole words and spans: what is hidden together, and how much of it."""

import numpy as np
import pytest
from conftest import stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.data.tokens import entropy, marked, tokenize
from llmkit.data.words import WORD, bare, encode_words, mark, word_starts
from llmkit.objectives.masked_lm import MaskedLM, choose_spans, choose_words, quota, span_lengths, word_edges
from llmkit.recipe import Source

calm = settings(deadline=None, max_examples=50)


def pieces(tokenizer, text, segmenter="tokenizer"):
    """Words as lists of pieces."""
    (ids,) = encode_words(tokenizer, [text], segmenter)
    cuts = np.flatnonzero(ids >= WORD)[1:]
    return [tokenizer.convert_ids_to_tokens(part.tolist()) for part in np.split(bare(ids), cuts)]


def test_words_start_where_the_tokenizer_splits_or_a_piece_brings_its_space():
    wordpiece = tokenizers.train(stories(80), "wordpiece", 120)
    assert pieces(wordpiece, "the catly moon .") == [["the"], ["cat", "##l", "##y"], ["moon"], ["."]]
    bpe = tokenizers.train(stories(80), "bpe", 300)
    assert ["Ġcat", "l", "y"] in pieces(bpe, "the catly moon .")
    unigram = tokenizers.train(stories(80), "unigram", 200)
    assert all(word[0].startswith("▁") for word in pieces(unigram, "the catly moon ."))


def test_a_chinese_word_of_jieba_is_hidden_whole():
    pytest.importorskip("jieba")
    tokenizer = tokenizers.train(["我爱北京天安门。", "我们学习自然语言处理。"] * 3, "wordpiece", 60)
    words = pieces(tokenizer, "我爱北京天安门。", "jieba")
    assert words == [["我"], ["爱"], ["北", "京"], ["天", "安", "门"], ["。"]]


def test_a_token_starts_a_word_where_its_first_character_is_not_of_the_last_ones():
    words = ["我", "爱", "北京", " ", "ab"]
    assert word_starts([(0, 1), (1, 2), (2, 3), (3, 4), (4, 7)], "".join(words), words).tolist() == [1, 1, 1, 0, 1]


@calm
@given(st.lists(st.integers(1, 6), min_size=1, max_size=80), st.floats(0.02, 0.9), st.integers(0, 1000))
def test_words_are_hidden_whole_and_the_share_is_missed_by_less_than_a_word(lengths, share, seed):
    starts = np.concatenate([[True] + [False] * (length - 1) for length in lengths])
    plain = np.ones(len(starts), bool)
    plain[0] = False  # [CLS], alone or in place of a word's first token
    first, stop = word_edges(starts, plain)
    count = quota(int(plain.sum()), share) if plain.any() else 0
    by_words = choose_words(starts, plain, share, np.random.default_rng(seed))
    by_spans, _ = choose_spans(starts, plain, share, 0.2, 10, np.random.default_rng(seed))
    for chosen in (by_words, by_spans):
        assert not chosen[0]
        assert abs(int(chosen.sum()) - count) < max(lengths) + (count == 0)
        for a, b in zip(first, stop, strict=True):
            assert len(set(chosen[a:b].tolist())) == 1


def test_spans_are_as_long_as_in_spanbert():
    drawn = span_lengths(100_000, 0.2, 10, np.random.default_rng(0))
    share = 0.2 * 0.8 ** np.arange(10)
    share /= share.sum()
    assert np.bincount(drawn, minlength=11)[1:] / 100_000 == pytest.approx(share, abs=0.007)
    assert drawn.mean() == pytest.approx(3.8, abs=0.04)


@pytest.mark.parametrize("options", [{"whole_word": True}, {"spans": True}])
def test_a_hundred_thousand_tokens_are_masked_as_transformers_does(options):
    from transformers import DataCollatorForLanguageModeling

    tokenizer = tokenizers.train(stories(80), "wordpiece", 120)
    rng = np.random.default_rng(0)
    plain = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    segments = rng.choice(plain, (1000, 100))
    rows = [MaskedLM(**options).draw(mark(ids, rng.random(100) < 0.7), rng, tokenizer) for ids in segments]
    inputs, labels = (np.stack([row[name] for row in rows])[:, 1:-1] for name in ("input_ids", "labels"))
    theirs = DataCollatorForLanguageModeling(tokenizer, seed=1)([{"input_ids": ids.tolist()} for ids in segments])

    def shares(inputs, labels):
        hidden = labels != -100
        return [hidden.mean(), (inputs == tokenizer.mask_token_id)[hidden].mean(), (inputs == segments)[hidden].mean()]

    assert shares(inputs, labels) == pytest.approx(
        shares(theirs["input_ids"].numpy(), theirs["labels"].numpy()), abs=0.03)


def test_a_span_is_masked_or_kept_as_one():
    tokenizer = tokenizers.train(stories(80), "wordpiece", 120)
    objective = MaskedLM(mask_replace_prob=0.5, random_replace_prob=0)
    together = np.repeat(np.arange(0, 100, 5), 5)
    ids = np.full(100, 30)
    for seed in range(20):
        out = objective.corrupt(
            ids, np.ones(100, bool), np.random.default_rng(seed), tokenizer.mask_token_id, 120, np.arange(5), together)
        fates = (out == tokenizer.mask_token_id).reshape(20, 5)
        assert (fates.all(1) | ~fates.any(1)).all()
        assert fates.any() and not fates.all()


def test_static_masks_are_the_same_in_every_pass_and_dynamic_ones_not():
    tokenizer = tokenizers.train(stories(80), "wordpiece", 120)
    ids = np.array(tokenizer(" ".join(stories(5)), add_special_tokens=False)["input_ids"], np.uint16)
    for masking, same in (("static", True), ("dynamic", False)):
        one, two = (MaskedLM(masking=masking).draw(ids, np.random.default_rng(seed), tokenizer) for seed in (0, 1))
        assert (one["input_ids"].tolist() == two["input_ids"].tolist()) is same


def test_marks_change_neither_tokens_nor_entropy(text):
    tokenizer = tokenizers.train(stories(80), "wordpiece", 120)
    reader = open_source(Source(str(text)), "line")
    plain, words = tokenize(reader, tokenizer), tokenize(marked([reader], "tokenizer")[0], tokenizer)
    assert bare(words.ids).tolist() == plain.ids.tolist()
    assert entropy([words]) == entropy([plain])
    assert (words.ids[words.starts] >= WORD).all()


def test_a_segmenter_without_words_is_refused():
    with pytest.raises(ValueError, match="whole_word or spans"):
        MaskedLM(segmenter="jieba")
