"""Tokens are computed once for the same content, and held out by what documents say."""

import math
import os
import resource
import sys
from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
from conftest import stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.data import tokens
from llmkit.data.large import coding
from llmkit.data.sources import open_source
from llmkit.data.tokens import Documents, cut, encode, entropy, tokenize, total
from llmkit.recipe import Source
from llmkit.system.errors import DataError, PlaceError

calm = settings(deadline=None, max_examples=50)  # a busy machine is no defect
CODE = "def f(x):\n    return x\n\n\nclass A:\n\n    def g(self):\n        return [1,  2]\n\n\n"


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train([*stories(80), *[CODE] * 4], "bpe", 400)


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train([*stories(80), *[CODE] * 4], "wordpiece", 200)


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """How often anything was tokenized, with a cache of its own."""
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    seen = []
    write = tokens.write

    def counted(*args):
        seen.append(args)
        write(*args)

    monkeypatch.setattr(tokens, "write", counted)
    return seen


def read(path, document="line"):
    return open_source(Source(str(path)), document)


def texts(documents, tokenizer):
    return [tokenizer.decode(documents.ids[a:b]) for a, b in zip(documents.starts, documents.stops, strict=True)]


# ---- the cache --------------------------------------------------------------------------------------------------


def test_documents_come_back_as_they_were_written(tmp_path, bpe, runs):
    path = tmp_path / "a.txt"
    path.write_text("the cat saw a hat .\nünïcødé 猫 \U0001f600\n")
    documents = tokenize(read(path), bpe)
    assert texts(documents, bpe) == ["the cat saw a hat .", "ünïcødé 猫 \U0001f600"]
    assert documents.ids.dtype == np.uint16
    assert documents.lengths.tolist() == [b - a for a, b in zip(documents.starts, documents.stops, strict=True)]


def test_no_special_token_is_put_around_documents(tmp_path, wordpiece, runs):
    (tmp_path / "a.txt").write_text("the cat saw\n")
    documents = tokenize(read(tmp_path / "a.txt"), wordpiece)
    assert not {wordpiece.cls_token_id, wordpiece.sep_token_id} & set(documents.ids.tolist())


