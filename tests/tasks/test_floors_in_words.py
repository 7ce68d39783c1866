"""Floors in words, figures that don't reach them, and answers that are all the same."""

import re

import pytest

from llmkit.system.language import is_prose, translate
from llmkit.tasks.shared import floors


@pytest.mark.parametrize(("what", "learned", "words"), [
    ("majority class", True, "majority class: the most frequent label of training"),
    ("majority class", False, "majority class: the most frequent label of these rows"),
    ("mean", False, "mean: the mean of the rows"), ("somebody's own", True, "somebody's own")])
def test_a_floor_says_what_it_is(what: str, learned: bool, words: str) -> None:
    assert floors.in_words(what, learned) == words


def test_a_figure_is_held_against_its_hardest_floor() -> None:
    known = {"majority class": {"accuracy": 0.6, "f1": 0.3}, "TF-IDF, logistic regression": {"accuracy": 0.7}}
    assert floors.below({"loss": 9.0, "accuracy": 0.65, "f1": 0.4}, known) == [
        "accuracy 0.6500 is below its floor, 0.7000 (TF-IDF, logistic regression: a linear model on the words of the "
        "texts)"]
    assert floors.below({"accuracy": 0.7, "f1": None}, known) == []


def test_of_a_loss_less_is_better() -> None:
    known = {"mean": {"mse": 1.0}, "other": {"mse": 2.0}}
    assert floors.best("mse", known) == ("mean", 1.0)
    (said,) = floors.below({"mse": 1.5}, known)
    assert said == "mse 1.5000 is above its floor, 1.0000 (mean: the mean of the training rows)"
    assert floors.best("accuracy", known) is None


@pytest.mark.parametrize(("said", "words"), [
    (["a", "a"], "all 2 answers are the same: a"), (["a", "b"], ""), (["a"], ""), ([], "")])
def test_all_the_same_answer_is_said(said: list[str], words: str) -> None:
    assert floors.one_answer(said) == words


def test_word_frequencies_are_a_floor_of_losses_of_single_tokens_alone() -> None:
    alike, other = {"loss": 2.0, "perplexity": 7.389056}, {"loss": 2.0, "perplexity": 3.0}
    assert floors.known({}, 1.5, alike) == {"word frequencies alone": {"loss": 1.5}}
    assert floors.known({"a": {}}, 1.5, other) == {"a": {}}
    assert floors.known({}, None, alike) == {}
    assert floors.below(alike, floors.known({}, 1.5, alike)) == [
        "loss 2.0000 is above its floor, 1.5000 (word frequencies alone)"]


def test_a_loss_that_stays_at_chance_is_said() -> None:
    """log 2 = 0.6931; of a share of 0.1, 0.1 log 10 + 0.9 log(10/9) = 0.3251."""
    pairs = {"loss": 0.6929, "accuracy": 0.52, "f1": 0.1, "majority": 0.5}
    assert floors.below(pairs, floors.known({}, None, pairs)) == [
        "loss 0.6929 is at its floor, 0.6931 (chance: both answers are held equally likely, log 2 nats)"]
    learned = {**pairs, "loss": 0.68}
    assert floors.below(learned, floors.known({}, None, learned)) == []
    replaced = {"generator": 5.0, "discriminator": 0.3270, "accuracy": 0.9, "replaced": 0.1, "f1": 0.0}
    known = floors.known({}, None, replaced)
    assert known == {floors.REPLACED: {"discriminator": pytest.approx(0.325083), "accuracy": 0.9}}
    assert floors.below(replaced, known) == [
        "discriminator 0.3270 is above its floor, 0.3251 (the share of replaced tokens: each token is doubted as "
        "often as tokens are replaced)"]
    assert floors.below({**replaced, "discriminator": 0.2}, known) == []
    both_heads = {"loss": 5.0, "perplexity": 90.0, "majority": 0.5}
    assert floors.known({}, None, both_heads) == {}


@pytest.mark.parametrize("learned", [True, False])
def test_each_floor_is_said_in_chinese(learned: bool) -> None:
    for what in (*floors.WORDS, "word frequencies alone"):
        said = translate(floors.in_words(what, learned), "zh")
        assert re.search("[\u4e00-\u9fff]", said), said
        assert not is_prose(said)
    (below,) = floors.below({"accuracy": 0.5}, {"majority class": {"accuracy": 0.6}})
    assert translate(below, "zh") == "accuracy 0.5000 \u4f4e\u4e8e基线（floor）0.6000（多数类: 训练集中最常见的标签）"
    assert translate(floors.one_answer(["no", "no"]), "zh") == "全部 2 个回答都相同：no"
