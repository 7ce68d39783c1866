"""Operations are those of the papers' formula, counted by hand; the machine's rate is measured quickly."""

import time
from typing import Any

import pytest
import torch
from conftest import SMALL, STILL

from llmkit.backbones.kernels import flops
from llmkit.objectives.causal_lm import CausalLM
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.recipe import registry

ROWS, LENGTH, WORDS, WIDTH, INNER, LAYERS = 4, 24, 300, 32, 64, 2


def model_of(family: str) -> tuple[Any, Any]:
    """A tiny model with a head over 300 words, and its family."""
    import transformers

    kind = registry.find("backbones", family)
    fields = {**kind.sizes["tiny"], **SMALL[family], **STILL[family], "vocab_size": WORDS, "bos_token_id": 1,
              "eos_token_id": 2}
    torch.manual_seed(0)
    head = "AutoModelForMaskedLM" if family == "bert" else "AutoModelForCausalLM"
    config = transformers.AutoConfig.for_model(kind.model_type, **fields)
    assert config.num_hidden_layers == LAYERS
    return getattr(transformers, head).from_config(config, attn_implementation="sdpa"), kind


def batch_of(targets: int) -> dict[str, torch.Tensor]:
    """Rows with so many targets each."""
    ids = torch.randint(5, WORDS, (ROWS, LENGTH))
    labels = torch.full_like(ids, -100)
    labels[:, :targets] = ids[:, :targets]
    return {"input_ids": ids, "labels": labels}


def step(objective: Any, model: Any, kind: Any, batch: dict[str, torch.Tensor]) -> int:
    return flops.counted(lambda: objective.loss(model, batch, kind)["loss"].backward())


def test_a_bert_takes_six_operations_a_weight_and_token_and_its_head_sees_targets_only() -> None:
    model, kind = model_of("bert")
    tokens, targets = ROWS * LENGTH, ROWS * 4
    layer = 4 * WIDTH * WIDTH + 2 * WIDTH * INNER  # queries, keys, values, output; in, out
    attention = 12 * LAYERS * WIDTH * LENGTH * tokens
    head = WIDTH * WIDTH + WIDTH * WORDS  # the transform, and the table of words
    bias = 2 * WORDS * targets  # its gradient is made by a product with ones
    assert step(MaskedLM(), model, kind, batch_of(4)) == (
        6 * LAYERS * layer * tokens + attention + 6 * head * targets + bias)


def test_a_gpt2_takes_six_operations_a_weight_and_token() -> None:
    """Kaplan et al. 2020, table 1, with the weights of the head in N: 6 N + 12 n_layer n_ctx d_attn a token."""
    model, kind = model_of("gpt2")
    inner = model.config.n_inner or 4 * WIDTH
    weights = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * inner) + WIDTH * WORDS
    tokens = ROWS * LENGTH
    expected = 6 * weights * tokens + 12 * LAYERS * WIDTH * LENGTH * tokens
    assert step(CausalLM(), model, kind, batch_of(LENGTH)) == expected


def test_what_is_frozen_needs_no_gradients_of_its_own() -> None:
    """Forward twice and the way back to what is below: 4 operations a weight instead of 6."""
    model, kind = model_of("bert")
    whole = step(MaskedLM(), model, kind, batch_of(4))
    for layer in model.bert.encoder.layer:
        layer.requires_grad_(False)
    less = 2 * LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) * ROWS * LENGTH
    assert step(MaskedLM(), model, kind, batch_of(4)) == whole - less


def test_attention_counts_the_same_however_it_is_computed() -> None:
    model, kind = model_of("gpt2")
    fused = step(CausalLM(), model, kind, batch_of(LENGTH))
    model.set_attn_implementation("eager")
    assert step(CausalLM(), model, kind, batch_of(LENGTH)) == fused


def test_the_machines_rate_is_measured_once_and_quickly() -> None:
    began = time.monotonic()
    rate = flops.rate("fp32")
    assert time.monotonic() - began < 20  # two seconds where nothing else runs
    began = time.monotonic()
    assert flops.rate("fp32") == rate > 1e8
    assert time.monotonic() - began < 0.1


def test_utilisation_is_what_a_step_computes_over_what_the_machine_could(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "_rate", lambda *what: 1e9)
    assert flops.mfu(5e8, 1.0, "fp32") == 0.5
    assert flops.mfu(5e8, 2.0, "fp32") == 0.25
