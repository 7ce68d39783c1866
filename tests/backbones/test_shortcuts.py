"""What a step does more cheaply is what torch does: attention by its numbers, dropout by its statistics."""

import ctypes
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.activations import NewGELUActivation

from llmkit.backbones.kernels import shortcuts


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def attended(mask: Any, causal: bool, ours: bool, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    """Attention's output and its three gradients."""
    query, key, value = (random(5, 4, 9, 8, dtype=dtype, seed=seed) for seed in range(3))
    with shortcuts.only(["short_attention"] if ours else []), shortcuts.step("cpu"):
        out = functional.scaled_dot_product_attention(query, key, value, mask, 0.0, causal)
        (out * torch.arange(8)).sum().backward()
    return [out.detach(), *(one.grad for one in (query, key, value) if one.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpt2s_gelu_in_one_kernel_is_as_near_to_the_formula_as_in_eight(dtype: torch.dtype) -> None:
    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleList([NewGELUActivation()])

    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    exact = x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    model = Part()
    theirs = model.inner[0](x.to(dtype)).double()
    shortcuts.fuse(model)
    assert isinstance(model.inner[0], torch.nn.GELU)
    ours = model.inner[0](x.to(dtype)).double()
    assert (ours - exact).abs().max() <= max((theirs - exact).abs().max(), 1e-6)


MASKS = {"none": None, "of a batch": torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(1)) > 0.4,
         "of all": torch.rand(9, 9, generator=torch.Generator().manual_seed(2)) > 0.4,
         "added": torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(3))}
for made in (MASKS["of a batch"], MASKS["of all"]):
    assert made is not None
    made[..., 0] = True


@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize("causal", [False, True])
def test_short_attention_is_as_near_to_the_exact_one_as_torchs(
    which: str, causal: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:
    if causal and which != "none":
        pytest.skip("torch takes a mask or is_causal, not both")
    monkeypatch.setattr(shortcuts, "SCORES", 2 * 4 * 9 * 9)  # two rows at a time
    mask = MASKS[which]
    exact = attended(mask, causal, ours=False, dtype=torch.float32)
    for mine, theirs, right in zip(attended(mask, causal, True), attended(mask, causal, False), exact, strict=True):
        assert (mine - right).norm() <= 1.2 * (theirs - right).norm() + 2e-3 * right.norm()


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_keys_and_values_in_fp32_are_cast_like_the_query(share: float) -> None:
    query, key, value = random(2, 2, 5, 4, dtype=torch.bfloat16), random(2, 2, 7, 4), random(2, 2, 7, 4, seed=1)
    with torch.autocast("cpu", torch.bfloat16), shortcuts.step("cpu"):
        out = functional.scaled_dot_product_attention(query, key, value, None, share)
    out.sum().backward()  # as in training, where autocast is over by then
    assert out.dtype is torch.bfloat16
    assert key.grad is not None
    assert key.grad.dtype is torch.float32


def test_attention_with_dropout_has_the_gradient_of_what_it_computes() -> None:
    inputs = [random(2, 2, 3, 2, dtype=torch.float64, seed=seed) for seed in range(3)]

    def same_chance(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return shortcuts.attention(query, key, value, dropout_p=0.3)

    assert torch.autograd.gradcheck(same_chance, inputs)


@pytest.mark.parametrize("shape", [(1, 2, 3, 3), (3, 2, 3, 3), (3, 1, 3, 3), (2, 3, 3), (3, 3)])
def test_what_is_added_to_scores_has_its_gradient_too(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "SCORES", 2 * 2 * 3 * 3)  # two rows at a time
    inputs = [*(random(3, 2, 3, 2, dtype=torch.float64, seed=seed) for seed in range(3)),
              random(*shape, dtype=torch.float64, seed=3)]

    def same_chance(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return shortcuts.attention(query, key, value, bias, dropout_p=0.3)

    assert torch.autograd.gradcheck(same_chance, inputs)


def test_attention_with_dropout_is_the_mean_of_attention_without() -> None:
    query, key, value = (random(1, 2, 6, 4, seed=seed) for seed in range(3))
    torch.manual_seed(0)
    many = torch.stack([shortcuts.attention(query, key, value, dropout_p=0.25).detach() for _ in range(4000)])
    plain = functional.scaled_dot_product_attention(query, key, value)
    assert (many.mean(0) - plain).abs().max() < 5 * float(many.std(0).max()) / math.sqrt(4000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_leaves_its_share_and_scales_the_rest(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    input = torch.ones(1_000_003, dtype=dtype, requires_grad=True)
    out = shortcuts.dropout(input, 0.1)
    out.backward(torch.ones_like(out))
    dropped = float((out == 0).double().mean())
    assert dropped == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / 1e6))
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - 6554 / 65536)).to(dtype))}
    assert input.grad is not None
    assert torch.equal(input.grad, out.detach())


