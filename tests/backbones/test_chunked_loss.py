"""The chunked loss is the one of torch: its value, its gradients, in every number format, for every family's head."""

import sys
import types
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from llmkit.backbones.kernels import chunked_loss as likelihood
from llmkit.backbones.kernels import liger, shortcuts
from llmkit.objectives.base import guesses, plain_last
from llmkit.recipe import Training, registry
from llmkit.system.errors import RequestError

FAMILIES = [name for name in registry.names("backbones") if name != "auto"]


def both(hidden: Any, weight: Any, bias: Any, labels: Any, loss: Any, autocast: bool = False) -> list[torch.Tensor]:
    """A loss, and its gradients at hidden states, table and bias."""
    leaves = [None if one is None else one.clone().requires_grad_() for one in (hidden, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = loss(*leaves, labels)
    (found * 0.7).backward()
    return [found.detach(), *(one.grad for one in leaves if one is not None)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "HELD", 5 * 700)
    monkeypatch.setattr(likelihood, "FP32", 2 * 700)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_value_and_gradients_are_those_of_a_dense_cross_entropy(smoothing: float, with_bias: bool) -> None:
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(23, 16), torch.randn(700, 16) * 0.3, torch.randint(0, 700, (23,))
    bias = torch.randn(700) if with_bias else None
    dense = both(hidden, weight, bias, labels, lambda h, w, b, y: cross_entropy(
        linear(h, w, b), y, reduction="sum", label_smoothing=smoothing))
    ours = both(hidden, weight, bias, labels, lambda h, w, b, y: likelihood.Linear(h, w, b, y).loss(smoothing))
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_loss_for_each_target_has_the_gradient_of_its_own_weight() -> None:
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(13, 8), torch.randn(700, 8), torch.randint(0, 700, (13,))
    counts = torch.linspace(-1, 2, 13)
    dense = both(hidden, weight, None, labels, lambda h, w, b, y: (
        cross_entropy(linear(h, w), y, reduction="none") * counts).sum())
    ours = both(hidden, weight, None, labels, lambda h, w, b, y: (likelihood.Linear(h, w, b, y).each() * counts).sum())
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_in_bf16_it_is_nearer_to_the_exact_gradient_than_the_dense_one_is_far_from_it() -> None:
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(40, 64), torch.randn(700, 64) * 0.2, torch.randint(0, 700, (40,))
    def dense(h: Any, w: Any, b: Any, y: Any) -> Any:
        return cross_entropy(linear(h, w).float(), y, reduction="sum")
    exact = both(hidden, weight, None, labels, dense)
    theirs = both(hidden, weight, None, labels, dense, autocast=True)
    ours = both(hidden, weight, None, labels, lambda h, w, b, y: likelihood.Linear(h, w, b, y).loss(), autocast=True)
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert (mine - right).norm() <= 1.2 * (other - right).norm() + 1e-3 * right.norm()


def test_a_token_that_cannot_be_costs_what_it_costs_and_no_infinity() -> None:
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [300.0]])
    assert float(likelihood.Linear(hidden, weight, None, torch.tensor([0])).loss()) == 300.0


def test_what_is_frozen_gets_no_gradient_and_costs_none() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4)
    likelihood.Linear(hidden, weight, None, torch.tensor([1, 2, 3])).loss().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_judged_counts_the_likeliest_tokens_beside_the_loss() -> None:
    table = torch.eye(4)
    labels = torch.tensor([0, 1, 3, 3])
    for said in (likelihood.Linear(table, table, None, labels), likelihood.Logits(table, labels)):
        loss, right = said.judged()
        assert right == 3
        assert loss.item() == pytest.approx(cross_entropy(table, labels, reduction="sum").item())


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])
def test_an_evaluation_makes_no_gradients(quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, ...]] = []
    plain = likelihood._Work.gradients
    monkeypatch.setattr(likelihood._Work, "gradients", lambda work, slope, smoothing, needs: (
        asked.append(needs), plain(work, slope, smoothing, needs))[1])
    weight = torch.nn.Parameter(torch.randn(9, 4))
    with quiet():
        likelihood.Linear(torch.randn(3, 4), weight, None, torch.tensor([1, 2, 3])).loss()
    likelihood.Linear(torch.randn(3, 4), weight, None, torch.tensor([1, 2, 3])).loss()
    assert asked == [(False, False, False), (False, True, False)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_with_words_has_a_plain_last_layer_and_the_same_loss_without_it(name: str) -> None:
    import transformers
    from conftest import SMALL

    family = registry.find("backbones", name)
    head = next(one for one in ("AutoModelForMaskedLM", "AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
                if one in family.heads)
    torch.manual_seed(0)
    fields = {**family.sizes["tiny"], **SMALL[name], "vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1,
              "eos_token_id": 2, "decoder_start_token_id": 0}
    config = transformers.AutoConfig.for_model(family.model_type, **fields)
    model = getattr(transformers, head).from_config(config).eval()
    if family.logits_bias is not None:
        getattr(model, family.logits_bias).normal_()
    ids, labels = torch.randint(3, 60, (2, 9)), torch.randint(3, 60, (2, 9))
    labels[:, ::2] = -100
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if family.shape == "encoder-decoder" else {})}
    assert plain_last(model, family) is not None
    found = []
    for ways in (["target_heads", "chunked_loss"], ["target_heads"], ["chunked_loss"], []):
        with shortcuts.only(ways):
            said = guesses(model, dict(inputs), labels, family, head)[0]
            assert isinstance(said, likelihood.Linear) is ("chunked_loss" in ways)
            loss, right = said.judged()
            found.append((loss.item(), right, said.each().sum().item()))
    plain = cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    for loss, right, each in found:
        assert loss == pytest.approx(plain.item(), rel=1e-5)
        assert each == pytest.approx(plain.item(), rel=1e-5)
        assert right == found[0][1]


