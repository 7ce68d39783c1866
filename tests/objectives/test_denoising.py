"""Denoising: what a text loses, what stands in its place, and that the whole of it is written."""

import math

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.data.rows import arrange
from llmkit.data.tokens import Documents
from llmkit.objectives.base import Setup, Text
from llmkit.objectives.denoising import Denoising, infilled, permuted, sentence_ends
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

calm = settings(deadline=None, max_examples=60)  # a busy machine is no defect
BEGIN, PAD, END, UNKNOWN, MASK, STOP = range(6)
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", ".", "a", "b", "c", "d", "e", "f"]
A, B, C, D, E, F = range(6, 12)


class Words:
    """A tokenizer of a few words."""

    bos_token_id, pad_token_id, eos_token_id, mask_token_id = BEGIN, PAD, END, MASK
    all_special_ids = (BEGIN, PAD, END, UNKNOWN, MASK)

    def __len__(self):
        return len(WORDS)

    def get_vocab(self):
        return {word: i for i, word in enumerate(WORDS)}

    def batch_decode(self, rows):
        return [" ".join(WORDS[i] for i in row) for row in rows]


class Chance:
    """A generator that says what it was told to, one list for each kind of question."""

    def __init__(self, orders=(), lengths=(), places=()):
        self.orders, self.lengths, self.places = list(orders), list(lengths), list(places)

    def permutation(self, count):
        order = self.orders.pop(0)
        assert sorted(order) == list(range(count))
        return np.array(order)

    def poisson(self, mean):
        return self.lengths.pop(0)

    def integers(self, low, high, count=None):
        found = self.places.pop(0)
        assert np.all((np.array(found) >= low) & (np.array(found) < high))
        return found if count is None else np.array(found)


def words(text):
    return np.array([WORDS.index(word) for word in text.split()], np.int64)


def text(ids):
    return " ".join(WORDS[i] for i in ids)


# ---- literal ----------------------------------------------------------------------------------------------------


def test_a_text_is_spoilt_in_the_encoder_and_whole_in_the_decoder():
    chance = Chance(orders=[[1, 0]], lengths=[2, 1], places=[[1, 4]])
    drawn = Denoising(mask_ratio=0.4).draw(words("a b c . d e .").astype(np.uint16), chance, Words())
    # d e . a b c . without `e .`, then without the last
    assert {name: text(ids) for name, ids in drawn.items()} == {
        "input_ids": "<s> d <mask> a b c <mask> </s>",
        "labels": "<s> a b c . d e . </s>",
        "decoder_input_ids": "<pad> <s> a b c . d e .",  # Text puts the family's own start there
    }


def test_the_same_generator_spoils_the_same():
    drawn = [Denoising(delete_ratio=0.2).draw(words("a b c . d e . f a b ."), np.random.default_rng(seed), Words())
             for seed in (0, 0, 1)]
    assert text(drawn[0]["input_ids"]) == text(drawn[1]["input_ids"]) != text(drawn[2]["input_ids"])
    assert text(drawn[0]["labels"]) == text(drawn[2]["labels"]) == "<s> a b c . d e . f a b . </s>"


@pytest.mark.parametrize(("lengths", "places", "most", "spoilt"), [
    ([2], [[1]], 6, "a <mask> d e f"),
    ([1, 1], [[2, 2]], 6, "a b <mask> <mask> e f"),  # side by side, never one over the other
    ([5], [[0]], 6, "<mask> c d e f"),  # the last is cut to what is left
    ([0, 2], [[4], 0], 6, "<mask> a b c d <mask>"),  # one of no tokens is a mask more
    ([0, 2], [[4]], 5, "a b c d <mask>"),  # for which a full row has no room
])
def test_spans_become_one_mask_each(lengths, places, most, spoilt):
    ids = infilled(words("a b c d e f"), 1 / 3, 3.0, MASK, most, Chance(lengths=lengths, places=places))
    assert text(ids) == spoilt


