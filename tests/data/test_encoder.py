"""Encoding each distinct word once gives the ids of the whole text, whatever stands in it."""

import unicodedata

import numpy as np
import pytest
from conftest import stories
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmkit.data import encoder as encoders
from llmkit.data import tokenizer as tokenizers
from llmkit.data.encoder import Encoder, splitter
from llmkit.data.words import encode_words

calm = settings(deadline=None, max_examples=150)  # a busy machine is no defect
ODD = ["naïve café Straße ΑΣ İstanbul ﬁne e\u0301 n\u0303", "我爱北京天安门。猫坐在垫子上！",
       "don't they'll I'd 42 1,000 3.14\n\n\t x  y", "[MASK] <mask> <|endoftext|> <extra_id_0> </s>",
       "a\xa0b\u2003c\u3000d\u2028e ▁f▁▁g", "emoji 👩‍👩‍👧 ☃\ufe0f"]
KINDS = [("wordpiece", None, None), ("wordpiece", False, None), ("wordpiece", None, "roberta"), ("bpe", None, None),
         ("bpe", True, "roberta"), ("unigram", None, None), ("unigram", None, "xlnet"), ("characters", None, None),
         ("characters", True, None)]


def name(kind):
    return "-".join(str(part) for part in kind if part is not None)


@pytest.fixture(scope="module", params=KINDS, ids=name)
def tokenizer(request):
    kind, lowercase, special = request.param
    return tokenizers.train([*stories(80), *ODD * 3], kind, 700, lowercase, special)


def whole(tokenizer, texts):
    """What the tokenizer itself says of each text."""
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def by_words(encoder, texts):
    ids, sizes = encoder(texts)
    assert len(sizes) == len(texts)
    return [part.tolist() for part in np.split(ids, np.cumsum(sizes)[:-1])] if texts else []


