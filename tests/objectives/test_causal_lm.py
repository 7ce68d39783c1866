"""Causal language modelling: labels are the inputs one step ahead, and the loss is transformers' own."""

import math

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.data.rows import arrange
from llmkit.data.sources import open_source
from llmkit.data.tokens import tokenize
from llmkit.objectives.base import Setup, Text, only_at, part
from llmkit.objectives.causal_lm import PARTS, CausalLM, log_uniform, sampled_softmax
from llmkit.recipe import Source, registry


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(stories(80), "bpe", 300)


@pytest.fixture(scope="module")
def gpt2(bpe):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    family = registry.find("backbones", "gpt2")
    return AutoModelForCausalLM.from_config(family.config("tiny", SMALL["gpt2"] | STILL["gpt2"], bpe)).eval()


def rows(lines, tokenizer, tmp_path, packing, length=16):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    setup = Setup(tokenizer, registry.find("backbones", "gpt2"), length, packing, seed=0)
    objective = CausalLM()
    documents = tokenize(open_source(Source(str(path)), "line"), tokenizer)
    return Text(objective, arrange(documents, objective.layout(tokenizer, length, packing), packing), setup)


def test_labels_are_the_next_tokens(bpe):
    drawn = CausalLM().draw(np.array([0, 7, 8, 9], np.uint16), np.random.default_rng(0), bpe)
    assert {name: ids.tolist() for name, ids in drawn.items()} == {"input_ids": [0, 7, 8], "labels": [7, 8, 9]}


def test_a_document_is_predicted_from_its_begin_to_its_end(bpe, tmp_path):
    end = bpe.eos_token_id
    text = rows(["the cat", "a dog"], bpe, tmp_path, "none")
    drawn = text.draw(0, np.random.default_rng(0))
    ids = bpe("the cat")["input_ids"]
    assert drawn["input_ids"].tolist() == [end, *ids]
    assert drawn["labels"].tolist() == [*ids, end]


def test_packed_documents_start_again_each(bpe, tmp_path):
    end, one, two = bpe.eos_token_id, bpe("the cat")["input_ids"], bpe("a dog")["input_ids"]
    text = rows(["the cat", "a dog"], bpe, tmp_path, "documents", length=len(one) + len(two) + 2)
    assert len(text) == 1
    drawn = text.draw(0, np.random.default_rng(0))
    assert drawn["input_ids"].tolist() == [end, *one, end, *two]
    assert drawn["labels"].tolist() == [*one, end, *two, end]
    assert drawn["documents"].tolist() == [0] * (len(one) + 1) + [1] * (len(two) + 1)


def test_a_row_has_no_more_positions_than_max_length(bpe, tmp_path):
    for packing in ("blocks", "documents", "none"):
        text = rows(stories(30), bpe, tmp_path, packing)
        sizes = [len(text.draw(i, np.random.default_rng(0))["input_ids"]) for i in range(len(text))]
        assert max(sizes) == 16
        if packing == "blocks":
            assert sizes[:-1] == [16] * (len(sizes) - 1)


def test_the_loss_is_transformers_own(bpe, gpt2, tmp_path):
    text = rows(stories(12), bpe, tmp_path, "none", length=24)
    drawn = [text.draw(i, np.random.default_rng(0)) for i in range(len(text))]
    objective, family = CausalLM(), registry.find("backbones", "gpt2")
    batch = objective.collate(drawn, bpe)
    ours = objective.loss(gpt2, batch, family)["loss"]
    # transformers shifts by itself: its labels are the whole segment, -100 at padding
    inputs, labels = batch["input_ids"], batch["labels"]
    whole = torch.cat([inputs[:, :1], labels], 1)
    shown = torch.cat([inputs, inputs[:, -1:]], 1)
    shown[:, 1:] = torch.where(labels >= 0, labels, shown[:, 1:])
    mask = torch.cat([batch["attention_mask"][:, :1], batch["attention_mask"]], 1)
    theirs = gpt2(input_ids=shown, attention_mask=mask, labels=whole).loss * objective.targets(batch)["loss"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_seeing_targets_only_leaves_the_models_hooks_as_they_were(gpt2):
    head, calls = gpt2.lm_head, []
    own = head.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape))
    wanted = torch.tensor([[True, False, True]])
    ids = torch.tensor([[1, 2, 3]])
    whole = gpt2(input_ids=ids).logits
    before = dict(head._forward_pre_hooks)
    with only_at(gpt2, "lm_head", wanted):
        assert torch.allclose(gpt2(input_ids=ids).logits, whole[wanted], atol=1e-6)
    assert dict(head._forward_pre_hooks) == before
    with pytest.raises(IndexError), only_at(gpt2, "lm_head", torch.ones(1, 9, dtype=torch.bool)):
        gpt2(input_ids=ids)
    assert dict(head._forward_pre_hooks) == before
    assert gpt2(input_ids=ids).logits.shape == whole.shape
    own.remove()
    assert calls


def test_a_part_is_found_under_wrappers(gpt2):
    assert part(torch.nn.Sequential(torch.nn.ModuleDict({"inner": gpt2})), "lm_head") is gpt2.lm_head
    assert part(gpt2, "lm_head") is gpt2.lm_head


# ---- negative sampling --------------------------------------------------------------------------------------------


def test_log_uniform_negatives_follow_zipfs_law():
    drawn = log_uniform(200_000, 50, np.random.default_rng(0))
    assert drawn.min() == 0 and drawn.max() == 49
    expected = (np.log(np.arange(50) + 2) - np.log(np.arange(50) + 1)) / np.log(51)
    np.testing.assert_allclose(np.bincount(drawn, minlength=50) / 200_000, expected, atol=0.003)


