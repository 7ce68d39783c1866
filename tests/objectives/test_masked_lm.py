"""Masked language modelling: which tokens are hidden, and what stands in their place."""

import numpy as np
import pytest
import torch
from conftest import OBJECTIVE, SMALL, STILL, stories
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from llmkit.data import tokenizer as tokenizers
from llmkit.data.batches import Drawn, in_order
from llmkit.data.rows import arrange
from llmkit.data.sources import open_source
from llmkit.data.tokens import tokenize
from llmkit.data.words import mark
from llmkit.objectives.base import Setup, Text, Vocabulary, vocabulary
from llmkit.objectives.masked_lm import MaskedLM, choose, random_words
from llmkit.recipe import Source, registry
from llmkit.system.errors import RequestError

calm = settings(deadline=None, max_examples=50)  # a busy machine is no defect


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 120)


@pytest.fixture(scope="module")
def bert(wordpiece):
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(0)
    family = registry.find("backbones", "bert")
    return AutoModelForMaskedLM.from_config(family.config("tiny", SMALL["bert"] | STILL["bert"], wordpiece)).eval()


def words(tokenizer, text):
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.uint16)


def drawn(tokenizer, text, seed=0, **options):
    features = MaskedLM(**options).draw(words(tokenizer, text), np.random.default_rng(seed), tokenizer)
    return tokenizer.decode(features["input_ids"]), features


def test_a_hidden_token_is_the_label_and_nothing_else_is(wordpiece):
    text, features = drawn(wordpiece, "the cat saw the moon .", seed=3, mask_replace_prob=1, random_replace_prob=0)
    assert text == "[CLS] the cat [MASK] the moon. [SEP]"
    hidden = features["labels"] != -100
    assert wordpiece.decode(features["labels"][hidden]) == "saw"
    assert np.flatnonzero(hidden).tolist() == [3]


def test_the_same_chance_hides_the_same(wordpiece):
    text = " ".join(stories(3))
    assert drawn(wordpiece, text, 1)[0] == drawn(wordpiece, text, 1)[0]
    assert drawn(wordpiece, text, 1)[0] != drawn(wordpiece, text, 2)[0]


@calm
@given(st.integers(1, 400), st.floats(0.01, 0.99), st.integers(0, 100))
def test_the_share_is_exact_and_at_least_one(count, share, seed):
    """Devlin et al.'s create_pretraining_data.py: max(1, int(round(tokens x share)))."""
    candidates = np.random.default_rng(seed).random(count) < 0.8
    chosen = choose(candidates, share, np.random.default_rng(seed))
    there = int(candidates.sum())
    assert chosen.sum() == (min(there, max(1, round(there * share))) if there else 0)
    assert not (chosen & ~candidates).any()


def test_every_candidate_is_chosen_as_often():
    rng = np.random.default_rng(0)
    candidates = np.array([False, True, True, False, True, True, True, True, True, True, True, False])
    times = sum(choose(candidates, 0.34, rng).astype(int) for _ in range(6000))
    assert times[~candidates].tolist() == [0, 0, 0]
    assert (np.abs(times[candidates] - 2000) < 200).all()  # 3 of 9; five standard deviations


def test_special_tokens_are_never_hidden_nor_drawn(wordpiece):
    special = set(wordpiece.all_special_ids)
    text = "the [UNK] cat [SEP] saw [SEP]"
    ids = words(wordpiece, text)
    for seed in range(50):
        features = MaskedLM(mlm_probability=0.9, mask_replace_prob=0, random_replace_prob=1).draw(
            ids, np.random.default_rng(seed), wordpiece)
        at = np.flatnonzero(features["labels"] != -100)
        assert set(at) <= {1, 3, 5}
        assert not special & set(features["input_ids"][at].tolist())
        assert features["labels"][0] == features["labels"][-1] == -100
        kept = features["labels"] == -100
        assert features["input_ids"][kept].tolist() == np.array([wordpiece.cls_token_id, *ids, wordpiece.sep_token_id])[
            kept].tolist()


def test_an_example_by_hand():
    class Words:
        """A tokenizer of which only ids are needed."""

        cls_token_id, sep_token_id, mask_token_id, all_special_ids = 2, 3, 4, [0, 1, 2, 3, 4]

        def __len__(self):
            return 20

        def get_vocab(self):
            return {str(i): i for i in range(20)}

    class Chance:
        """Hides the third and the first word; the one is masked, the other becomes the plain word number 7."""

        def permutation(self, places):
            return places[[2, 0, 1, 3]]

        def random(self, count):
            return np.array([0.0, 0.85, 0.0, 0.5, 0.0, 0.0])

        def integers(self, low, high, count):
            assert (low, high, count) == (0, 15, 6)
            return np.full(count, 7)

    row = MaskedLM(mlm_probability=0.5).draw(np.array([11, 12, 13, 14], np.uint16), Chance(), Words())
    assert {name: ids.tolist() for name, ids in row.items()} == {
        "input_ids": [2, 12, 12, 4, 14, 3], "labels": [-100, 11, -100, 13, -100, -100]}


