"""Which tokens may be drawn, and how often each is, against transformers' own processors."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from llmkit.inference.writing import sampling
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.sampling import Choosing, candidates, choose, penalized


@pytest.mark.parametrize("options", [
    {"top_k": 7}, {"top_p": 0.6}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.8, "min_p": 0.05}, {"temperature": 0.3},
    {"top_p": 0.999}, {"repetition_penalty": 1.7, "temperature": 0.8}, {"typical_p": 0.4}, {"top_h": 0.4},
    {"epsilon_cutoff": 3e-4}, {"eta_cutoff": 1e-3, "top_p": 0.9}])
@pytest.mark.parametrize("there", [False, True], ids=["on the host", "on the device"])
def test_candidates_are_those_of_transformers_own_processors(options, there, monkeypatch):
    monkeypatch.setattr(sampling, "chooses", lambda device: there)
    own = {"repetition_penalty": RepetitionPenaltyLogitsProcessor, "temperature": TemperatureLogitsWarper,
           "top_h": TopHLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper,
           "typical_p": TypicalLogitsWarper, "epsilon_cutoff": EpsilonLogitsWarper, "eta_cutoff": EtaLogitsWarper}
    how = Choosing.of(GenerationConfig(do_sample=True, **{"top_k": 0, **options}))
    chance = torch.Generator().manual_seed(4)
    for scale in (1.0, 4.0):
        logits, seen = torch.randn(3000, generator=chance) * scale, torch.tensor([5, 17, 17, 2999])
        expected = logits[None].clone()
        for name, processor in own.items():
            if name in options:
                expected = processor(options[name])(seen[None], expected)
        scores = penalized(logits, seen, how.repetition_penalty) / how.temperature
        left, probabilities = candidates(scores[None], how)
        found = torch.zeros(1, 3000).scatter(1, left, probabilities / probabilities.sum())[0]
        torch.testing.assert_close(found, expected[0].softmax(0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("chance", [np.random.default_rng(0), torch.Generator().manual_seed(0)],
                         ids=["a host's chance", "a device's"])
def test_tokens_are_drawn_as_often_as_they_are_likely(chance):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])
    how = Choosing(True, top_k=4)
    counts = np.bincount(choose(logits.expand(4000, -1), how, [chance] * 4000), minlength=5)
    expected = logits.masked_fill(torch.arange(5) == 3, -torch.inf).softmax(0).double().numpy() * 4000
    assert counts[3] == 0
    keep = [0, 1, 2, 4]
    assert chisquare(counts[keep], expected[keep] * counts[keep].sum() / expected[keep].sum()).pvalue > 0.001


def test_rows_that_are_chosen_for_together_get_what_each_gets_alone():
    rows = torch.randn(5, 2000, generator=torch.Generator().manual_seed(1)) * 3
    for how in (Choosing(), Choosing(True), Choosing(True, top_k=9), Choosing(True, top_p=0.9, min_p=0.01)):
        together = choose(rows, how, [np.random.default_rng(i) for i in range(5)])
        alone = [int(choose(rows[i:i + 1], how, [np.random.default_rng(i)])) for i in range(5)]
        assert together.tolist() == alone


def test_a_matrix_of_what_is_told_is_read_as_log_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    logprobs, likeliest = sampling.logprobs_of(logits, torch.tensor([1, 2]), 2)
    wanted = logits.log_softmax(-1)
    assert logprobs == pytest.approx([float(wanted[0, 1]), float(wanted[1, 2])], rel=1e-5)
    assert [token for token, _ in likeliest[0]] == [0, 1] and likeliest[1][0][0] == 2
    assert [value for _, value in likeliest[0]] == pytest.approx(wanted[0, :2].tolist(), rel=1e-5)
    assert sampling.logprobs_of(logits, torch.tensor([1, 2]), 0)[1] == [[], []]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9])
def test_the_coldest_sampling_takes_the_likeliest_token(temperature: float) -> None:
    config = Options(temperature=temperature, seed=1).config(GenerationConfig(), [], 0)
    scores = torch.tensor([[-40.0, 31.0, 30.9, 12.0]])
    assert torch.isfinite(scores / config.temperature).all() and config.do_sample
    assert (scores / config.temperature).softmax(-1)[0].tolist() == [0, 1, 0, 0]