def test_neighbours_drop_independently() -> None:
    torch.manual_seed(1)
    stays = shortcuts.stays(torch.Size((4_000_000,)), 6554).double() - 0.9
    for lag in (1, 2, 3, 4, 8, 16):
        assert abs(float((stays[lag:] * stays[:-lag]).mean())) / 0.09 * 2000 < 4.5


def test_dropout_follows_the_seed_and_nothing_drops_in_evaluation() -> None:
    input = torch.ones(999)
    first, again = (torch.manual_seed(7) and shortcuts.dropout(input, 0.5) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(shortcuts.dropout(input, 0.5, training=False), input)
    assert torch.equal(shortcuts.dropout(input, 1.0), torch.zeros(999))


def test_a_step_replaces_torchs_own_functions_for_whoever_calls_them_and_only_there() -> None:
    layer = torch.nn.Dropout(0.5)
    input = torch.ones(64, requires_grad=True)
    with shortcuts.step("cpu"):
        assert type(layer(input).grad_fn).__name__ == "_DropoutBackward"
    with shortcuts.only([]), shortcuts.step("cpu"):
        assert type(layer(input).grad_fn).__name__ == "MulBackward0"
    assert type(layer(input).grad_fn).__name__ == "MulBackward0"


def test_what_one_thread_may_take_is_its_own_affair() -> None:
    training, asked = Event(), Event()

    def train() -> bool:
        with shortcuts.only([]):
            training.set()
            assert asked.wait(10)
            return shortcuts.on("fast_dropout")

    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(train)
        assert training.wait(10)
        meanwhile = shortcuts.on("fast_dropout")
        asked.set()
        assert not trained.result()
    assert meanwhile


def test_a_backward_pass_in_another_thread_does_what_its_forward_pass_began() -> None:
    input = torch.ones(4096, requires_grad=True)
    with shortcuts.only(["fast_dropout"]), shortcuts.step("cpu"):
        out = functional.dropout(input, 0.5)
    other = Thread(target=lambda: out.sum().backward())
    other.start()
    other.join()
    assert torch.equal(input.grad, out.detach())


GROWTH = """
import ctypes, sys
import torch
from llmkit.system.environment import prepare_torch

prepare_torch()

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap
torch.set_num_threads(1)
weight = torch.ones(64, 64, dtype=torch.bfloat16, requires_grad=True)
for rows in range(64, 314):
    if rows == 214:
        before = libc.mallinfo2().uordblks
    torch.nn.functional.linear(torch.ones(rows, 64, dtype=torch.bfloat16), weight).sum().backward()
print(libc.mallinfo2().uordblks - before)
"""


def test_products_of_shapes_that_dont_come_again_are_not_kept() -> None:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("only glibc tells how much of the heap is in use")
    kept = [int(subprocess.run([sys.executable, "-c", GROWTH], env={**os.environ, **given}, check=True,
                               stdout=subprocess.PIPE).stdout)
            for given in ({}, dict.fromkeys(("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"), "1024"))]
    if kept[1] < 2**20:
        pytest.skip("this CPU multiplies bf16 without oneDNN")
    assert kept[0] < 0.1 * kept[1], kept