def test_special_tokens_are_told_from_others_and_found_anew_when_some_are_added():
    tokenizer = tokenizers.train(stories(20), "wordpiece", 90)
    ids = np.random.default_rng(0).integers(0, len(tokenizer), 500)
    for special in ([], [0], [2, 5, 9], list(range(40, 60))):
        known = Vocabulary(None, None, None, np.array(special, np.int64), len(tokenizer))
        assert known.plain(ids).tolist() == (~np.isin(ids, special)).tolist()
    assert vocabulary(tokenizer).plain(np.array([0, 4, 5])).tolist() == [False, False, True]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    new = tokenizer.convert_tokens_to_ids("<new>")
    assert vocabulary(tokenizer).plain(np.array([new, 5])).tolist() == [False, True]


def test_an_id_that_stands_for_no_token_is_never_made_up():
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 6, "b": 8, "c": 9}  # 5 and 7 are holes
    tokenizer = BertTokenizer(vocab=words)
    drawn = MaskedLM(mlm_probability=0.9, mask_replace_prob=0.0, random_replace_prob=1.0).draw(
        np.array([6, 8, 9] * 200, np.uint16), np.random.default_rng(0), tokenizer)["input_ids"][1:-1]
    assert set(drawn.tolist()) == {6, 8, 9}


@pytest.fixture(scope="module")
def spoken():
    """A tokenizer of every family that hides tokens."""
    families = {name: registry.find("backbones", name) for name in OBJECTIVE if OBJECTIVE[name] == "masked_lm"}
    return [tokenizers.train(stories(80), family.tokenizer, 300 if family.tokenizer == "bpe" else 80,
                             special=family.special) for family in families.values()]


@calm
@given(st.lists(st.integers(0, 39), min_size=1, max_size=100), st.floats(0.01, 0.99), st.integers(0, 10_000),
       st.sampled_from([{}, {"whole_word": True}, {"spans": True}]))
def test_special_tokens_of_no_tokenizer_are_corrupted_nor_made_up(spoken, ids, share, seed, options):
    for tokenizer in spoken:
        special = set(tokenizer.all_special_ids)
        segment = mark(ids, np.random.default_rng(seed).random(len(ids)) < 0.6) if options else np.array(ids, np.uint16)
        row = MaskedLM(mlm_probability=share, **options).draw(segment, np.random.default_rng(seed), tokenizer)
        whole = np.array([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id])
        hidden = row["labels"] != -100
        assert (row["labels"][hidden] == whole[hidden]).all()
        assert (row["input_ids"][~hidden] == whole[~hidden]).all()
        assert not special & set(whole[hidden].tolist())
        assert set(row["input_ids"][hidden].tolist()) & special <= {tokenizer.mask_token_id}
        there = sum(i not in special for i in ids)
        assert hidden.any() == (there > 0)
        if not options:
            assert hidden.sum() == (min(there, max(1, round(there * share))) if there else 0)


def test_perplexity_and_accuracy_are_of_all_hidden_tokens():
    figures = MaskedLM().metrics({"loss": np.log(20)}, [(1, 10), (5, 10)])
    assert figures == pytest.approx({"loss": np.log(20), "perplexity": 20, "accuracy": 0.3})


def test_hidden_tokens_told_right_are_counted(wordpiece, bert):
    objective, family = MaskedLM(mlm_probability=0.4), registry.find("backbones", "bert")
    row = objective.draw(words(wordpiece, " ".join(stories(3)))[:60], np.random.default_rng(0), wordpiece)
    batch = objective.collate([{**row, "documents": np.zeros_like(row["input_ids"])}], wordpiece)
    with torch.no_grad():
        hidden = batch["labels"] != -100
        batch["labels"][hidden] = bert(batch["input_ids"]).logits.argmax(-1)[hidden]  # what the model says anyway
        count = int(hidden.sum())
        assert objective.judge(bert, batch, family)[1] == [(count, count)]
        batch["labels"][0, hidden[0].nonzero()[0]] = 5 + (batch["labels"][0, hidden[0].nonzero()[0]] == 5).long()
        assert objective.judge(bert, batch, family)[1] == [(count - 1, count)]


class Counting:
    """A generator that draws every number below its bound once."""

    def integers(self, low, high, count):
        return np.arange(low, high)


