"""A text GAN: samples and their gradient, the losses of both networks, turns, variety, collapse."""

import json
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories, tiny
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.adversarial import Adversarial, embedded, evenly, gumbel, straight_through, unroll, until
from llmkit.objectives.shared.variety import bleu, distinct, harmonic, self_bleu
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(stories(80), "bpe", 300)


def network(objective, bpe, family="gpt2"):
    """A tiny generator with its discriminator, both in training mode."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    found = registry.find("backbones", family)
    config = found.config("tiny", {**SMALL[family], **STILL[family]}, bpe)
    return objective.assemble(AutoModelForCausalLM.from_config(config), found, bpe, None).train()


def batch_of(objective, bpe, count, **more):
    """Rows of uneven length: 3, 5, 7 … tokens of inputs."""
    rows = []
    for i in range(count):
        segment = np.array([bpe.bos_token_id, *range(20 + i, 22 + 3 * i), bpe.eos_token_id])
        row = objective.draw(segment, np.random.default_rng(0), bpe)
        rows.append({**objective.finish(row, np.random.default_rng(i), bpe), "documents": np.zeros(len(segment) - 1)})
    return {**objective.collate(rows, bpe), **more}


# ---- rows ----


def test_a_batch_is_real_text_and_a_seed_a_row(bpe):
    objective = Adversarial(sample_length=4)
    end, pad = bpe.eos_token_id, bpe.pad_token_id
    batch = batch_of(objective, bpe, 2)
    seeds = [np.random.default_rng(i).integers(2**63 - 1) for i in range(2)]
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[end, 20, 21, pad, pad], [end, 21, 22, 23, 24]],
        "labels": [[20, 21, end, -100, -100], [21, 22, 23, 24, end]],
        "attention_mask": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "seed": [[seeds[0]], [seeds[1]]]}


def test_real_text_is_cut_to_the_length_of_a_sample_and_counts_up_to_its_end(bpe):
    objective = Adversarial(sample_length=4)
    model = network(objective, bpe)
    ids, known = objective.real(model, batch_of(objective, bpe, 2))
    assert ids.tolist() == [[20, 21, bpe.eos_token_id, 0], [21, 22, 23, 24]]
    assert known.tolist() == [[True, True, True, False], [True, True, True, True]]


def test_a_text_counts_up_to_its_first_end():
    assert until(torch.tensor([[5, 9, 5, 9], [9, 5, 5, 5], [5, 5, 5, 5]]), 9).long().tolist() == [
        [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


# ---- samples ----


def test_the_gradient_of_a_sample_is_that_of_the_noisy_softmax():
    """Three tokens with embeddings 1, 2 and 4, temperature 1/2; the second is drawn."""
    logits = torch.tensor([[0.0, 1.0, 0.5]], requires_grad=True)
    noise, table = torch.tensor([[0.2, 0.1, 0.3]]), torch.tensor([[1.0], [2.0], [4.0]], requires_grad=True)
    drawn, slope = straight_through(logits, noise, 0.5)
    seen = embedded(drawn, slope, table)
    assert (drawn.tolist(), seen.tolist(), slope.tolist()) == ([1], [[2.0]], [[0.0, 0.0, 0.0]])
    (3 * seen).sum().backward()
    parts = np.exp(2 * np.array([0.2, 1.1, 0.8]))
    soft = parts / parts.sum()
    values = np.array([1.0, 2.0, 4.0])
    assert logits.grad[0].tolist() == pytest.approx(3 * 2 * soft * (values - soft @ values), rel=1e-5)
    assert table.grad[:, 0].tolist() == [0.0, 3.0, 0.0]


def test_samples_are_drawn_from_the_models_own_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    noise = next(gumbel(list(range(20_000)), 4, CPU))
    drawn, _ = straight_through(logits.expand(20_000, 4), noise, 0.1)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx(logits.softmax(-1).tolist(), abs=0.01)


def test_a_rows_noise_is_its_own():
    together, alone = gumbel([3, 7], 5, CPU), gumbel([7], 5, CPU)
    for both, one in islice(zip(together, alone, strict=True), 3):
        assert torch.equal(both[1], one[0])
    assert not torch.equal(next(together)[0], next(together)[0])


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_samples_and_their_gradient_are_those_of_a_model_that_reads_all_again_for_each_token(family, bpe):
    model = network(Adversarial(), bpe, family).generator.eval()
    words = model.get_input_embeddings().num_embeddings
    noise, first = list(islice(gumbel([1, 2, 3], words, CPU), 6)), torch.tensor([[0], [20], [21]])
    weigh = torch.randn(6, words, generator=torch.Generator().manual_seed(0))

    table, text = model.get_input_embeddings().weight, one_hot(first, words).float()
    for one in noise:
        noisy = model(inputs_embeds=text @ table, use_cache=False).logits[:, -1] + one.float()
        soft, hard = (noisy / 0.7).softmax(-1), one_hot(noisy.argmax(-1), words)
        text = torch.cat([text, (hard + (soft - soft.detach()))[:, None]], 1)
    (text[:, 1:] * weigh).sum().backward()
    wanted = {name: value.grad.clone() for name, value in model.named_parameters()}

    model.zero_grad()
    ids, slopes = unroll(model, first, iter(noise), 0.7)
    assert ids.tolist() == text[:, 1:].argmax(-1).tolist()
    assert slopes.abs().max() == 0
    (slopes * weigh).sum().backward()
    for name, value in model.named_parameters():
        assert torch.allclose(value.grad, wanted[name], rtol=1e-3, atol=1e-5), name
    with torch.no_grad():
        again, none = unroll(model, first, iter(noise), 0.7)
    assert (again.tolist(), none) == (ids.tolist(), None)


# ---- losses ----


def test_both_losses_are_what_transformers_says_of_the_same_texts(bpe):
    objective = Adversarial(warmup=0, discriminator_warmup=0, sample_length=4, discriminator_config=QUIET)
    model, family = network(objective, bpe), registry.find("backbones", "gpt2")
    batch = batch_of(objective, bpe, 3)
    (ours, kept), (real, there) = objective.sample(model, batch)[:2], objective.real(model, batch)
    first = batch["input_ids"][:, :1]

    def says(ids, known):
        return model.discriminator(input_ids=torch.cat([first, ids], 1),
                                   attention_mask=torch.cat([torch.ones_like(first), known.long()], 1)).logits[:, 0]

    told = torch.cat([says(real, there), says(ours, kept)])
    known = torch.tensor([1.0] * 3 + [0.0] * 3)
    found = objective.loss(model, {**batch, "step": torch.tensor(0)}, family)
    wanted = binary_cross_entropy_with_logits(told, known, reduction="sum")
    assert found["discriminator"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert (found["likelihood"].item(), found["generator"].item()) == (0.0, 0.0)
    found = objective.loss(model, {**batch, "step": torch.tensor(1)}, family)
    wanted = binary_cross_entropy_with_logits(told[3:], torch.ones(3), reduction="sum")
    assert found["generator"].item() == pytest.approx(wanted.item(), rel=1e-5)
    losses, pairs = objective.judge(model.eval(), batch, family)
    assert losses["generator"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert [pair[1][0] for pair in pairs] == [row[some].tolist() for row, some in zip(real, there, strict=True)]
    assert [pair[0][0] for pair in pairs] == [row[some].tolist() for row, some in zip(ours, kept, strict=True)]
    assert [pair[0][1] for pair in pairs] == (told[3:] > 0).tolist()


@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_loss_of_a_batch_is_the_sum_of_its_rows(step, bpe):
    objective = Adversarial(warmup=1, discriminator_warmup=0, sample_length=4, discriminator_config=QUIET)
    model, family = network(objective, bpe), registry.find("backbones", "gpt2")
    whole = batch_of(objective, bpe, 4)
    parts = [{name: value[i : i + 1] for name, value in whole.items()} for i in range(4)]
    sums = []
    for some in ([whole], parts):
        model.zero_grad()
        losses = [objective.loss(model, {**one, "step": torch.tensor(step)}, family) for one in some]
        loss = torch.stack([sum(found.values()) for found in losses]).sum()
        loss.backward()
        turn = getattr(model, objective.turn(step))
        sums.append((loss.item(), sum(float(p.grad.norm()) for p in turn.parameters() if p.grad is not None)))
    assert sums[0][1] > 0
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_each_head_has_its_own_targets_in_its_own_step(bpe):
    objective = Adversarial(warmup=1, discriminator_warmup=0)
    batch = batch_of(objective, bpe, 2)
    counts = [{head: int(count) for head, count in objective.targets({**batch, **step}).items()}
              for step in ({"step": torch.tensor(0)}, {"step": torch.tensor(1)}, {"step": torch.tensor(2)}, {})]
    assert counts == [
        {"likelihood": 8, "generator": 0, "discriminator": 0}, {"likelihood": 0, "generator": 0, "discriminator": 4},
        {"likelihood": 0, "generator": 2, "discriminator": 0}, {"likelihood": 8, "generator": 2, "discriminator": 4}]


# ---- turns ----


def test_likelihood_then_the_discriminator_alone_then_both_by_turns():
    objective = Adversarial(warmup=2, discriminator_warmup=1, discriminator_steps=2, adversarial_rate=0.25,
                            discriminator_rate=0.5)
    assert "".join(objective.phase(step)[0] for step in range(10)) == "lldddgddgd"
    assert [objective.pace(step) for step in range(6)] == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def run(text, folder, options, **training):
    tree = tiny("gpt2", text, folder, **training)
    return recipe.load({**tree, "data": {**tree["data"], "validation": 0.3}, "objective": {
        "name": "adversarial", "sample_length": 8, "samples": 16, **options}})


def events(folder, kind):
    return [event for event in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            if event["event"] == kind]


def test_only_the_network_at_turn_moves(text, tmp_path):
    options = {"warmup": 1, "discriminator_warmup": 0, "adversarial_rate": 0.5, "discriminator_rate": 1.0}
    asked = run(text, tmp_path, options, max_steps=4, save_steps=1, save_total_limit=9, lr_scheduler_type="constant")
    fit(asked)
    saved = [load_file(tmp_path / "checkpoints" / f"step-{step:08}" / "trained.safetensors") for step in (1, 2, 3, 4)]
    moved = [{name.split(".")[1] for name in one if not torch.equal(one[name], other[name])}
             for one, other in pairwise(saved)]
    assert moved == [{"discriminator"}, {"generator"}, {"discriminator"}]
    lines = events(tmp_path, "train")
    assert [{"likelihood", "generator", "discriminator"} & set(line) for line in lines] == [
        {"likelihood"}, {"discriminator"}, {"generator"}, {"discriminator"}]
    assert [line["learning_rate"] for line in lines] == [1e-3, 1e-3, 5e-4, 1e-3]


def test_likelihood_falls_in_the_warm_up_and_both_networks_are_left(text, tmp_path):
    import llmkit

    summary = fit(run(text, tmp_path, {"warmup": 30}, max_steps=32, metric_for_best_model="perplexity",
                            learning_rate=3e-3))
    assert summary["evaluation"]["likelihood"] < summary["evaluation_before"]["likelihood"] - 1
    assert summary["weights"] == "best perplexity"
    assert summary["best"]["perplexity"] <= summary["evaluation_before"]["perplexity"] / 2
    for name in ("model", "discriminator"):
        assert (tmp_path / name / "model.safetensors").is_file()
        assert (tmp_path / name / "tokenizer.json").is_file()
    measured = llmkit.evaluate(tmp_path, text)["metrics"]
    assert measured["perplexity"] < summary["evaluation_before"]["perplexity"]
    assert llmkit.evaluate(tmp_path, text)["metrics"] == measured


def test_a_generator_that_collapses_ends_the_run_and_the_best_one_is_kept(text, tmp_path):
    asked = run(text, tmp_path, {"warmup": 20, "discriminator_warmup": 2, "adversarial_rate": 1000.0}, max_steps=60,
                eval_steps=2, save_steps=2, save_total_limit=60, learning_rate=3e-3, lr_scheduler_type="constant")
    summary = fit(asked)
    assert summary["steps"] < 60
    assert "the generator collapsed: distinct_2 of its samples is" in summary["why"]
    assert summary["status"] == "completed"
    assert summary["weights"] == "best bleu_ha"
    best = summary["best"]["step"]
    assert best < summary["steps"]
    assert summary["best"]["bleu_ha"] == max(event["bleu_ha"] for event in events(tmp_path, "evaluate"))
    saved = load_file(tmp_path / "checkpoints" / f"step-{best:08}" / "trained.safetensors")
    kept = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(value, saved[f"model.generator.{name}"]) for name, value in kept.items())


def test_collapse_is_told_by_what_real_text_has_and_after_the_warm_up():
    objective = Adversarial(warmup=10, collapse=0.5)

    def told(step, ours):
        return objective.verdict([{"step": step, "distinct_2": ours, "real_distinct_2": 0.8}])

    assert told(11, 0.39) == ("the generator collapsed: distinct_2 of its samples is 0.390, less than 0.5 of real "
                              "text's 0.800")
    assert (told(11, 0.41), told(10, 0.1)) == (None, None)


# ---- figures ----


def test_distinct_n_counts_different_n_grams():
    assert distinct([[1, 2, 3], [1, 2]], 1) == 3 / 5
    assert distinct([[1, 2, 3], [1, 2]], 2) == 2 / 3
    assert distinct([[1, 2, 1, 2, 1, 2, 1, 2, 1]], 2) == 2 / 8
    assert distinct([[1], [2]], 2) == 0.0


def test_self_bleu_is_100_for_equal_texts_and_less_the_less_they_share():
    same = self_bleu([[1, 2, 3, 4, 5]] * 3)
    near = self_bleu([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 4, 7]])
    far = self_bleu([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]])
    assert same == pytest.approx(100)
    # 4 of 5 tokens, 3 of 4 pairs, 2 of 3 triples and 1 of 2 fours are those of another text: (4·3·2·1 / 5·4·3·2)^¼
    assert near == pytest.approx(100 * (24 / 120) ** 0.25)
    assert far == 0.0


def test_bleu_is_of_each_text_against_all_references():
    references = [[1, 2, 3, 4, 9, 9], [9, 9, 9, 9, 2, 3, 4, 5]]
    assert bleu([[1, 2, 3, 4, 9, 9]], references) == pytest.approx(100)
    mixed = bleu([[1, 2, 3, 4, 5]], references)  # all tokens, pairs and triples, one of two fours
    assert mixed == pytest.approx(100 * 1.0**0.25 * np.exp(1 - 6 / 5), rel=1e-6)
    assert bleu([[1, 2, 3, 4, 9, 9], [1, 2, 3, 4, 5]], references) == pytest.approx((100 + mixed) / 2)
    assert (harmonic(20.0, 30.0), harmonic(0.0, 30.0)) == (24.0, 0.0)


def test_figures_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    pairs = [((rng.integers(9, size=8).tolist(), i % 3 == 0), (rng.integers(9, size=8).tolist(), i % 4 > 0))
             for i in range(40)]
    objective, means = Adversarial(samples=16), {"likelihood": 2.0}
    found = objective.metrics(means, pairs)
    assert objective.metrics(means, pairs[::-1]) == found
    assert found["perplexity"] == pytest.approx(np.exp(2))
    assert found["accuracy"] == (26 + 30) / 80
    assert evenly(10, 3) == [0, 3, 6]


def test_held_out_rows_are_taken_from_all_of_the_text(text):
    from llmkit.data.sources import open_source
    from llmkit.objectives.base import Setup
    from llmkit.recipe import Source

    bpe, reader = tokenizers.train(stories(80), "bpe", 300), open_source(Source(str(text)), "line")
    setup = Setup(bpe, registry.find("backbones", "gpt2"), 32, "none", seed=0)
    whole = Adversarial(sample_length=8, samples=9999).prepare([reader], [reader], setup).validation[0].rows
    some = Adversarial(sample_length=8, samples=10).prepare([reader], [reader], setup).validation[0].rows
    chosen = [int(i * len(whole) / 10) for i in range(10)]
    assert len(whole) > 100
    assert [row[0].tolist() for row in some] == [whole[i][0].tolist() for i in chosen]


# ---- what can't be ----


@pytest.mark.parametrize(("options", "said"), [
    ({"discriminator": "brt"}, r"objective: discriminator: no backbone family is called 'brt'\. Did you mean 'bert'"),
    ({"discriminator": "gpt2"}, "gpt2 can't tell texts apart, only an encoder can: .*bert"),
    ({"discriminator_size": "tinny"}, "bert has no size 'tinny'. Did you mean 'tiny'"),
    ({"collapse": 1.5}, "collapse"),
    ({"sample_length": 1}, "sample_length"),
    ({"adversarial_rate": 0}, "adversarial_rate"),
])
def test_an_option_that_cannot_be_is_refused(options, said, text, tmp_path):
    with pytest.raises(RequestError, match=said):
        run(text, tmp_path, options)


@pytest.mark.parametrize(("options", "said"), [
    ({"sample_length": 64}, r"objective\.sample_length: 64 tokens are more than the 32 of a row"),
    ({"discriminator_config": {"hiden_size": 3}}, "no such field of bert. Did you mean 'hidden_size'"),
    ({"discriminator_config": {"max_position_embeddings": 8}}, "more than the discriminator's 8 positions"),
    ({"discriminator_config": {"hidden_size": 33}}, r"objective\.discriminator_config: .*33"),
])
def test_a_size_that_does_not_fit_is_refused_before_training(options, said, text, tmp_path):
    with pytest.raises(RequestError, match=said):
        fit(run(text, tmp_path, options))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_documents_side_by_side_and_adapters_are_refused(text, tmp_path):
    with pytest.raises(RequestError, match=r"data\.packing: .*only blocks or none"):
        fit(recipe.load({**tiny("gpt2", text, tmp_path), "objective": "adversarial",
                               "data": {"train": str(text), "packing": "documents"}}))
    with pytest.raises(RequestError, match="it takes the method full"):
        fit(recipe.load({**tiny("gpt2", text, tmp_path), "objective": "adversarial", "tuning": "lora"}))
    with pytest.raises(RequestError, match="needs a backbone of shape decoder"):
        fit(recipe.load({**tiny("bert", text, tmp_path), "objective": "adversarial"}))


@pytest.mark.parametrize("judge", [name for name in registry.names("backbones") if name != "auto"
                                   and registry.find("backbones", name).shape == "encoder"])
def test_any_encoder_can_be_the_discriminator(judge, bpe):
    positions = {} if judge == "modernbert" else {"max_position_embeddings": 16}
    objective = Adversarial(warmup=0, discriminator_warmup=0, sample_length=4, discriminator=judge,
                            discriminator_config=positions)
    model, family = network(objective, bpe, "llama"), registry.find("backbones", "llama")
    loss = objective.loss(model, batch_of(objective, bpe, 2, step=torch.tensor(1)), family)["generator"]
    loss.backward()
    assert sum(float(p.grad.norm()) for p in model.generator.parameters() if p.grad is not None) > 0