@pytest.mark.parametrize(("share", "order", "result"), [
    (1.0, [2, 0, 1], "d . a . b c ."),
    (0.5, [2, 0, 1], "d . b c . a ."),  # two of three change places; the second stays
    (0.0, [2, 0, 1], "a . b c . d ."),
])
def test_sentences_change_places(share, order, result):
    ends = sentence_ends(Words())
    assert ends == {STOP}
    assert text(permuted(words("a . b c . d ."), ends, share, Chance(orders=[order]))) == result


def test_deleted_tokens_leave_no_trace():
    objective = Denoising(mask_ratio=0.0, permute_sentence_ratio=0.0, delete_ratio=0.5)
    drawn = objective.draw(words("a b c d"), Chance(orders=[[0], [3, 1, 2, 0]], places=[[]]), Words())
    assert text(drawn["input_ids"]) == "<s> a c </s>"
    assert text(drawn["labels"]) == "<s> a b c d </s>"


def test_where_a_tokenizer_has_no_begin_there_is_none():
    class Marian(Words):
        bos_token_id = None

    drawn = Denoising(mask_ratio=0.0).draw(words("a b ."), Chance(orders=[[0]], places=[[]]), Marian())
    assert {name: text(ids) for name, ids in drawn.items()} == {
        "input_ids": "a b . </s>", "labels": "a b . </s>", "decoder_input_ids": "<pad> a b ."}


# ---- properties -------------------------------------------------------------------------------------------------


@calm
@given(st.integers(1, 200), st.floats(0, 0.95), st.floats(0.5, 8), st.integers(0, 10_000))
def test_the_share_is_hidden_exactly_and_the_rest_stays_in_order(length, share, mean, seed):
    ids = np.arange(100, 100 + length)
    found = infilled(ids, share, mean, MASK, length, np.random.default_rng(seed))
    clean = found[found != MASK]
    assert len(clean) == length - math.ceil(share * length)
    assert (np.diff(clean) > 0).all() and np.isin(clean, ids).all()
    assert len(found) <= length
    assert (MASK in found) == (share > 0)


@calm
@given(st.lists(st.integers(STOP, F), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 10_000))
def test_no_sentence_is_lost_when_they_change_places(ids, share, seed):
    ids = np.array(ids)

    def sentences(found):
        stops = np.flatnonzero(found[:-1] == STOP) + 1
        return sorted(map(tuple, np.split(found, stops)))

    found = permuted(ids, frozenset([STOP]), share, np.random.default_rng(seed))
    assert sorted(found.tolist()) == sorted(ids.tolist())
    if ids[-1] == STOP:  # a last one without its stop would run into the next
        assert sentences(found) == sentences(ids)


@calm
@given(st.lists(st.integers(STOP, F), min_size=2, max_size=60), st.floats(0, 0.9), st.floats(0, 0.9),
       st.integers(0, 10_000))
def test_the_decoder_writes_the_text_whole_and_the_encoder_reads_no_more_than_a_row(ids, share, gone, seed):
    objective = Denoising(mask_ratio=share, delete_ratio=gone)
    drawn = objective.draw(np.array(ids, np.uint16), np.random.default_rng(seed), Words())
    inputs = drawn["input_ids"].tolist()
    assert drawn["labels"].tolist() == [BEGIN, *ids, END]
    assert drawn["decoder_input_ids"].tolist() == [PAD, BEGIN, *ids]
    assert (inputs[0], inputs[-1]) == (BEGIN, END)
    assert not {BEGIN, END, PAD} & set(inputs[1:-1])
    assert len(inputs) <= len(ids) + 2
    left = [token for token in inputs[1:-1] if token != MASK]
    kept = len(ids) - round(gone * len(ids))
    assert len(left) == kept - math.ceil(share * kept)
    assert all(left.count(token) <= ids.count(token) for token in left)


def test_lengths_of_spans_are_poisson_with_mean_3():
    """BART, §2.2; counted where one mask stands between two tokens."""
    ids = np.arange(100, 100_100)
    found = infilled(ids, 0.3, 3.0, 1, 100_000, np.random.default_rng(0))
    places = np.flatnonzero(found != 1)
    alone = np.flatnonzero(np.diff(places) == 2)
    lengths = found[places[alone + 1]] - found[places[alone]] - 1
    poisson = np.array([math.exp(-3) * 3**k / math.factorial(k) for k in range(11)])
    shares = np.bincount(lengths, minlength=11)[:11] / len(lengths)
    assert len(lengths) > 6000
    assert shares == pytest.approx(poisson, abs=0.03)  # five standard deviations
    assert (found == 1).sum() == pytest.approx(10_000, abs=300)  # a mask each three hidden tokens


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(stories(80), "bpe", 300, special="roberta")