# ---- on a GPU, and by Liger ----


def test_a_gpu_makes_more_logits_at_once_than_a_cpus_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert likelihood.at_once(torch.device("cpu")) == (16 * 2**20, 2**20)
    held, fp32 = likelihood.at_once(torch.device("cuda"))
    assert (held, fp32) == (64 * 2**20, 64 * 2**20)
    assert -(-16_384 // (held // 50_304)) == 13  # products for a step of GPT-2


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for liger-kernel 0.8.5, whose kernels need a GPU: what it was called with, by its own names."""
    calls: list[dict[str, Any]] = []

    def liger_fused_linear_cross_entropy(
        input: Any, weight: Any, target: Any, bias: Any = None, ce_weight: Any = None, ignore_index: int = -100,
        lse_square_scale: float = 0.0, label_smoothing: float = 0.0, reduction: str = "mean", softcap: Any = None,
        return_z_loss: bool = False, accum_dtype: Any = None, use_token_scaling: bool = False,
        return_token_accuracy: bool = False, return_predicted_tokens: bool = False, chunk_mem_const: int = 1,
    ) -> Any:
        calls.append({"reduction": reduction, "accum_dtype": accum_dtype})
        return cross_entropy(linear(input, weight, bias).float(), target, ignore_index=ignore_index,
                             reduction=reduction, label_smoothing=label_smoothing)

    functional = types.ModuleType("liger_kernel.transformers.functional")
    functional.liger_fused_linear_cross_entropy = liger_fused_linear_cross_entropy  # type: ignore[attr-defined]
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, functional.__name__, functional)
    return calls


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_liger_is_asked_for_the_same_loss(smoothing: float, kernel: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    given = torch.randn(23, 16), torch.randn(700, 16) * 0.3, torch.randn(700), torch.randint(0, 700, (23,))

    def loss(h: Any, w: Any, b: Any, y: Any) -> Any:
        return likelihood.Linear(h, w, b, y).loss(smoothing)

    ours = both(*given, loss)
    assert kernel == []
    with shortcuts.only([*shortcuts.ALL, "liger"]):
        theirs = both(*given, loss)
    assert kernel == [{"reduction": "sum", "accum_dtype": torch.float32}]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_what_liger_cannot_make_is_made_here(kernel: list[dict[str, Any]]) -> None:
    """Nobody's gradient, that of a table alone, probabilities that are watched, no target at all."""
    hidden, weight = torch.randn(3, 4), torch.nn.Parameter(torch.randn(9, 4))
    labels = torch.tensor([1, 2, 3])
    with shortcuts.only([*shortcuts.ALL, "liger"]):
        with torch.no_grad():
            likelihood.Linear(hidden, weight, None, labels).loss()
        likelihood.Linear(hidden, weight, None, labels).loss().backward()
        slow = hidden.clone().requires_grad_()
        likelihood.Linear(slow, weight, None, labels).loss(watch=lambda rows, chances: None)
        assert float(likelihood.Linear(slow[:0], weight, None, labels[:0]).loss()) == 0.0
    assert kernel == [] and weight.grad is not None


def test_liger_needs_a_gpu_and_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Training(use_liger_kernel=True)
    liger.check(Training())
    assert "liger" in liger.ways(asked) and "liger" not in liger.ways(Training())
    with pytest.raises(RequestError, match=r"use_liger_kernel: Liger's kernels are written for GPUs, and there is no"):
        liger.check(asked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(liger, "find_spec", lambda name: None if name == "liger_kernel" else object())
    with pytest.raises(RequestError, match=r"liger-kernel isn't installed: pip install 'llmkit-train\[liger\]'"):
        liger.check(asked)
    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    with pytest.raises(RequestError, match=r"leaves out chunked_loss, in whose place it stands"):
        liger.check(Training(use_liger_kernel=True, shortcuts=["unpadded"]))
    liger.check(asked)
