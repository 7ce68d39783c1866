"""Soft prompts that are kept near words: in each step, by a penalty, or only looked at."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import tiny
from test_prompt import IDS, Words, batch, by_hand, difference, learned, logits, made, model, targets, train

from llmkit.cli import main
from llmkit.data import tokenizer as tokenizers
from llmkit.planning.soft_words import near_words, spelled
from llmkit.recipe import load
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit
from llmkit.tuning.p_tuning import PTuning
from llmkit.tuning.prompt import Prompt
from llmkit.tuning.prompt import load as opened
from llmkit.tuning.shared import near_words as near
from llmkit.tuning.shared.near_words import WordEmbeddings, listed, plain_tokens, projected, strayed, table_of


def table(*rows):
    embedding = torch.nn.Embedding(len(rows), len(rows[0]))
    embedding.weight = torch.nn.Parameter(torch.tensor(rows))
    return embedding


SQUARE = ((0.0, 0.0), (4.0, 0.0), (0.0, 3.0), (9.0, 9.0))
ROWS = torch.tensor([[3.0, 0.0], [0.0, 2.0]])


def test_the_nearest_words_are_listed_with_cosine_and_distance():
    first, second = listed(ROWS, WordEmbeddings(table(*SQUARE), [1, 2, 3]), 2)
    assert [number for number, *_ in first] == [1, 2]
    assert first[0] == (1, 1.0, 1.0)
    assert first[1][1:] == pytest.approx((0.0, 18**0.5))
    assert second[0] == (2, 1.0, 1.0)


def test_chunks_of_a_large_vocabulary_give_what_a_plain_search_gives(monkeypatch):
    monkeypatch.setattr(near, "AT_ONCE", 7)
    torch.manual_seed(3)
    embedding, rows = torch.nn.Embedding(100, 8), torch.randn(5, 8)
    squared = torch.cdist(rows, embedding.weight[10:], compute_mode="donot_use_mm_for_euclid_dist").square()
    found = WordEmbeddings(embedding, range(10, 100)).nearest(rows, 3)
    assert torch.equal(found.ids, squared.topk(3, largest=False).indices + 10)
    assert difference(found.squared, squared.topk(3, largest=False).values) < 1e-5


def test_a_projected_prompt_is_a_word_and_its_gradient_is_the_rows_own():
    rows = ROWS.clone().requires_grad_()
    seen = projected(rows, WordEmbeddings(table(*SQUARE), [1, 2, 3]))
    assert seen.tolist() == [[4.0, 0.0], [0.0, 3.0]]
    (seen**2).sum().backward()
    assert rows.grad.tolist() == [[8.0, 0.0], [0.0, 6.0]]  # at the word, not at the row


def test_the_penalty_is_the_mean_squared_distance_and_moves_only_the_prompt():
    rows, embedding = ROWS.clone().requires_grad_(), table(*SQUARE)
    value = strayed(rows, WordEmbeddings(embedding, [3, 1]))
    assert value.item() == (1 + 20) / 2  # the second is nearest to (4, 0), for (0, 3) is none of the words
    value.backward()
    assert rows.grad.tolist() == [[-1.0, 0.0], [-4.0, 2.0]]
    assert embedding.weight.grad is None


def test_special_tokens_and_rows_without_a_word_are_no_words():
    assert plain_tokens(Words(), 30) == list(range(5, 30))
    assert plain_tokens(None, 4) == [0, 1, 2, 3]
    trained = tokenizers.train(["the cat sat [unused1]"] * 3, "wordpiece", 60)
    assert {"[CLS]", "[MASK]"}.isdisjoint(trained.convert_ids_to_tokens(plain_tokens(trained, len(trained))))


@pytest.mark.parametrize(("family", "head"), [("bert", "MaskedLM"), ("gpt2", "CausalLM"), ("transformer", "Seq2SeqLM"),
                                              ("xlnet", "TokenClassification")])
def test_the_model_reads_words_and_these_are_saved(family, head, tmp_path):
    tuned = made(family, head, Prompt(num_virtual_tokens=3, nearest="project"))
    train(tuned, {**batch(family, head), **targets(head)}, 4, rate=0.3)
    words = table_of(tuned.soft_prompt.words.embedding, Words()).nearest(learned(tuned)).embeddings[:, 0]
    assert difference(words, learned(tuned)) > 1e-2
    Prompt().save(tuned, tmp_path)
    again = opened(model(family, head), tmp_path)
    assert torch.equal(learned(again), words)
    given = batch(family, head)
    assert torch.equal(logits(again, **given), logits(tuned, **given))
    if family != "transformer":
        ids = given.pop("input_ids")
        assert difference(logits(tuned, **batch(family, head)), by_hand(family, head, words, ids, **given)) < 1e-4


def test_a_prompt_out_of_a_network_is_projected_and_drawn_too():
    method = PTuning(num_virtual_tokens=3, nearest="project", near_words=0.5)
    tuned = made("bert", "MaskedLM", method)
    train(tuned, {"input_ids": IDS, "labels": IDS}, 5)
    rows, embedding = tuned.soft_prompt.rows().detach(), tuned.get_input_embeddings().weight.detach()
    gaps = (rows[:, None] - embedding[None, 5:]).square().sum(2)
    assert method.penalty(tuned).item() == pytest.approx(0.5 * gaps.amin(1).mean().item(), rel=1e-5)
    assert torch.equal(tuned.soft_prompt.read(), embedding[5 + gaps.argmin(1)])


def test_a_free_prompt_has_no_penalty():
    assert Prompt().penalty(made("bert", "MaskedLM")) is None


def prompted(text, folder, family="bert", **tuning):
    return load({**tiny(family, text, folder, still=True), "tuning": {
        "method": "prompt", "num_virtual_tokens": 3, **tuning}})


def test_the_penalty_draws_to_words_and_is_the_same_however_a_step_is_split(text, tmp_path):
    def strayed_by(name, near, rows):
        asked = prompted(text, tmp_path / name, near_words=near, prompt_tuning_init="random")
        fit(replace(asked, training=replace(asked.training, max_steps=2, micro_batch_size=rows, learning_rate=0.01)))
        return [word["nearest"][0]["distance"] for word in near_words(tmp_path / name)["virtual_tokens"]]

    free, whole, parts = strayed_by("free", 0.0, 8), strayed_by("whole", 1e4, 8), strayed_by("parts", 1e4, 2)
    assert whole == pytest.approx(parts, abs=1e-5)
    assert sum(whole) < sum(free) - 1e-3


def test_inspect_prints_the_words_of_a_run(text, tmp_path, capsys):
    fit(prompted(text, tmp_path / "run", nearest="project"))
    assert main(["inspect", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["position"] for one in found["virtual_tokens"]] == [0, 1, 2]
    for one in found["virtual_tokens"]:
        assert one["side"] == "before"
        assert one["nearest"][0]["distance"] == 0
        assert one["nearest"][0]["cosine"] == pytest.approx(1)
        assert len(one["nearest"]) == 3
    assert main(["inspect", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "3 virtual tokens" in said.out
    assert f"{spelled(found['virtual_tokens'][0]['nearest'][0])} (1.00, 0)" in said.out
    assert "needn't say what a prompt does" in said.err


def test_inspect_refuses_a_run_without_a_soft_prompt_and_options_of_rows(text, tmp_path, capsys):
    fit(load(tiny("bert", text, tmp_path / "run", max_steps=1)))
    with pytest.raises(RequestError, match=r"has no soft prompt .* name its recipe: .*recipe\.yaml"):
        near_words(tmp_path / "run")
    assert main(["inspect", str(tmp_path / "run"), "--set", "seed=1"]) == 2
    assert "options say which rows of a recipe are, so name one" in capsys.readouterr().err


@pytest.mark.parametrize(("token", "text", "shown"), [
    ("the", "the", "the"), ("##ing", "##ing", "##ing"), ("Ġthe", " the", "▁the"), ("▁the", "the", "▁the"),
    ("ä¸Ń", "中", "中"), ("ä¸", "�", "ä¸"), ("Ċ", "\n", "⏎")])
def test_a_token_is_shown_decoded(token, text, shown):
    assert spelled({"token": token, "text": text}) == shown