def test_a_decoder_starts_from_its_familys_own_token(bpe):
    ids = np.array(bpe("the cat saw the moon .", add_special_tokens=False)["input_ids"], np.uint16)
    for name, start in (("bart", bpe.eos_token_id), ("t5", bpe.pad_token_id)):
        row = Text(Denoising(), [[ids]], Setup(bpe, registry.find("backbones", name), 32, "none", seed=0))
        drawn = row.draw(0, np.random.default_rng(0))
        assert drawn["decoder_input_ids"].tolist() == [start, bpe.bos_token_id, *ids]


def test_a_sentence_ends_with_a_token_that_ends_with_its_mark(bpe):
    assert {bpe.decode([i]).strip() for i in sentence_ends(bpe)} == {".", "!", "?"}


def test_documents_in_a_block_are_spoilt_each_by_itself(bpe):
    """Their </s> stays, no sentence goes to another document, and no span hides the end of one."""
    end = bpe.eos_token_id
    ids = np.array([*range(20, 30), *range(40, 60), *range(70, 74)], np.uint16)
    starts, stops = np.array([0, 10, 30]), np.array([10, 30, 34])
    objective = Denoising(delete_ratio=0.2)
    layout = objective.layout(bpe, 64, "blocks")
    assert layout.after == (end,)
    rows = arrange(Documents(ids, starts, stops, np.zeros(3, np.uint64)), layout, "blocks")
    (segment,) = rows[0]
    for seed in range(50):
        drawn = objective.draw(segment, np.random.default_rng(seed), bpe)
        assert drawn["labels"].tolist() == [bpe.bos_token_id, *segment, end]
        inputs = drawn["input_ids"]
        assert (inputs == end).sum() == 4
        parts = np.split(inputs[1:], np.flatnonzero(inputs[1:] == end))
        for part, low, high in zip(parts, (20, 40, 70), (30, 60, 74), strict=False):
            plain = part[(part != end) & (part != bpe.mask_token_id)]
            assert ((plain >= low) & (plain < high)).all()
            assert len(plain) < high - low


def test_what_it_cannot_do_is_refused(bpe):
    with pytest.raises(RequestError, match="3 is too short for denoising"):
        Denoising().layout(bpe, 3, "none")
    plain = tokenizers.train(stories(80), "bpe", 300)
    with pytest.raises(RequestError, match="no mask token; denoising needs one"):
        Denoising().layout(plain, 32, "none")
    plain.add_special_tokens(Denoising().missing(plain))
    assert plain.mask_token == "<mask>"
    assert Denoising().layout(plain, 32, "none").length == 30
    for options in ({"mask_ratio": 1.0}, {"poisson_lambda": 0}, {"permute_sentence_ratio": 1.1}, {"delete_ratio": -1}):
        with pytest.raises(ValueError, match="Denoising"):
            Denoising(**options)


# ---- the loss ---------------------------------------------------------------------------------------------------


def test_the_loss_is_transformers_own(bpe):
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    family, objective = registry.find("backbones", "bart"), Denoising()
    model = AutoModelForSeq2SeqLM.from_config(family.config("tiny", SMALL["bart"] | STILL["bart"], bpe)).eval()
    segments = [[np.array(bpe(story, add_special_tokens=False)["input_ids"][:40], np.uint16)] for story in stories(8)]
    text = Text(objective, segments, Setup(bpe, family, 64, "none", seed=0))
    batch = objective.collate([text.draw(row, np.random.default_rng(row)) for row in range(8)], bpe)
    ours = objective.loss(model, batch, family)["loss"]
    # transformers makes decoder_input_ids of the labels by itself
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    assert ours.item() == pytest.approx((theirs * objective.targets(batch)["loss"]).item(), rel=1e-5)