def test_a_sampled_softmax_is_what_it_is_by_hand():
    head = torch.nn.Linear(2, 4, bias=False)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    hidden = torch.tensor([[1.0, 2.0]])
    loss = sampled_softmax(hidden, head, torch.tensor([1]), torch.tensor([[0, 1, 3]]), [1])
    q = [math.log((k + 2) / (k + 1)) / math.log(5) for k in range(4)]
    logits = {0: 1.0, 1: 2.0, 3: 2.0}
    parts = {k: math.exp(value) / (3 * q[k]) for k, value in logits.items()}  # the sampled 1 is the target
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + parts[0] + parts[3])))


def test_what_sampled_tokens_stand_for_is_on_average_the_sum_over_all_others():
    """e^loss - 1 is their sum over the target's own e^logit, however few are sampled."""
    torch.manual_seed(0)
    head, hidden, label = torch.nn.Linear(4, 12), torch.randn(1, 4), 3
    negatives = torch.from_numpy(log_uniform(12_000, 12, np.random.default_rng(0))).reshape(-1, 1, 12)
    with torch.no_grad():
        weights = head(hidden)[0].exp()
        sums = [sampled_softmax(hidden, head, torch.tensor([label]), some, [1]).exp() - 1
                for some in negatives]
    expected = (weights.sum() - weights[label]) / weights[label]
    assert torch.stack(sums).mean().item() == pytest.approx(expected.item(), rel=0.05)


def test_a_sampled_softmax_comes_near_the_full_one():
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(8, 40, bias=True), torch.randn(30, 8, requires_grad=True)
    labels = torch.randint(0, 40, (30,))
    full = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="sum")
    (wanted,) = torch.autograd.grad(full, hidden)
    errors = []
    for count in (20, 20_000):
        negatives = torch.from_numpy(log_uniform(count, 40, np.random.default_rng(1)))[None]
        loss = sampled_softmax(hidden, head, labels, negatives, [30])
        (found,) = torch.autograd.grad(loss, hidden)
        errors.append((found - wanted).norm() / wanted.norm())
    assert loss.item() == pytest.approx(full.item(), rel=0.02)
    assert errors[1] < 0.05 < errors[0]


def test_negatives_make_no_logits_and_are_judged_by_all_words(text, tmp_path):
    from conftest import tiny

    from llmkit import recipe
    from llmkit.training.fit import fit

    tree = tiny("gpt2", text, tmp_path / "run", max_steps=12)
    tree["objective"] = {"name": "causal_lm", "negatives": 30}
    tree["data"]["validation"] = 0.2
    summary = fit(recipe.load(tree))
    assert summary["evaluation_before"]["loss"] == pytest.approx(math.log(300), abs=0.1)
    assert summary["evaluation"]["loss"] < summary["evaluation_before"]["loss"] - 0.1


# ---- fill in the middle -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marked():
    tokenizer = tokenizers.train(stories(80), "bpe", 297)
    tokenizer.add_special_tokens(CausalLM(fill_in_the_middle=0.5).missing(tokenizer))
    return tokenizer


@pytest.mark.parametrize(("rate", "order"), [(0.0, "<P> a b <S> e f <M> c d"), (1.0, "<P> <S> e f <M> a b c d")])
def test_the_middle_goes_to_the_end(rate, order, marked):
    class Two:
        """Cuts after the second and the fourth token."""

        def random(self):
            return 0.5

        def integers(self, low, high, count):
            assert (low, high, count) == (1, 8, 2)
            return np.array([5, 3])

    objective = CausalLM(fill_in_the_middle=1.0, spm_rate=rate)
    end = marked.eos_token_id
    words = {letter: 10 + i for i, letter in enumerate("abcdef")}
    marks = dict(zip(("<P>", "<M>", "<S>"), marked.convert_tokens_to_ids(list(PARTS)), strict=True))
    segment = np.array([end, *words.values(), end], dtype=np.uint16)
    drawn = objective.draw(segment, Two(), marked)
    expected = [end, *({**words, **marks}[word] for word in order.split()), end]
    assert drawn["input_ids"].tolist() == expected[:-1]
    assert drawn["labels"].tolist() == expected[1:]


@given(st.integers(2, 40), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_a_rearranged_text_can_be_put_together_again(length, seed):
    marked = tokenizers.train(stories(80), "bpe", 297)
    marked.add_special_tokens(CausalLM(fill_in_the_middle=0.5).missing(marked))
    ids = np.random.default_rng(seed).integers(5, 290, length)
    objective = CausalLM(fill_in_the_middle=1.0)
    found = objective.rearranged(ids, np.random.default_rng(seed), marked).tolist()
    front, mid, back = marked.convert_tokens_to_ids(list(PARTS))
    assert len(found) == length + 3
    body = found[found.index(front) + 1:]
    if body[0] == back:
        suffix, rest = body[1:body.index(mid)], body[body.index(mid) + 1:]
        assert rest + suffix == ids.tolist()
    else:
        before, suffix = body[:body.index(back)], body[body.index(back) + 1:body.index(mid)]
        assert before + body[body.index(mid) + 1:] + suffix == ids.tolist()


def test_marks_are_part_of_the_vocabulary_and_rows_have_room_for_them(text, tmp_path):
    from conftest import tiny

    from llmkit import recipe
    from llmkit.planning import inspect as inspection

    tree = tiny("gpt2", text, tmp_path / "run")
    tree["objective"] = {"name": "causal_lm", "fill_in_the_middle": 1.0}
    found = inspection.inspect(recipe.load(tree), range(20))
    assert found["tokenizer"] <= 300
    assert max(len(row["fields"]["input_ids"]) for row in found["drawn"]) <= 32
