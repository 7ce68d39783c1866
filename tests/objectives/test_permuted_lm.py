"""Permuted language modelling: who sees whom in a random order, and what transformers makes of the same order."""

import copy

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.base import join
from llmkit.objectives.permuted_lm import PermutedLM, hidden, targets
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

calm = settings(deadline=None, max_examples=60)  # a busy machine is no defect
SEP, CLS, PAD = 4, 3, 5


class Words:
    """A tokenizer of which only ids are needed."""

    sep_token_id, cls_token_id, pad_token_id, mask_token_id = SEP, CLS, PAD, None
    all_special_ids = tuple(range(7))

    def __len__(self):
        return 100

    def get_vocab(self):
        return {str(i): i for i in range(100)}


@pytest.fixture(scope="module")
def unigram():
    return tokenizers.train(stories(80), "unigram", 80, special="xlnet")


@pytest.fixture(scope="module")
def xlnet(unigram):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    family = registry.find("backbones", "xlnet")
    return AutoModelForCausalLM.from_config(family.config("tiny", SMALL["xlnet"] | STILL["xlnet"], unigram)).eval()


def drawn(ids, seed=0, **options):
    return PermutedLM(**options).draw(np.array(ids, np.uint16), np.random.default_rng(seed), Words())


def batched(*rows):
    return PermutedLM().collate([join([row]) for row in rows], Words())


# ---- literal ----------------------------------------------------------------------------------------------------


class Chance:
    """Two spans, of 2 and of 1 token; then an order."""

    def __init__(self):
        self.numbers, self.order = [2, 1, 1, 0, 3, 5], [6, 4, 2, 0, 1, 3, 5, 7]

    def integers(self, *bounds):
        return self.numbers.pop(0)

    def permutation(self, count):
        return np.array(self.order[:count])


def test_targets_keep_their_tokens_and_get_a_place_in_the_order():
    row = PermutedLM(plm_probability=0.5, max_span_length=2).draw(
        np.array([11, 12, 13, 14, 15, 16], np.uint16), Chance(), Words())
    assert {name: values.tolist() for name, values in row.items()} == {
        "input_ids": [11, 12, 13, 14, 15, 16, SEP, CLS],
        "labels": [-100, 12, 13, -100, 15, -100, -100, -100],  # 1 to 2, then 4; the third span would be <cls>
        "order": [-1, 4, 2, -1, 1, -1, -1, -1],
    }


