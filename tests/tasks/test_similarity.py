"""Similarity: pairs become two embeddings, compared over a whole step; figures are correlations or who finds whom."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories, tiny

import llmkit
from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.inference import predict as prediction
from llmkit.objectives.base import Setup
from llmkit.objectives.shared.embedding import found
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.base import hold_out
from llmkit.tasks.similarity import Similarity, apart, ranked, twin
from llmkit.training.fit import fit

BERT = registry.find("backbones", "bert")


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 200)


@pytest.fixture
def prepared(tmp_path, wordpiece):
    """Rows to a set, by a file."""

    def make(rows, task=None, length=32, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reader = open_source(Source(str(path), fields=fields))
        return (task or Similarity()).prepare([reader], None, Setup(wordpiece, BERT, length, "none", 0))

    return make


PAIRS = [{"sentence1": "the cat saw", "sentence2": "a dog", "score": 1},
         {"sentence1": "a hat", "sentence2": "the moon saw a hat", "score": "4.5"}]


def test_both_texts_of_a_pair_stand_below_each_other(prepared, wordpiece):
    sets = prepared(PAIRS)
    batch = Similarity().collate(sets.train[0].features, wordpiece)
    assert [wordpiece.decode([i for i in ids if i]) for ids in batch["input_ids"].tolist()] == [
        "[CLS] the cat saw [SEP]", "[CLS] a dog [SEP]", "[CLS] a hat [SEP]", "[CLS] the moon saw a hat [SEP]"]
    assert batch["score"].tolist() == [1, 4.5]
    assert batch["twin"].tolist() == [twin("a dog"), twin("the moon saw a hat")]
    assert batch["attention_mask"].sum(1).tolist() == [len(wordpiece(text)["input_ids"]) for row in PAIRS
                                                       for text in (row["sentence1"], row["sentence2"])]
    assert Similarity().targets(batch)["loss"] == 2
    assert "loss_type cosent: pairs have scores" in sets.notes


def test_pairs_without_scores_are_told_from_each_other(prepared):
    rows = [{"anchor": row["sentence1"], "positive": row["sentence2"]} for row in PAIRS]
    assert "loss_type negatives: pairs have no scores" in prepared(rows).notes


def test_each_text_is_cut_by_itself(prepared, wordpiece):
    row = {"sentence1": "the cat saw the moon the cat saw", "sentence2": "a dog"}
    sets = prepared([row, row], length=6)
    assert sets.train[0].features[0]["sizes"].tolist() == [6, len(wordpiece("a dog")["input_ids"])]


@pytest.mark.parametrize(("row", "task", "message"), [
    ({"score": "high"}, None, r"rows\.jsonl:2: the score 'high' is no number"),
    ({"score": float("nan")}, None, "the score nan is no number"),
    ({"sentence2": " "}, None, "the field 'sentence2' is empty"),
    ({"sentence2": 5}, None, "the field 'sentence2' is no text: 5"),
    ({}, Similarity(loss_type="cosine"), r"rows\.jsonl:2: the score 4.5 is not from 0 to 1; task.score_range says"),
])
def test_what_is_no_pair_is_told_with_its_line(prepared, row, task, message):
    with pytest.raises(DataError, match=message):
        prepared([PAIRS[0], {**PAIRS[1], **row}], task)


def test_a_missing_score_is_told_where_it_is_learned(prepared):
    with pytest.raises(DataError, match="no column is called 'score', which loss_type: cosent learns"):
        prepared([{"sentence1": "a", "sentence2": "b"}], Similarity(loss_type="cosent"))


def test_scores_are_scaled_for_cosines_only(prepared):
    sets = prepared(PAIRS, Similarity(loss_type="cosine", score_range=(0, 5)))
    assert [float(row["score"][0]) for row in sets.train[0].features] == [pytest.approx(0.2), pytest.approx(0.9)]
    for options in ({"score_range": (0, 5)}, {"score_range": (5, 0), "loss_type": "cosine"}):
        with pytest.raises(ValueError, match="score_range is"):
            Similarity(**options)


# ---- losses -----------------------------------------------------------------------------------------------------


def test_a_ranking_counts_every_pair_in_the_wrong_order():
    scaled, scores = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([3.0, 1.0, 1.0])
    # the first should be above the second and the third; these two are equal, and say nothing
    expected = math.log(1 + math.exp(0.9 - 0.2) + math.exp(0.5 - 0.2))
    assert float(ranked(scaled, scores)) == pytest.approx(expected)
    assert float(ranked(scaled, torch.ones(3))) == 0


def test_many_pairs_are_ranked_as_all_pairs_of_them_one_by_one():
    torch.manual_seed(0)
    scores, scaled = torch.randint(6, (60,)).double() / 5, torch.randn(60, dtype=torch.float64, requires_grad=True)
    wrong = [scaled[j] - scaled[i] for i in range(60) for j in range(60) if scores[i] > scores[j]]
    expected = torch.stack([torch.zeros((), dtype=torch.float64), *wrong]).logsumexp(0)
    ours = ranked(scaled, scores)
    assert float(ours) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, scaled)[0] for loss in (ours, expected)))
    many = torch.arange(200_000.0)
    assert torch.isfinite(ranked(many / 1e4, many))  # 160 GB by pairs


def test_negatives_are_all_other_rows_but_those_of_the_same_text():
    scaled = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, 1.0]])
    alone = float(apart(scaled, torch.tensor([1, 2, 3])))
    assert alone == pytest.approx(float(torch.nn.functional.cross_entropy(scaled, torch.arange(3), reduction="sum")))
    shared = float(apart(scaled, torch.tensor([1, 2, 1])))  # the first and the third have one text
    by_hand = math.log(1 + math.exp(1 - 2)) + alone_row(scaled[1], 1) + math.log(1 + math.exp(0 - 1))
    assert shared == pytest.approx(by_hand)
    with pytest.raises(RequestError, match="take 2 or more"):
        apart(torch.ones(1, 1), torch.ones(1))


def alone_row(row, own):
    return float(row.logsumexp(0) - row[own])


def embedded(pairs, scores=None):
    """Representations as `represent` makes them."""
    known = torch.tensor([[-1e6 if scores is None else scores[i], i] for i in range(len(pairs))])
    return torch.cat([torch.tensor(pairs), known[:, :, None]], 2)


def test_losses_of_embeddings_by_hand():
    pairs = [[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]  # cosines 1 and 0.7071
    cosine = Similarity(loss_type="cosine").compare(embedded(pairs, [1.0, 0.5]))
    assert float(cosine["loss"]) == pytest.approx((math.sqrt(0.5) - 0.5) ** 2)
    cosent = Similarity(temperature=0.5).compare(embedded(pairs, [1.0, 3.0]))
    assert float(cosent["loss"]) == pytest.approx(2 * math.log(1 + math.exp((1 - math.sqrt(0.5)) / 0.5)))
    table = torch.tensor([[1.0, math.sqrt(0.5)], [0.0, math.sqrt(0.5)]]) / 0.5
    expected = alone_row(table[0], 0) + alone_row(table[1], 1)
    for kind, scores in (("auto", None), ("negatives", [1.0, 2.0])):
        task = Similarity(loss_type=kind, temperature=0.5)
        assert float(task.compare(embedded(pairs, scores))["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_prediction_is_the_cosine_of_transformers_hidden_states(prepared, wordpiece, pooling):
    from transformers import AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(BERT.config("tiny", SMALL["bert"] | STILL["bert"], wordpiece)).eval()
    task = Similarity(pooling=pooling)
    batch = task.collate(prepared(PAIRS).train[0].features, wordpiece)
    with torch.no_grad():
        said = task.predict(model, batch, BERT)
        for row, cosine in zip(PAIRS, said, strict=True):
            hidden = [model(**wordpiece(row[name], return_tensors="pt")).last_hidden_state[0]
                      for name in ("sentence1", "sentence2")]
            first, second = (one.mean(0) if pooling == "mean" else one[0] for one in hidden)
            assert cosine == pytest.approx(float(torch.cosine_similarity(first, second, 0)), abs=1e-5)
    assert task.combine([said[0]], {}, None) == {"score": said[0]}


# ---- figures ----------------------------------------------------------------------------------------------------


def judged(pairs):
    return [([i], [np.array(pair, dtype=np.float32)]) for i, pair in enumerate(pairs)]


def test_figures_are_correlations_with_scores_and_who_finds_whom_without():
    from llmkit.tasks.base import Encoded

    pairs = [[[1.0, 0.0], [1.0, 0.1]], [[0.0, 1.0], [0.5, 1.0]], [[1.0, 1.0], [-1.0, 0.5]]]
    features = [{"input_ids": np.zeros(2)}] * 3
    scored = Encoded(features, [{"score": score} for score in (5.0, 3.0, 1.0)])
    figures = Similarity().figures({}, judged(pairs), [scored], None)
    assert figures["spearman"] == pytest.approx(1)
    cosines = [1 / math.sqrt(1.01), 1 / math.sqrt(1.25), -0.5 / math.sqrt(2.5)]
    assert figures["pearson"] == pytest.approx(np.corrcoef(cosines, [5, 3, 1])[0, 1])
    found = Similarity().figures({}, judged(pairs), [Encoded(features, [{}] * 3)], None)
    assert found["accuracy"] == pytest.approx(2 / 3)  # the third is nearest to the second's


def test_floors_are_cosines_of_words():
    rows = [{"sentence1": "red hat", "sentence2": "a red hat"}, {"sentence1": "blue moon", "sentence2": "the moon"},
            {"sentence1": "green", "sentence2": "grass"}]
    assert Similarity().floors([], rows) == {"TF-IDF, cosine": {"accuracy": pytest.approx(2 / 3)}}
    scored = [{**row, "score": score} for row, score in zip(rows, [5.0, 3.0, 0.0], strict=True)]
    assert Similarity().floors(rows, scored)["TF-IDF, cosine"]["spearman"] == pytest.approx(1)


def test_a_run_leaves_an_embedding_model_that_says_how_it_pools(pairs: Path, tmp_path: Path) -> None:
    tree = tiny("bert", pairs, tmp_path / "run")
    del tree["objective"]
    tree["data"]["validation"] = 0.2
    fit(recipe.load({**tree, "task": {"name": "similarity", "pooling": "cls"}}))
    assert json.loads((tmp_path / "run" / "model" / "1_Pooling" / "config.json").read_text())["pooling_mode_cls_token"]
    said = list(prediction.predict(tmp_path / "run", pairs))
    measured = llmkit.evaluate(tmp_path / "run", pairs)
    scores = [json.loads(line)["score"] for line in pairs.read_text().splitlines()]
    assert measured["metrics"]["pearson"] == pytest.approx(
        np.corrcoef([one["score"] for one in said], scores)[0, 1], abs=1e-4)
    assert set(measured["floors"]) == {"TF-IDF, cosine"}


# ---- negatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [
    {"anchor": "the cat", "positive": "a cat", "negative": "a dog"},
    {"anchor": "the cat", "positive": "a cat", "negative_1": "a dog", "negative_2": ""},
    {"query": "the cat", "pos": ["a cat"], "neg": ["a dog"]},
    {"query": "the cat", "positive": "a cat", "hard_negatives": ["a dog"]},
])
def test_negatives_are_read_under_every_name(prepared, row):
    sets = prepared([row, row])
    assert sets.train[0].rows[0] == {"sentence1": "the cat", "sentence2": "a cat", "negatives": ["a dog"]}
    assert "2 negatives stand beside 2 pairs, 1 beside one at most" in sets.notes


def test_each_text_of_a_list_makes_a_pair(prepared):
    sets = prepared([{"query": "the cat", "pos": ["a cat", "cats"], "neg": []}])
    assert [row["sentence2"] for row in sets.train[0].rows] == ["a cat", "cats"]


def test_negatives_stand_below_the_pair_and_missing_ones_are_marked(prepared, wordpiece):
    rows = [{"anchor": "a hat", "positive": "the hat", "negative_1": "a dog", "negative_2": "the moon"},
            {"anchor": "the cat", "positive": "a cat", "negative_1": "a dog", "negative_2": None}]
    batch = Similarity().collate(prepared(rows).train[0].features, wordpiece)
    assert [wordpiece.decode([i for i in ids if i > 3]) for ids in batch["input_ids"].tolist()] == [
        "a hat", "the hat", "a dog", "the moon", "the cat", "a cat", "a dog", "a cat"]
    assert batch["negatives"].tolist() == [[twin("a dog"), twin("the moon")], [twin("a dog"), -1]]
    assert batch["twin"].tolist() == [twin("the hat"), twin("a cat")]
    assert Similarity().targets(batch)["loss"] == 2


def test_the_loss_with_negatives_by_hand():
    cosines = torch.tensor([[0.9, 0.1, 0.2, 0.3, 0.4, 0.5], [0.0, 0.8, 0.6, 0.7, 0.2, 0.1]])
    # the second row has one negative, which is the first row's second text: no negative for the first
    twins = torch.tensor([1, 2, 3, 1, 4, -1])
    first = -0.9 + math.log(sum(math.exp(one) for one in (0.9, 0.1, 0.2, 0.4)))
    second = -0.8 + math.log(sum(math.exp(one) for one in (0.0, 0.8, 0.6, 0.7, 0.2)))
    assert apart(cosines, twins).item() == pytest.approx(first + second, rel=1e-6)


def test_what_is_a_duplicate_is_a_score(prepared):
    rows = [{"question1": "the cat", "question2": "a cat", "is_duplicate": number} for number in (1, 0)]
    sets = prepared(rows)
    assert [row["score"] for row in sets.train[0].rows] == [1, 0]
    assert "loss_type cosent: pairs have scores" in sets.notes
    scored = prepared([{**row, "negative": "a dog"} for row in rows])
    assert "negatives" not in scored.train[0].rows[0]


def test_a_run_learns_from_negatives_in_any_micro_batches(text, tmp_path):
    path = tmp_path / "rows.jsonl"
    some = stories(17, 5)
    path.write_text("".join(json.dumps({"anchor": some[i], "positive": some[i].upper(), "negative": some[i + 1]}) + "\n"
                            for i in range(16)))
    losses = []
    for micro in (8, 2):
        made = tiny("bert", path, tmp_path / f"run-{micro}", still=True, micro_batch_size=micro)
        del made["objective"]
        summary = fit(recipe.load({**made, "task": "similarity", "data": {
            "train": str(path), "validation": [str(path)], "max_length": 32}}))
        losses.append((summary["train_loss"], summary["evaluation"]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# ---- several texts that belong to one ---------------------------------------------------------------------------


SEVERAL = [{"query": "the cat", "pos": ["a cat", "cats", "my cat"], "neg": ["a dog", "the moon"]},
           {"query": "the hat", "pos": ["a hat"], "neg": ["a ball"]}]


def test_what_belongs_to_one_text_is_no_negative_of_its_kind(prepared, wordpiece):
    sets = prepared(SEVERAL)
    batch = Similarity().collate(sets.train[0].features, wordpiece)
    assert batch["twin"].tolist() == [twin("a cat")] * 3 + [twin("a hat")]
    assert batch["negatives"][0].tolist() == [twin("a dog"), twin("the moon")]
    assert batch["negatives"][3].tolist() == [twin("a ball"), -1]


def test_how_many_texts_belong_to_one_is_said(write):
    reader = write(SEVERAL)
    assert [row["sentence2"] for row, _ in Similarity().read(reader)] == ["a cat", "cats", "my cat", "a hat"]
    assert reader.notes[-1].endswith("rows.jsonl: 1 rows have several texts that belong to their first one; they are 3 "
                                     "pairs, and none is a negative of another of its row")


def test_one_text_in_a_list_is_a_pair_like_any_other(prepared):
    sets = prepared([{"query": "the cat", "pos": ["a cat"], "neg": ["a dog"]}] * 2)
    assert sets.train[0].rows[0] == {"sentence1": "the cat", "sentence2": "a cat", "negatives": ["a dog"]}


def test_pairs_of_one_row_are_held_out_together(write):
    rows = [{"query": f"query {i}", "pos": [f"one {i}", f"two {i}", f"three {i}"]} for i in range(60)]
    read = Similarity().read(write(rows))
    learned, held = hold_out(read, 0.3, 0, Similarity().together)
    assert held and not {row["sentence1"] for row, _ in learned} & {row["sentence1"] for row, _ in held}
    assert len(learned) + len(held) == 180


def test_others_of_a_kind_are_not_found_in_the_place_of_the_right_one():
    first = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double(), dim=-1)
    second = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [1.0, 0.1], [0.0, 1.0]]).double(), dim=-1)
    assert found(first, second, 1.0)["accuracy"] == pytest.approx(2 / 3)  # the second is closer to both
    figures = found(first, second, 1.0, ["a cat", "a cat", None])
    assert figures["accuracy"] == 1.0
    cosines = (first @ second.T).tolist()
    by_hand = [math.log(math.exp(cosines[i][i]) + math.exp(cosines[i][2])) - cosines[i][i] for i in (0, 1)]
    by_hand.append(math.log(sum(math.exp(one) for one in cosines[2])) - cosines[2][2])
    assert figures["loss"] == pytest.approx(sum(by_hand) / 3)


def test_negatives_that_the_first_row_lacks_are_learned_from_all_the_same(prepared):
    rows = [{"query": "the hat", "pos": ["a hat"]}, {"query": "the cat", "pos": ["a cat"], "neg": ["a dog"]},
            {"query": "the moon", "pos": ["moons"], "neg": ["a ball"], "hard_negative_1": "stones"}]
    kept = [row.get("negatives") for row in prepared(rows).train[0].rows]
    assert kept == [None, ["a dog"], ["a ball", "stones"]]
    assert "3 negatives stand beside 3 pairs, 2 beside one at most" in prepared(rows).notes


def test_scores_of_a_test_set_are_none(prepared):
    with pytest.raises(DataError, match=r"rows\.jsonl: this split has no labels: in all 2 rows -1 stands where"):
        prepared([{**row, "score": -1.0} for row in PAIRS])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_vectors_that_are_not_finite_have_no_loss(value, monkeypatch):
    """Though it is made of all pairs, later: what isn't finite must end the evaluation."""
    pairs = torch.ones(2, 2, 3)
    monkeypatch.setattr(Similarity, "pairs", lambda self, model, batch, family: pairs)
    assert Similarity().judge(None, {}, None)[0]["loss"] == 0
    pairs[1, 0, 2] = value
    assert Similarity().judge(None, {}, None)[0]["loss"].isnan()
