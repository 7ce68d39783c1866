"""What several layers read is turned to 16 bits once, and gives what autocast gives."""

import pytest
import torch
from torch.nn import functional

from llmkit.backbones.kernels import shortcuts
from llmkit.backbones.kernels.casts import Casts


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def three(input: torch.Tensor, weights: list[torch.Tensor], ours: bool) -> list[torch.Tensor]:
    """Three layers' outputs for one input, and the gradients of all."""
    wanted = ["shared_casts"] if ours else []
    with shortcuts.only(wanted), torch.autocast("cpu", torch.bfloat16), shortcuts.step("cpu"):
        outs = [functional.linear(input, weight) for weight in weights]
    slopes = torch.autograd.grad([out.sum() * (i + 1.0) for i, out in enumerate(outs)], [input, *weights])
    return [*(out.detach() for out in outs), *slopes]


def test_layers_of_one_input_give_what_autocast_gives_bit_for_bit() -> None:
    input, weights = random(3, 5, 8), [random(6, 8, seed=seed) for seed in (1, 2, 3)]
    mine, theirs = (three(input, weights, ours) for ours in (True, False))
    assert [one.dtype for one in mine] == [one.dtype for one in theirs] == [torch.bfloat16] * 3 + [torch.float32] * 4
    for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        if i == 3:  # the input's: three gradients are added in bf16 here, in fp32 there
            assert (one - other).norm() <= 2**-7 * other.norm()
        else:
            assert torch.equal(one, other)


def test_an_input_is_turned_once_until_it_is_written_to_or_gradients_are_made() -> None:
    casts, input = Casts(), torch.ones(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        first = casts.narrowed(input)
        assert casts.narrowed(input) is first
        input += 1
        assert torch.equal(casts.narrowed(input), torch.full((2, 3), 2.0, dtype=torch.bfloat16))
        weight = torch.ones(2, 3, requires_grad=True)
        with torch.no_grad():
            assert not casts.narrowed(weight).requires_grad
        assert casts.narrowed(weight).requires_grad


def test_what_was_16_bits_before_is_not_turned_again() -> None:
    casts, narrow = Casts(), torch.ones(2, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert casts.narrowed(casts.to(narrow, torch.float32)) is narrow


def test_nothing_is_kept_of_tensors_that_are_gone() -> None:
    casts = Casts()
    with torch.autocast("cpu", torch.bfloat16):
        input = torch.ones(2, 3)
        casts.linear(input, torch.ones(4, 3))
        assert len(casts.narrow) == 1
        del input
    assert len(casts.narrow) == 0


@pytest.mark.parametrize("kinds", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32),
                                   (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float64)])
def test_sums_are_torchs(kinds: tuple[torch.dtype, torch.dtype]) -> None:
    a, b = (random(4, 5, seed=seed).detach().to(kind).requires_grad_() for seed, kind in enumerate(kinds))
    theirs = a + b
    with shortcuts.only(["shared_casts"]), shortcuts.step("cpu"):
        mine = [a + b, torch.add(a, b), a.add(b), a.add(b, alpha=1)]
        assert torch.equal(a + 1, torch.add(a, 1))
    for one in mine:
        assert one.dtype is theirs.dtype
        assert torch.equal(one, theirs)
    mine[0].sum().backward()
    assert a.grad is not None
    assert a.grad.dtype is kinds[0]