@calm
@given(st.integers(2, 40), st.data())
def test_random_words_are_all_words_but_the_special_ones(size, data):
    special = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    ids = random_words(0, size, np.array(sorted(special), np.int64), Counting())
    assert ids.tolist() == [word for word in range(size) if word not in special]


def test_eight_of_ten_are_masked_one_is_random_one_stays_as_transformers_has_it(wordpiece):
    from transformers import DataCollatorForLanguageModeling

    rng = np.random.default_rng(0)
    plain = [i for i in range(len(wordpiece)) if i not in wordpiece.all_special_ids]
    segments = rng.choice(plain, (1000, 100))

    def shares(ids, inputs, labels):
        hidden = labels != -100
        masked, same = inputs == wordpiece.mask_token_id, inputs == ids
        return [hidden.mean(), masked[hidden].mean(), same[hidden].mean(), (~masked & ~same)[hidden].mean(),
                float((~same)[~hidden].sum())]

    objective = MaskedLM()
    features = [objective.draw(segment, rng, wordpiece) for segment in segments]
    inputs, labels = (np.stack([row[name] for row in features])[:, 1:-1] for name in ("input_ids", "labels"))
    ours = shares(segments, inputs, labels)
    assert ours[0] == 0.15
    assert ours[1:] == pytest.approx([0.8, 0.1 + 0.1 / len(plain), 0.1 - 0.1 / len(plain), 0], abs=0.012)
    # 15,000 hidden tokens: five standard deviations of a share of 0.1 are 0.012
    collate = DataCollatorForLanguageModeling(wordpiece, seed=1)
    theirs = collate([{"input_ids": segment.tolist()} for segment in segments])
    them = shares(segments, theirs["input_ids"].numpy(), theirs["labels"].numpy())
    assert ours == pytest.approx(them, abs=0.02)
    swapped = (labels != -100) & (inputs != segments) & (inputs != wordpiece.mask_token_id)
    assert set(inputs[swapped].tolist()) == set(plain)  # any word may come


def test_blocks_end_documents_with_sep_and_documents_stand_alone(wordpiece):
    sep = wordpiece.sep_token_id
    assert MaskedLM().layout(wordpiece, 16, "blocks").after == (sep,)
    layout = MaskedLM().layout(wordpiece, 16, "documents")
    assert (layout.after, layout.length, layout.room) == ((), 14, 16)
    assert layout.positions(np.array([14])).tolist() == [16]


@pytest.mark.parametrize("packing", ["blocks", "documents", "none"])
def test_evaluation_hides_the_same_every_time(wordpiece, text, packing):
    setup = Setup(wordpiece, registry.find("backbones", "bert"), 32, packing, seed=0)
    objective = MaskedLM()
    rows = arrange(tokenize(open_source(Source(str(text)), "line"), wordpiece),
                   objective.layout(wordpiece, 32, packing), packing)
    examples = Text(objective, rows, setup)
    keys = [key for batch in in_order(len(rows), 4, 0, 1) for key in batch]
    first, second = ([Drawn([examples], seed=0)[key] for key in keys] for _ in range(2))
    for one, two in zip(first, second, strict=True):
        assert one["input_ids"].tolist() == two["input_ids"].tolist()
        assert len(one["input_ids"]) <= 32
        assert (one["labels"] != -100).any()
    assert any(one["input_ids"].tolist() != Drawn([examples], seed=0)[0, row]["input_ids"].tolist()
               for row, one in enumerate(first))


def test_the_loss_is_transformers_own(wordpiece, bert):
    rng = np.random.default_rng(0)
    objective, family = MaskedLM(), registry.find("backbones", "bert")
    rows = [objective.draw(words(wordpiece, story)[:40], rng, wordpiece) for story in stories(10)]
    for row in rows:
        row["documents"] = np.zeros_like(row["input_ids"])
    batch = objective.collate(rows, wordpiece)
    assert "attention_mask" in batch
    ours = objective.loss(bert, batch, family)["loss"]
    count = objective.targets(batch)["loss"]
    assert ours.item() == pytest.approx((bert(**batch).loss * count).item(), rel=1e-5)


def test_what_it_cannot_do_is_refused(wordpiece):
    bpe = tokenizers.train(stories(80), "bpe", 300)
    with pytest.raises(RequestError, match="the tokenizer has no mask token; masked_lm needs one"):
        MaskedLM().layout(bpe, 32, "none")
    with pytest.raises(RequestError, match="2 leaves no room"):
        MaskedLM().layout(wordpiece, 2, "none")
    for options in ({"mask_replace_prob": 0.9, "random_replace_prob": 0.2}, {"mask_replace_prob": -0.1},
                    {"mlm_probability": 0}, {"mlm_probability": 1}, {"mlm_prob": 0.1}):
        with pytest.raises(ValueError, match="MaskedLM"):
            MaskedLM(**options)
