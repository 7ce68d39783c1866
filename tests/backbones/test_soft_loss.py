"""The loss against a teacher's answers, compared with numpy by hand and with torch's own divergences."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from llmkit.backbones.kernels import chunked_loss, soft_loss
from llmkit.backbones.kernels.chunked_loss import Linear, Logits

STUDENT = [[1.0, 0.0, -1.0], [0.0, 2.0, 0.5]]
TEACHER = [[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]]


def softmax(row: list[float], temperature: float) -> np.ndarray:
    powers = np.exp(np.array(row) / temperature)
    return powers / powers.sum()


def by_hand(temperature: float) -> float:
    """Hinton et al. 2015, §2, in numpy: the sum over targets, times T²."""
    whole = 0.0
    for said, told in zip(STUDENT, TEACHER, strict=True):
        q, p = softmax(said, temperature), softmax(told, temperature)
        whole += float((p * np.log(p / q)).sum())
    return whole * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_divergence_of_softened_answers_is_that_of_a_hand_computation(temperature: float) -> None:
    found, alike = soft_loss.of_choices(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature, 1.0)
    assert float(found) == pytest.approx(by_hand(temperature), rel=1e-5)
    assert float(alike) == 1  # 0 and 0; 1 and 2
    labels = torch.tensor([0, 1])
    words, same = soft_loss.of_words(Logits(torch.tensor(STUDENT), labels), Logits(torch.tensor(TEACHER), labels),
                                     temperature)
    assert float(words) == pytest.approx(by_hand(temperature), rel=1e-5)
    assert int(same) == 1


def test_a_literal_value() -> None:
    """p = (2/3, 1/3), q = (1/2, 1/2): 2/3 ln 4/3 + 1/3 ln 2/3; as logits of T = 2 they count four times."""
    told, said = torch.tensor([[np.log(2.0), 0.0]]), torch.zeros(1, 2)
    once = 2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)
    assert float(soft_loss.of_choices(said, told, 1.0, 1.0)[0]) == pytest.approx(once, rel=1e-6)
    assert float(soft_loss.of_choices(said, 2 * told, 2.0, 1.0)[0]) == pytest.approx(4 * once, rel=1e-6)
    assert float(soft_loss.of_choices(said, told, 1.0, torch.tensor([3.0]))[0]) == pytest.approx(3 * once, rel=1e-6)


def test_its_gradient_keeps_its_size_as_the_temperature_rises() -> None:
    """Hinton et al. 2015, eq. 4: for a high temperature, T² times it is (student - teacher) / N of centred logits."""
    said = torch.tensor([[0.3, -0.1, -0.2]], requires_grad=True)
    told = torch.tensor([[0.5, -0.5, 0.0]])
    loss, _ = soft_loss.of_choices(said, told, 1000.0, 1.0)
    (slope,) = torch.autograd.grad(loss, said)
    torch.testing.assert_close(slope, (said.detach() - told) / 3, atol=1e-3, rtol=1e-2)


def test_choices_that_are_not_there_have_no_part_in_it() -> None:
    absent = float("-inf")
    said = torch.tensor([[1.0, 0.0, absent]], requires_grad=True)
    found, _ = soft_loss.of_choices(said, torch.tensor([[0.0, 2.0, absent]]), 2.0, 1.0)
    alone, _ = soft_loss.of_choices(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 2.0, 1.0)
    torch.testing.assert_close(found, alone)
    (slope,) = torch.autograd.grad(found, said)
    assert slope.isfinite().all()
    assert slope[0, 2] == 0


def test_each_label_s_chances_diverge_as_torch_s_bernoulli() -> None:
    said, told, temperature = torch.tensor(STUDENT), torch.tensor(TEACHER), 3.0
    found, alike = soft_loss.of_labels(said, told, temperature, 1.0)
    wanted = kl_divergence(Bernoulli(logits=told / temperature), Bernoulli(logits=said / temperature)).sum() * 9
    torch.testing.assert_close(found, wanted)
    assert float(alike) == 6  # the same three are above 0


def test_numbers_are_compared_by_their_squared_error() -> None:
    found, _ = soft_loss.of_numbers(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]]), 1.0)
    assert float(found) == 5


@pytest.mark.parametrize("held", [12, 10_000])
def test_chunks_of_targets_give_the_loss_and_the_gradients_of_all_at_once(
    held: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table of 6 words, 5 targets, a teacher of 8 words whose last two are none of the student's."""
    monkeypatch.setattr(chunked_loss, "HELD", held)
    make = torch.Generator().manual_seed(0)
    hidden, table, bias, theirs = (torch.randn(*size, generator=make) for size in ((5, 4), (6, 4), (6,), (5, 8)))
    labels, temperature = torch.arange(5), 2.0

    def learned() -> list[torch.Tensor]:
        return [part.clone().requires_grad_() for part in (hidden, table, bias)]

    parts = learned()
    found, alike = soft_loss.of_words(Linear(*parts, labels), Logits(theirs, labels), temperature)
    plain = learned()
    logits = plain[0] @ plain[1].T + plain[2]
    wanted = torch.nn.functional.kl_div(
        torch.log_softmax(logits / temperature, -1), torch.softmax(theirs[:, :6] / temperature, -1),
        reduction="sum") * temperature**2
    torch.testing.assert_close(found, wanted)
    assert int(alike) == int((logits.argmax(-1) == theirs[:, :6].argmax(-1)).sum())
    for mine, other in zip(torch.autograd.grad(found, parts), torch.autograd.grad(wanted, plain), strict=True):
        torch.testing.assert_close(mine, other)
