"""Contrastive learning: two views of each text, the paper's loss by hand, and how an embedding is measured."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import SMALL, stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.base import join
from llmkit.objectives.contrastive import Contrastive, halved
from llmkit.recipe import registry
from llmkit.system.errors import DataError, RequestError

calm = settings(deadline=None, max_examples=40)  # a busy machine is no defect
BERT = registry.find("backbones", "bert")
CLS, SEP, PAD = 2, 3, 0


class Words:
    """A tokenizer of which only ids are needed."""

    cls_token_id, sep_token_id, pad_token_id = CLS, SEP, PAD


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 120)


@pytest.fixture(scope="module")
def bert(wordpiece):
    """With dropout: it is what makes views."""
    from transformers import AutoModel

    torch.manual_seed(0)
    return AutoModel.from_config(BERT.config("tiny", SMALL["bert"], wordpiece))


def batch_of(*texts):
    rows = [join([Contrastive().draw(np.array(ids, np.uint16), np.random.default_rng(0), Words())]) for ids in texts]
    return Contrastive().collate(rows, Words())


# ---- literal ----------------------------------------------------------------------------------------------------


def test_a_row_is_the_text_as_it_is():
    batch = batch_of([11, 12, 13], [14])
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[CLS, 11, 12, 13, SEP], [CLS, 14, SEP, PAD, PAD]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
    }
    assert Contrastive().targets(batch)["loss"] == 2


def test_a_text_is_halved_for_an_evaluation():
    first, second = halved(batch_of([11, 12, 13], [14, 15], [16, 17, 18, 19]))
    assert first["input_ids"].tolist() == [[CLS, 11, SEP, 0], [CLS, 14, SEP, 0], [CLS, 16, 17, SEP]]
    assert second["input_ids"].tolist() == [[CLS, 12, 13, SEP], [CLS, 15, SEP, 0], [CLS, 18, 19, SEP]]
    assert first["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert second["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]


# ---- views ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_has_no_part_in_an_embedding(bert, pooling):
    texts = ([11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32])
    objective = Contrastive(pooling=pooling)
    with torch.no_grad():
        bert.eval()
        together = objective.embed(bert, batch_of(*texts), BERT)
        for text, found in zip(texts, together, strict=True):
            ids = torch.tensor([[CLS, *text, SEP]])
            hidden = bert(ids).last_hidden_state[0]
            expected = hidden[0] if pooling == "cls" else hidden.mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_dropout_makes_two_views_of_each_text_and_without_it_they_are_one(bert):
    batch = batch_of([11, 12, 13, 14], [20, 21, 22])
    torch.manual_seed(1)
    views = Contrastive().represent(bert.train(), batch, BERT)
    assert views.shape == (2, 2, 32)
    assert (views[:, 0] - views[:, 1]).abs().amax(-1).min() > 0.01
    torch.manual_seed(1)
    assert torch.equal(Contrastive().represent(bert, batch, BERT), views)
    still = Contrastive().represent(bert.eval(), batch, BERT)
    assert torch.equal(still[:, 0], still[:, 1])


def test_a_model_without_dropout_is_told_of(wordpiece, caplog):
    from transformers import AutoModel

    def said(**rates):
        caplog.clear()
        model = AutoModel.from_config(BERT.config("tiny", SMALL["bert"] | rates, wordpiece))
        Contrastive().assemble(model, BERT, wordpiece, None)
        return caplog.text

    assert said(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.1) == ""
    told = said(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    assert "both views of a text are the same" in told
    assert "set backbone.config: {hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1}" in told


# ---- the loss by hand -------------------------------------------------------------------------------------------


def simcse(views, temperature):
    """Equation 4 of Gao et al. 2021 in plain Python: -log of e^(sim(h_i, h_i') / t) over its sum over all j."""

    def sim(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for i, (anchor, _) in enumerate(views):
        weights = [math.exp(sim(anchor, other) / temperature) for _, other in views]
        total -= math.log(weights[i] / sum(weights))
    return total


@calm
@given(st.integers(2, 7), st.sampled_from([0.05, 0.1, 1.0]), st.integers(0, 1000))
def test_the_loss_is_simcses(count, temperature, seed):
    views = torch.randn(count, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = Contrastive(temperature=temperature).compare(views)["loss"].item()
    assert found == pytest.approx(simcse(views.tolist(), temperature), rel=1e-4, abs=1e-4)


def test_two_texts_by_hand():
    views = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 3.0], [1.0, 1.0]]])
    # cosines: 1 and 0.71 from the first text, 0 and 0.71 from the second
    one = math.log(1 + math.exp((0.5**0.5 - 1) / 0.5))
    two = math.log(1 + math.exp((0 - 0.5**0.5) / 0.5))
    assert Contrastive(temperature=0.5).compare(views)["loss"].item() == pytest.approx(one + two, rel=1e-5)


