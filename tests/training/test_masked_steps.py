"""On a GPU the optimizer steps before the host knows the loss: what isn't finite, its kernel leaves out."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmkit.backbones.kernels.privates import leaves_steps_out, left_out
from llmkit.optimizers.base import Learned
from llmkit.optimizers.shared.scaled import ScaledAdamW
from llmkit.training.step import Stepper


def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def stepped(made: Any, linear: Any, wrong: list[bool]) -> dict[str, Any]:
    """What a layer and its optimizer hold after a step each, those left out that are wrong."""
    for number, out in enumerate(wrong):
        for parameter in linear.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if out else number + 1.0)
        with left_out(made, torch.tensor(out)):
            made.step()
        assert not hasattr(made, "found_inf")
    return {"weights": copy.deepcopy(linear.state_dict()), "state": copy.deepcopy(made.state_dict()["state"])}


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


@pytest.mark.parametrize("kind", ["adamw", "adamw_rms"])
def test_a_step_that_is_left_out_changes_no_weight_and_no_moment(kind: str) -> None:
    def make(linear: Any) -> Any:
        if kind == "adamw":
            return torch.optim.AdamW(linear.parameters(), lr=0.1, fused=True)
        parts = [Learned(name, parameter, 0.1, 0.01, False, ()) for name, parameter in linear.named_parameters()]
        return ScaledAdamW(parts, (0.9, 0.999), 1e-8, 1e-3)

    broken, whole = layer(), layer()
    # the gradients that count are 1 and 3 in both
    first = stepped(make(broken), broken, [False, True, False])
    made = make(whole)
    for slope in (1.0, 3.0):
        for parameter in whole.parameters():
            parameter.grad = torch.full_like(parameter, slope)
        made.step()
    assert alike(first, {"weights": whole.state_dict(), "state": made.state_dict()["state"]})


def test_which_optimizers_can_leave_a_step_out() -> None:
    parameters = list(layer().parameters())
    assert leaves_steps_out(torch.optim.AdamW(parameters, fused=True))
    assert not leaves_steps_out(torch.optim.AdamW(parameters))
    assert not leaves_steps_out(torch.optim.Adafactor(parameters))


class Ahead:
    """As much of a session as `moved_ahead` asks for."""

    def __init__(self, made: Any) -> None:
        self.optimizer = SimpleNamespace(optimizer=made, step=made.step)
        self.accelerator = SimpleNamespace(scaler=None, device=torch.device("cpu"), num_processes=2)


@pytest.mark.parametrize(("kind", "fused", "ahead"), [
    ("cpu", True, False), ("cuda", False, False), ("cuda", True, True)])
def test_a_cpu_and_an_optimizer_that_cannot_are_asked_first(kind: str, fused: bool, ahead: bool) -> None:
    """On a CPU the numbers are there, and nothing is gained."""
    linear = layer()
    before = linear.weight.clone()
    for parameter in linear.parameters():
        parameter.grad = torch.ones_like(parameter)
    stepper = Stepper(Ahead(torch.optim.AdamW(linear.parameters(), lr=0.1, fused=fused)), None)  # type: ignore[arg-type]

    class Numbers:
        """(norm, loss) that say they are on a device."""

        device = torch.device(kind)

        def isfinite(self) -> torch.Tensor:
            return torch.tensor([True, True])

    assert stepper.moved_ahead(Numbers()) is ahead  # type: ignore[arg-type]
    assert torch.equal(linear.weight, before) is not ahead
