"""Norms by root mean square are those of transformers' classes, gradients included."""

import copy

import pytest
import torch
from transformers import T5Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRMSNorm
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5LayerNorm
from transformers.models.umt5.modeling_umt5 import UMT5LayerNorm

from llmkit.backbones.kernels import norms, shortcuts

KINDS = (T5LayerNorm, UMT5LayerNorm, LlamaRMSNorm, Qwen3RMSNorm, Qwen3MoeRMSNorm)


def learned(part: torch.nn.Module) -> list[torch.Tensor]:
    """What a norm of 8 gives for some rows, and the gradients of rows and weight."""
    chance = torch.Generator().manual_seed(0)
    rows = (torch.randn(2, 3, 8, generator=chance) * 3).requires_grad_()
    out = part(rows)
    out.backward(torch.randn(2, 3, 8, generator=chance))
    assert rows.grad is not None
    return [out.detach(), rows.grad, part.weight.grad]


def norm_of(kind: type[torch.nn.Module]) -> torch.nn.Module:
    part = kind(8, eps=1e-3)
    part.weight.data = torch.linspace(0.5, 2, 8)
    return part


@pytest.mark.parametrize("kind", KINDS)
def test_a_quick_norm_is_transformers_own(kind: type[torch.nn.Module]) -> None:
    theirs = norm_of(kind)
    ours = copy.deepcopy(theirs)
    norms.quicken(ours)
    assert "forward" in vars(ours)
    for mine, right in zip(learned(ours), learned(theirs), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6)


def test_the_root_mean_square_by_hand() -> None:
    """(3, 4) has the root mean square 5 / sqrt 2: 3 and 4 become .8485 and 1.1314, times the weights 1 and 2."""
    ours = T5LayerNorm(2, eps=0.0)
    ours.weight.data = torch.tensor([1.0, 2.0])
    norms.quicken(ours)
    out = ours(torch.tensor([[3.0, 4.0]], requires_grad=True))
    assert type(out.grad_fn).__name__ == "_RMSNormBackward"
    assert out.tolist()[0] == pytest.approx([0.8485281, 2.2627417])


def test_its_gradient_is_that_of_what_it_computes() -> None:
    rows = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: norms._RMSNorm.apply(x, w, 1e-3), [rows, weight])


def test_only_what_is_trained_in_fp32_goes_this_way_and_only_where_it_may() -> None:
    ours = norm_of(T5LayerNorm)
    norms.quicken(ours)
    rows = torch.ones(1, 8)
    with torch.no_grad():
        assert torch.equal(ours(rows), T5LayerNorm.forward(ours, rows))
    with shortcuts.only([]):
        assert type(ours(rows).grad_fn).__name__ == "MulBackward0"
    assert type(ours(rows.bfloat16()).grad_fn).__name__ == "MulBackward0"


def test_a_frozen_weight_or_input_gets_no_gradient() -> None:
    ours = norm_of(T5LayerNorm)
    norms.quicken(ours)
    ours(torch.ones(1, 8)).sum().backward()  # nothing below trains
    assert ours.weight.grad is not None
    ours.weight.requires_grad_(False)
    rows = torch.ones(1, 8, requires_grad=True)
    ours(rows).sum().backward()
    assert rows.grad is not None


@pytest.mark.parametrize("p", [0.0, 0.25])
def test_t5s_feed_forward_in_bf16_is_the_same_but_for_what_is_not_turned(p: float) -> None:
    """The same seed drops the same, so that outputs are equal to the bit, and gradients as near as bf16 is."""
    theirs = T5DenseActDense(T5Config(d_model=8, d_ff=32, dropout_rate=p)).train()
    ours = copy.deepcopy(theirs)
    norms.quicken(ours)
    found = []
    for part in (ours, theirs):
        rows = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16), shortcuts.step("cpu"):
            out = part(rows)
        out.backward(torch.ones_like(out))
        found.append((out.detach(), rows.grad, part.wi.weight.grad, part.wo.weight.grad))
    for mine, right in zip(*found, strict=True):
        assert torch.equal(mine, right) or (mine - right).norm() <= 2**-8 * right.norm()
    assert torch.equal(found[0][0], found[1][0])


def test_a_dropped_relu_has_the_gradient_of_what_it_computes() -> None:
    rows = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def same_chance(input: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return norms._DroppedReLU.apply(input, 2**14)

    assert torch.autograd.gradcheck(same_chance, [rows])
    assert float((same_chance(rows) == 0).double().mean()) > 0.4