def test_the_same_content_is_tokenized_once_wherever_it_lies(tmp_path, bpe, runs, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("the cat\na dog\n")
    first = tokenize(read(path), bpe)
    os.utime(path, (1, 1))
    tokenize(read(path), bpe)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "b.txt")
    again = tokenize(read(moved), bpe)
    assert len(runs) == 1
    assert again.ids.tolist() == first.ids.tolist()
    monkeypatch.setattr(tokens, "SMALL", 0)
    large = tokenize(read(moved), bpe)
    assert isinstance(large.ids.base, np.memmap) and not large.ids.flags.owndata  # mapped, not read
    for one, other in zip((again.ids, again.starts, again.stops), (large.ids, large.starts, large.stops), strict=True):
        assert one.dtype == other.dtype and one.tolist() == other.tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_a_small_source_holds_no_descriptor_and_a_large_one_says_which_limit_it_meets(tmp_path, bpe, monkeypatch):
    made = []
    before = len(os.listdir("/proc/self/fd"))
    for i in range(40):
        path = tmp_path / f"{i}.txt"
        path.write_text(f"the cat\na dog {i}\n")
        made.append(tokenize(read(path), bpe))
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.setattr(tokens, "SMALL", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, hard))
    try:
        with pytest.raises(PlaceError, match=r"\d\.txt: this process may open no more files.*ulimit -n"):
            made += [tokenize(read(tmp_path / f"{i}.txt"), bpe) for i in range(40)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_other_content_another_tokenizer_or_another_document_is_tokenized_anew(tmp_path, bpe, wordpiece, runs):
    path = tmp_path / "a.txt"
    path.write_text("the cat\na dog\n")
    tokenize(read(path), bpe)
    tokenize(read(path), wordpiece)
    assert len(runs) == 2
    assert len(tokenize(read(path, "file"), bpe)) == 1
    assert len(runs) == 3
    path.write_text("the cat\na hat\n")  # of the same length
    assert texts(tokenize(read(path), bpe), bpe) == ["the cat", "a hat"]
    assert len(runs) == 4


def test_documents_without_a_token_are_kept_as_empty(tmp_path, wordpiece, runs):
    path = tmp_path / "a.txt"
    path.write_text("\u200b\n\u200d\n")  # BERT's normalizer takes these away
    documents = tokenize(read(path), wordpiece)
    assert documents.lengths.tolist() == [0, 0]
    with pytest.raises(DataError, match=r"data\.train: there is no text"):
        total([documents], "data.train")


# ---- held-out documents -----------------------------------------------------------------------------------------


def made(*words):
    """Documents of one token each, told apart by it."""
    digests = np.array([int.from_bytes(blake2b(bytes(word)).digest()[:8]) for word in words], np.uint64)
    return Documents(np.array(words, np.uint16), np.arange(len(words)), np.arange(len(words)) + 1, digests)


def ids(documents):
    return [documents.ids[a:b].tolist()[0] for a, b in zip(documents.starts, documents.stops, strict=True)]


def test_every_document_is_on_one_side_and_in_its_old_order():
    words = list(range(1000))
    learned, held = made(*words).split(0.1, seed=1)
    assert sorted(ids(learned) + ids(held)) == words
    assert ids(learned) == sorted(ids(learned))
    assert 70 <= len(held) <= 130


def test_the_side_of_a_document_does_not_depend_on_the_others():
    before = set(ids(made(*range(300)).split(0.2, seed=1)[1]))
    after = set(ids(made(*range(1000, 1400), *range(300), 5000).split(0.2, seed=1)[1]))
    assert {word for word in after if word < 300} == before


def test_duplicates_stay_together():
    learned, held = made(*range(50), *range(50), *range(50)).split(0.3, seed=1)
    assert not set(ids(learned)) & set(ids(held))
    assert set(Counter(ids(held)).values()) == {3}


def test_another_seed_or_share_holds_out_others():
    documents = made(*range(300))
    held = [set(ids(documents.split(share, seed)[1])) for share, seed in ((0.2, 1), (0.2, 2), (0.4, 1))]
    assert held[0] != held[1]
    assert held[0] < held[2]  # a larger share only adds


def test_of_a_single_document_the_end_is_held_out():
    documents = Documents(np.arange(20, dtype=np.uint16), np.array([5]), np.array([15]), np.array([1], np.uint64))
    learned, held = documents.split(0.2, seed=0)
    assert learned.ids[learned.starts[0] : learned.stops[0]].tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    assert held.ids[held.starts[0] : held.stops[0]].tolist() == [13, 14]


def test_the_same_text_in_another_file_is_on_the_same_side(tmp_path, bpe, runs):
    lines = stories(60)
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("\n".join(reversed(lines)))
    one, two = (tokenize(read(tmp_path / name), bpe).split(0.3, 7)[1] for name in ("a.txt", "b.txt"))
    assert sorted(texts(one, bpe)) == sorted(texts(two, bpe))
    assert 0 < len(one) < len(lines)


# ---- entropy ----------------------------------------------------------------------------------------------------


def test_entropy_is_that_of_the_frequencies():
    documents = Documents(np.array([1, 1, 5, 9, 9, 1, 3], np.uint16), np.array([0, 5]), np.array([3, 7]),
                          np.zeros(2, np.uint64))  # 1 1 5, and 1 3
    expected = -(3 / 5 * math.log(3 / 5) + 2 * 1 / 5 * math.log(1 / 5))
    assert documents.entropy() == pytest.approx(expected, abs=1e-12)
    assert made(4, 4, 4).entropy() == 0


def test_entropy_counts_all_documents_of_all_sources():
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 50, 5000).astype(np.uint16)
    edges = np.unique(np.concatenate([[0, 5000], rng.integers(0, 5000, 300)]))
    documents = Documents(whole, edges[:-1], edges[1:], np.zeros(len(edges) - 1, np.uint64))
    share = np.bincount(whole) / 5000
    expected = float(-(share * np.log(share)).sum())
    assert documents.entropy() == pytest.approx(expected)
    assert entropy(list(documents.split(0.0, 0))) == pytest.approx(expected)
    parts = [Documents(whole, edges[a:b], edges[a + 1 : b + 1], np.zeros(b - a, np.uint64))
             for a, b in ((0, 0), (0, 100), (100, len(edges) - 1))]
    assert entropy(parts) == pytest.approx(expected)