def test_a_batch_says_who_sees_whom_and_what_is_predicted():
    one = {"input_ids": np.array([11, 12, 13, SEP, CLS]), "labels": np.array([-100, 12, 13, -100, -100]),
           "order": np.array([-1, 3, 1, -1, -1])}
    two = {"input_ids": np.array([14, SEP, CLS]), "labels": np.array([14, -100, -100]), "order": np.array([0, -1, -1])}
    batch = batched(one, two)
    assert set(batch) == {"input_ids", "attention_mask", "perm_mask", "target_mapping", "labels"}
    assert batch["input_ids"].tolist() == [[11, 12, 13, SEP, CLS], [14, SEP, CLS, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["perm_mask"][0].tolist() == [  # 12 comes after 13 and sees it; 1: doesn't see
        [0, 1, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
    ]
    assert batch["perm_mask"][1].tolist() == [[1, 0, 0, 0, 0]] * 5
    assert batch["target_mapping"].tolist() == [[[0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], [[1, 0, 0, 0, 0], [0] * 5]]
    assert batch["labels"].tolist() == [[12, 13], [14, -100]]
    assert PermutedLM().targets(batch)["loss"] == 3


# ---- properties -------------------------------------------------------------------------------------------------


@calm
@given(st.lists(st.integers(0, 60), min_size=1, max_size=120), st.integers(0, 10_000))
def test_special_tokens_are_no_targets_and_a_row_with_words_has_some(ids, seed):
    row = drawn(ids, seed)
    chosen = row["labels"] != -100
    whole = np.array([*ids, SEP, CLS])
    assert row["input_ids"].tolist() == whole.tolist()
    assert (row["labels"][chosen] == whole[chosen]).all()
    assert not np.isin(whole[chosen], Words.all_special_ids).any()
    assert chosen.any() == any(i not in Words.all_special_ids for i in ids)
    assert (row["order"] >= 0).tolist() == chosen.tolist()
    assert len(set(row["order"][chosen].tolist())) == chosen.sum()


@calm
@given(st.lists(st.integers(-1, 30), min_size=1, max_size=30, unique_by=lambda n: n if n >= 0 else object()))
def test_no_token_sees_itself_and_targets_are_seen_in_one_direction_only(order):
    unseen = hidden(torch.tensor([order]))[0]
    for i, mine in enumerate(order):
        for j, other in enumerate(order):
            if other < 0:
                assert not unseen[i, j]  # context, by everyone
            else:
                assert unseen[i, j] == (other >= mine)
        if mine >= 0:
            assert unseen[i, i]


def test_about_one_of_k_tokens_is_a_target():
    """Yang et al. 2019, §2.3: K = 6; spans of 1 to 5, each number as likely."""
    rng = np.random.default_rng(0)
    for k in (2, 6, 7):
        chosen = targets(60_000, 1 / k, 5, rng)
        assert chosen.mean() == pytest.approx(1 / k, abs=0.01)
    alone = [targets(30, 1 / 6, 5, rng)[:6].sum() for _ in range(4000)]
    assert set(alone) <= {0, 1, 2, 3, 4, 5}
    edges = np.flatnonzero(np.diff(np.concatenate([[False], targets(200_000, 1 / 6, 1, rng), [False]]).astype(int)))
    assert set((edges[1::2] - edges[::2]).tolist()) <= {1, 2}  # spans of 1; two may meet


def test_no_logit_knows_what_it_has_to_predict(xlnet, unigram):
    """Change the token of a target: its own logits stay, and those of targets before it in the order."""
    ids = np.array(unigram(" ".join(stories(3)), add_special_tokens=False)["input_ids"][:40], np.uint16)
    row = PermutedLM(plm_probability=0.5).draw(ids, np.random.default_rng(0), unigram)
    places = np.flatnonzero(row["labels"] != -100)
    order = row["order"][places]
    assert len(places) > 8

    def logits(ids):
        batch = PermutedLM().collate([join([{**row, "input_ids": ids}])], unigram)
        del batch["labels"]
        with torch.no_grad():
            return xlnet(**batch).logits[0]

    before = logits(row["input_ids"])
    for i, place in enumerate(places):
        other = row["input_ids"].copy()
        other[place] = 7 + (other[place] - 6) % 40
        moved = (logits(other) - before).abs().amax(-1) > 1e-5
        assert moved.tolist() == (order > order[i]).tolist()


# ---- against transformers ---------------------------------------------------------------------------------------


class Torch:
    """transformers' chance behind numpy's names: torch's own generator, asked in the same order."""

    def integers(self, low, high=None):
        return torch.randint(low, (1,)).item() if high is None else torch.randint(low, high, (1,)).item()

    def permutation(self, count):
        halves = torch.arange(count).reshape((-1, count // 2)).transpose(0, 1)
        return halves[torch.randperm(count // 2)].transpose(0, 1).flatten().numpy()


@pytest.mark.parametrize("share", [1 / 6, 1 / 3])
def test_targets_and_masks_are_transformers_own_in_the_same_order(unigram, share):
    """Theirs writes the mask token at targets, and lets <sep> and <cls> see some of these: see the next test."""
    from transformers import DataCollatorForPermutationLanguageModeling

    theirs = DataCollatorForPermutationLanguageModeling(unigram, plm_probability=share, max_span_length=5)
    objective = PermutedLM(plm_probability=share, max_span_length=5)
    text = unigram(" ".join(stories(30)), add_special_tokens=False)["input_ids"]
    for seed in range(20):
        segment = np.array(text[seed : seed + 38], np.uint16)
        torch.manual_seed(seed)
        ours = objective.collate([join([objective.draw(segment, Torch(), unigram)])], unigram)
        torch.manual_seed(seed)
        them = theirs([{"input_ids": [*segment.tolist(), unigram.sep_token_id, unigram.cls_token_id]}])
        places = (them["labels"][0] != -100).nonzero()[:, 0]
        assert ours["labels"][0].tolist() == them["labels"][0, places].tolist()
        assert torch.equal(ours["target_mapping"][0], them["target_mapping"][0, places])
        assert torch.equal(ours["perm_mask"][0, :-2], them["perm_mask"][0, :-2])
        kept = them["labels"][0] == -100
        assert torch.equal(ours["input_ids"][0, kept], them["input_ids"][0, kept])


def test_the_special_tokens_behind_a_text_pass_on_no_target(unigram):
    """They see context only, so that a target can't see another through them."""
    ids = np.array(unigram(" ".join(stories(3)), add_special_tokens=False)["input_ids"][:38], np.uint16)
    batch = PermutedLM().collate([join([PermutedLM().draw(ids, np.random.default_rng(0), unigram)])], unigram)
    for place in (-1, -2):
        assert torch.equal(batch["perm_mask"][0, place], batch["target_mapping"][0].sum(0))


def test_the_loss_is_transformers_own(xlnet, unigram):
    xlnet, own = copy.deepcopy(xlnet), xlnet
    family, objective = registry.find("backbones", "xlnet"), PermutedLM()
    rows = [join([objective.draw(np.array(unigram(story, add_special_tokens=False)["input_ids"], np.uint16),
                                 np.random.default_rng(i), unigram)]) for i, story in enumerate(stories(8))]
    batch = objective.collate(rows, unigram)
    ours, said = objective.judge(xlnet, batch, family)
    theirs = own(**batch)
    count = int(objective.targets(batch)["loss"])
    assert ours["loss"].item() == pytest.approx(theirs.loss.item() * count, rel=1e-5)
    right = (theirs.logits.argmax(-1) == batch["labels"]).sum().item()
    assert said == [(right, count)]


def test_perplexity_and_accuracy_are_of_all_targets():
    figures = PermutedLM().metrics({"loss": np.log(20)}, [(1, 10), (5, 10)])
    assert figures == pytest.approx({"loss": np.log(20), "perplexity": 20, "accuracy": 0.3})


def test_what_it_cannot_do_is_refused(unigram):
    with pytest.raises(RequestError, match="3 leaves no room for text before <sep> <cls>"):
        PermutedLM().layout(unigram, 3, "none")
    assert PermutedLM().layout(unigram, 4, "none").length == 2
    assert PermutedLM().layout(unigram, 32, "blocks").after == (unigram.sep_token_id,)
    bpe = tokenizers.train(stories(80), "bpe", 300)
    with pytest.raises(RequestError, match="no sep token; permuted_lm needs one"):
        PermutedLM().layout(bpe, 32, "none")