SPACES = [chr(i) for i in range(0x110000) if chr(i).isspace() or unicodedata.category(chr(i)) in ("Zs", "Zl", "Zp")]
PARTS = st.one_of(
    st.sampled_from(["the", "cat", "un", "Straße", "I'll", "'s", "42", "...", "!?", "[MASK]", "[SEP]", "[", "<mask>",
                     "<|endoftext|>", "<|", "</s>", "<extra_id_7>", "▁", "Ġ", "##ing", "我", "爱北京", "豈", "か\u3099",
                     "한국", "word" * 40]),
    st.sampled_from(SPACES), st.sampled_from([" ", "\n", "  ", " \n", "\n\n", "\r\n", "\t"]),
    st.sampled_from(list("\x00\x01\x0b\x0c\x1c\x1f\x7f\x85\xad\u180e\u200b\u200d\u2060\ufe0f\ufeff\ufffd\u0300\u0345")),
    st.characters(exclude_categories=["Cs"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
TEXT = st.lists(PARTS, max_size=30).map("".join)


@calm
@given(st.lists(TEXT, min_size=1, max_size=4))
def test_any_text_gets_the_ids_of_the_tokenizer(tokenizer, texts):
    assert splitter(tokenizer) is not None
    assert by_words(Encoder(tokenizer), texts) == whole(tokenizer, texts)


def pieces(tokenizer, text):
    """What the model of a tokenizer is given, one by one: a small vocabulary doesn't show every other cut."""
    pipeline = tokenizer.backend_tokenizer
    text = pipeline.normalizer.normalize_str(text) if pipeline.normalizer is not None else text
    return [piece for piece, _ in pipeline.pre_tokenizer.pre_tokenize_str(text)]


@calm
@given(TEXT)
def test_no_word_of_the_model_reaches_across_two_of_ours(tokenizer, text):
    assert [piece for word in splitter(tokenizer)(text) for piece in pieces(tokenizer, word)] == pieces(tokenizer, text)


@pytest.mark.parametrize("nth", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_characters_of_all_of_unicode_stand_anywhere(tokenizer, nth):
    """Between letters, after and before a space, alone, doubled; 64 characters a text."""
    chars = [chr(i) for i in [*range(0x3100), *range(0x3100, 0x110000, 251)] if unicodedata.category(chr(i)) != "Cs"]
    chars = chars[:0x250] + chars[0x250::nth]
    texts = ["|".join(form.format(c=c) for c in chars[i : i + 64])
             for form in ("a{c}b {c}c d{c} {c} {c}{c}", "{c}\n{c}a{c}  {c}{c}  b", "我{c}爱 {c}1{c}\u0301 .{c}. ")
             for i in range(0, len(chars), 64)]
    split = splitter(tokenizer)
    for text in texts:
        assert [piece for word in split(text) for piece in pieces(tokenizer, word)] == pieces(tokenizer, text)
    assert by_words(Encoder(tokenizer), texts) == whole(tokenizer, texts)


def test_words_that_were_seen_before_get_the_same_ids(tokenizer):
    encoder = Encoder(tokenizer)
    texts = [*stories(40), *ODD, "", " ", "\n"]
    first = by_words(encoder, texts)
    assert by_words(encoder, texts[::-1])[::-1] == first == whole(tokenizer, texts)
    assert by_words(encoder, []) == []


def test_what_is_remembered_is_bounded_and_changes_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(encoders, "MOST_WORDS", 20)
    encoder = Encoder(tokenizer)
    for start in range(0, 60, 6):
        texts = stories(6, seed=start)
        assert by_words(encoder, texts) == whole(tokenizer, texts)
        assert len(encoder.known) <= 20 and len(encoder.sizes) == len(encoder.known)
    monkeypatch.setattr(encoders, "MOST_CHARACTERS", 10)
    encoder(["a word and " + "one" * 40])
    assert len(encoder.known) == 0 and encoder.characters == 0


def test_each_word_is_given_to_the_tokenizer_once(tokenizer, monkeypatch):
    given = []
    inner = Encoder._words
    monkeypatch.setattr(Encoder, "_words", lambda self, words: (given.extend(words), inner(self, words))[1])
    encoder = Encoder(tokenizer)
    encoder(["the cat and the cat"])
    encoder(["the dog and the cat and"])
    assert len(given) == len(set(given))
    assert {word.strip() for word in given} == {"the", "cat", "and", "dog"}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@calm
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_marks_of_words_are_those_of_whole_texts(kind, made, texts):
    ids, sizes = Encoder(made[kind], "tokenizer")(texts)
    expected = encode_words(made[kind], texts, "tokenizer")
    assert ids.dtype == np.uint32 and sizes.tolist() == [len(one) for one in expected]
    assert ids.tolist() == np.concatenate(expected).tolist()


@pytest.fixture(scope="module")
def made():
    return {kind: tokenizers.train([*stories(80), *ODD * 3], kind, 700) for kind in ("wordpiece", "bpe", "unigram")}


# ---- tokenizers that aren't known to work word by word ----------------------------------------------------------


def built(cutter, normalizer=None, dropout=None, added=()):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pipeline = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, [], dropout=dropout))
    pipeline.pre_tokenizer = cutter
    if normalizer is not None:
        pipeline.normalizer = normalizer
    pipeline.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=pipeline)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize("tokenizer", [
    built(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    built(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    built(pre_tokenizers.Metaspace()),
    built(pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")])),
    built(BYTES, normalizers.NFKC()),
    built(BYTES, normalizers.BertNormalizer()),
    built(BYTES, dropout=0.5),
    built(BYTES, added=[AddedToken("two words")]),
    built(BYTES, added=[AddedToken("<x>", rstrip=True)]),
    built(BYTES, added=[AddedToken("x", single_word=True)]),
    built(BYTES, added=[AddedToken("<｜x｜>")]),
    built(pre_tokenizers.Sequence([BYTES, BYTES])),
    built(pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Punctuation()])),
], ids=str)
def test_others_are_given_whole_texts(tokenizer):
    assert splitter(tokenizer) is None
    if not tokenizer.backend_tokenizer.model.dropout:
        texts = [*ODD[:3], "two words <x> x", ""]
        assert by_words(Encoder(tokenizer), texts) == whole(tokenizer, texts)


@calm
@given(TEXT)
def test_digits_cut_out_before_byte_level_bpe_change_nothing(text):
    """As in SmolLM2's tokenizer."""
    tokenizer = built(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
                      added=[AddedToken("<mask>", lstrip=True)])
    assert splitter(tokenizer) is not None
    assert by_words(Encoder(tokenizer), [text]) == whole(tokenizer, [text])