@pytest.mark.parametrize("stretch", [1, 7, 100, 4999, 5000])
def test_entropy_counts_every_token_once_however_it_is_stretched(monkeypatch, stretch):
    monkeypatch.setattr(tokens, "STRETCH", stretch)
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 50, 5000).astype(np.uint16)
    edges = np.concatenate([[0, 0, 0], np.unique(rng.integers(1, 5000, 40)), [5000, 5000]])  # some documents are empty
    documents = Documents(whole, edges[:-1], edges[1:], np.arange(len(edges) - 1, dtype=np.uint64))
    share = np.bincount(whole) / 5000
    assert documents.entropy() == pytest.approx(float(-(share * np.log(share)).sum()))
    held = documents.split(0.5, 0)[1]
    some = np.concatenate([whole[a:b] for a, b in zip(held.starts, held.stops, strict=True)])
    share = np.bincount(some)[np.bincount(some) > 0] / len(some)
    assert held.entropy() == pytest.approx(float(-(share * np.log(share)).sum()))


def test_entropy_of_much_text_is_counted_in_stretches_all_over_it(monkeypatch):
    monkeypatch.setattr(tokens, "STRETCH", 10)
    ids = np.repeat(np.arange(1000), 10).astype(np.uint16)  # each token ten times, one after the other
    documents = Documents(ids, np.array([0]), np.array([10_000]), np.zeros(1, np.uint64))
    assert documents.entropy(most=1000) == pytest.approx(math.log(100))
    assert documents.entropy(most=10_000) == pytest.approx(math.log(1000))


# ---- long documents ---------------------------------------------------------------------------------------------


@calm
@given(st.text(alphabet="ab \n.\t", max_size=80), st.integers(1, 20))
def test_cutting_loses_nothing(text, most):
    pieces = cut(text, most)
    assert "".join(pieces) == text
    assert all(pieces)


@calm
@given(st.text(alphabet="the cat's 1\n\t.,é猫", max_size=80), st.integers(1, 20))
def test_no_token_of_bytes_reaches_across_a_cut(bpe, text, most):
    assert [token for piece in encode(bpe, cut(text, most)) for token in piece] == encode(bpe, [text])[0]


@calm
@given(st.text(alphabet="the cat's 1\n\t.,é猫", max_size=80), st.integers(1, 20))
def test_no_word_piece_reaches_across_a_cut(wordpiece, text, most):
    assert [token for piece in encode(wordpiece, cut(text, most)) for token in piece] == encode(wordpiece, [text])[0]


def test_blank_lines_are_not_cut_apart(bpe):
    assert cut("a\n\nb c", 3) == ["a\n\nb", " c"]
    assert cut("a\nb\nc d", 3) == ["a\n", "b\n", "c d"]
    for most in (5, 20, 50):
        assert [token for piece in encode(bpe, cut(CODE * 3, most)) for token in piece] == encode(bpe, [CODE * 3])[0]


def test_a_text_without_a_place_to_cut_stays_whole():
    assert cut("a" * 50, 10) == ["a" * 50]
    assert cut("a" * 20 + " b", 10) == ["a" * 20, " b"]
    assert cut("", 10) == []


def test_a_document_longer_than_a_piece_is_one_document(tmp_path, bpe, runs, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(stories(40)) + CODE)
    whole = tokenize(read(path, "file"), bpe)
    monkeypatch.setattr(coding, "PIECE", 100)
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "other"))
    cut_up = tokenize(read(path, "file"), bpe)
    assert len(cut_up) == 1
    assert cut_up.ids.tolist() == whole.ids.tolist()


def test_a_tokenizers_own_truncation_and_padding_are_not_used(bpe):
    bpe.backend_tokenizer.enable_truncation(2)
    bpe.backend_tokenizer.enable_padding(length=50)
    assert bpe.decode(encode(bpe, ["the cat saw the moon"])[0]) == "the cat saw the moon"