def test_the_order_of_rows_changes_nothing():
    views = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0))
    shuffled = views[torch.tensor([3, 1, 5, 0, 2, 4])]
    one, two = (Contrastive().compare(each)["loss"].item() for each in (views, shuffled))
    assert one == pytest.approx(two, rel=1e-6)


# ---- figures ----------------------------------------------------------------------------------------------------


def test_alignment_uniformity_accuracy_and_loss_by_hand():
    """Wang & Isola 2020: mean of |f(x) - f(y)|^2; log of the mean of e^(-2 |f(x) - f(x')|^2) over pairs of texts."""
    pairs = [([1.0, 0.0], [2.0, 0.0]), ([0.0, 1.0], [1.0, 1.0]), ([-3.0, 0.0], [0.0, 1.0])]
    figures = Contrastive(temperature=1.0).metrics({"loss": 0.0}, pairs)
    views = [list(pair) for pair in pairs]
    assert figures["loss"] == pytest.approx(simcse(views, 1.0) / 3)
    assert figures["alignment"] == pytest.approx((0 + (2 - 2**0.5) + 2) / 3)
    apart = [math.exp(-2 * 2), math.exp(-2 * 4), math.exp(-2 * 2)]
    assert figures["uniformity"] == pytest.approx(math.log(sum(apart) / 3))
    assert figures["accuracy"] == pytest.approx(2 / 3)  # what is nearest to the second text is the third's half
    assert set(figures) == {"loss", "accuracy", "alignment", "uniformity"}


def test_texts_that_are_all_the_same_are_neither_found_nor_spread():
    figures = Contrastive().metrics({"loss": 0.0}, [([1.0, 2.0], [1.0, 2.0])] * 10)
    assert figures["loss"] == pytest.approx(math.log(10))
    assert figures["alignment"] == pytest.approx(0, abs=1e-9)
    assert figures["uniformity"] == pytest.approx(0, abs=1e-9)


def test_figures_are_the_same_however_rows_were_shared_and_taken_in_parts():
    rng = np.random.default_rng(0)
    pairs = list(zip(rng.normal(size=(1500, 4)).tolist(), rng.normal(size=(1500, 4)).tolist(), strict=True))
    figures = Contrastive().metrics({"loss": 0.0}, pairs)  # 1024 rows at once
    assert figures == Contrastive().metrics({"loss": 0.0}, pairs[::2] + pairs[1::2])
    a, b = (torch.nn.functional.normalize(torch.tensor(half, dtype=torch.float64), dim=-1)
            for half in zip(*pairs, strict=True))
    assert figures["accuracy"] == pytest.approx(((a @ b.T).argmax(1) == torch.arange(1500)).double().mean().item())
    assert figures["uniformity"] == pytest.approx(torch.pdist(a).square().mul(-2).exp().mean().log().item())


def test_an_evaluation_is_without_chance(bert):
    batch = batch_of([11, 12, 13, 14], [20, 21, 22])
    with torch.no_grad():
        one, two = (Contrastive().judge(bert.eval(), batch, BERT)[1] for _ in range(2))
    assert one == two
    assert len(one) == 2


def test_vectors_that_are_not_finite_have_no_loss(bert):
    """Though it is made of all rows, later: what isn't finite must end the evaluation."""
    batch = batch_of([11, 12, 13, 14], [20, 21, 22])
    with torch.no_grad():
        assert Contrastive().judge(bert.eval(), batch, BERT)[0]["loss"] == 0
        bert.embeddings.word_embeddings.weight[21] = math.nan
        assert Contrastive().judge(bert.eval(), batch, BERT)[0]["loss"].isnan()


# ---- what it leaves, and what it can't do -----------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_model_says_how_it_is_pooled(tmp_path, pooling):
    (tmp_path / "config.json").write_text('{"hidden_size": 32}')
    Contrastive(pooling=pooling).describe(tmp_path, None)
    assert json.loads((tmp_path / "1_Pooling" / "config.json").read_text()) == {
        "word_embedding_dimension": 32, "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean"}
    assert [part["path"] for part in json.loads((tmp_path / "modules.json").read_text())] == ["", "1_Pooling"]


def test_what_it_cannot_do_is_refused(wordpiece):
    with pytest.raises(RequestError, match="contrastive compares the rows of a step; take 2 or more"):
        Contrastive().compare(torch.ones(1, 2, 4))
    with pytest.raises(DataError, match="there is only one"):
        Contrastive().metrics({"loss": 0.0}, [([1.0], [1.0])])
    with pytest.raises(RequestError, match="3 leaves no room for a text"):
        Contrastive().layout(wordpiece, 3, "none")
    assert Contrastive().layout(wordpiece, 4, "none").length == 2
    with pytest.raises(ValueError, match="temperature"):
        Contrastive(temperature=0)
