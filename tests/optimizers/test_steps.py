"""What each optimizer does in a step, beside torch's and transformers' own, or the paper's formula worked out here."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from llmkit.optimizers.base import Learned, Optimizer, groups
from llmkit.recipe import registry

Array = NDArray[np.float64]
RATE, DECAY = 0.01, 0.1


def starts() -> list[torch.Tensor]:
    """A matrix, a wide one, and a vector of zeros."""
    rng = np.random.default_rng(0)
    return [torch.tensor(rng.normal(size=(4, 3)), dtype=torch.float32),
            torch.tensor(rng.normal(size=(2, 6)) * 0.02, dtype=torch.float32), torch.zeros(5)]


def slopes(step: int) -> list[Array]:
    """The gradients of a step."""
    rng = np.random.default_rng(100 + step)
    return [rng.normal(size=tuple(start.shape)) for start in starts()]


def learned_of(parameters: Sequence[nn.Parameter], hidden: bool = False) -> list[Learned]:
    """Matrices decay, the vector doesn't, and the second learns at half the rate."""
    return [Learned(f"p{i}", parameter, RATE / (1 + (i == 1)), DECAY if parameter.dim() > 1 else 0.0,
                    hidden and parameter.dim() > 1, (i == 1, parameter.dim() > 1)) for i, parameter in enumerate(
                        parameters)]


def moved(optimizer: Optimizer, steps: int, factor: Any = lambda step: 1.0, hidden: bool = False) -> list[Array]:
    """Where so many steps bring the parameters; the rates of a step are the groups' first ones times a factor."""
    parameters = [nn.Parameter(start) for start in starts()]
    made = optimizer.make(learned_of(parameters, hidden))
    for step in range(steps):
        advance(made, parameters, step, factor(step))
    return [parameter.detach().numpy().astype(np.float64) for parameter in parameters]


def advance(made: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], step: int, factor: float = 1.0) -> None:
    for group in made.param_groups:
        group["lr"] = group["initial_lr"] * factor
    for parameter, slope in zip(parameters, slopes(step), strict=True):
        parameter.grad = torch.tensor(slope, dtype=torch.float32)
    made.step()


def find(name: str, **options: Any) -> Optimizer:
    made: Optimizer = registry.find("optimizers", name)(**options)
    return made


def alone(rule: Any, steps: int, factor: Any = lambda step: 1.0) -> list[Array]:
    """The same by a rule that is written out: `rule(w, state, g, lr, decay, t)` in float64."""
    out = []
    for i, start in enumerate(starts()):
        weight, state = start.numpy().astype(np.float64), dict[str, Any]()
        rate, decay = RATE / (1 + (i == 1)), DECAY if weight.ndim > 1 else 0.0
        for step in range(steps):
            weight = rule(weight, state, slopes(step)[i], rate * factor(step), decay, step + 1)
        out.append(weight)
    return out


def adam(state: dict[str, Any], slope: Array, t: int, betas: tuple[float, float], eps: float) -> Array:
    """Kingma & Ba 2015, algorithm 1: the direction of a step."""
    state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * slope
    state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * slope**2
    root = np.sqrt(state["v"] / (1 - betas[1] ** t))
    direction: Array = state["m"] / (1 - betas[0] ** t) / (root + eps)
    return direction


def falling(step: int) -> float:
    return 1 - step / 10


def same(found: Sequence[Array], wanted: Sequence[Array], rel: float = 2e-5) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=rel, abs=1e-6)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.98)])
def test_adamw_is_the_papers(betas: tuple[float, float]) -> None:
    def rule(w: Array, state: dict[str, Any], g: Array, lr: float, decay: float, t: int) -> Array:
        return w - lr * decay * w - lr * adam(state, g, t, betas, 1e-6)

    same(moved(find("adamw", betas=betas, eps=1e-6), 5, falling), alone(rule, 5, falling))


def test_adamw_rms_scales_each_step_by_the_size_of_what_it_moves() -> None:
    def rule(w: Array, state: dict[str, Any], g: Array, lr: float, decay: float, t: int) -> Array:
        size = max(1e-3, math.sqrt((w**2).mean()))
        return w - lr * size * (adam(state, g, t, (0.9, 0.999), 1e-8) + decay * w)

    same(moved(find("adamw_rms"), 5, falling), alone(rule, 5, falling))


def test_of_adamw_rms_a_tensor_of_zeros_moves_by_the_least_size() -> None:
    for least in (1e-3, 0.5):
        step = moved(find("adamw_rms", least_rms=least), 1)[2]
        assert np.abs(step) == pytest.approx(np.full(5, RATE * least), rel=1e-4)


def test_the_rates_of_adamw_rms_groups_are_the_schedules_after_a_step_too() -> None:
    parameters = [nn.Parameter(start) for start in starts()]
    made = find("adamw_rms").make(learned_of(parameters))
    advance(made, parameters, 0, 0.5)
    assert [group["lr"] for group in made.param_groups] == [RATE / 2, RATE / 4, RATE / 2]
    assert [len(group["params"]) for group in made.param_groups] == [1, 1, 1]


def test_adamw_rms_with_every_weight_at_1_is_adamw() -> None:
    ends = []
    for name in ("adamw", "adamw_rms"):
        parameter = nn.Parameter(torch.ones(3, 2))
        made = find(name).make([Learned("w", parameter, 0.1, 0.0, False, ())])
        parameter.grad = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.0]])
        made.step()
        ends.append(parameter.detach())
    assert torch.equal(*ends)


def test_lion_is_algorithm_2_of_its_paper() -> None:
    def rule(w: Array, state: dict[str, Any], g: Array, lr: float, decay: float, t: int) -> Array:
        before = state.get("m", np.zeros_like(w))
        state["m"] = 0.99 * before + 0.01 * g
        return w - lr * (np.sign(0.9 * before + 0.1 * g) + decay * w)

    same(moved(find("lion"), 5, falling), alone(rule, 5, falling))


def test_every_weight_moves_as_far_by_lion() -> None:
    step = moved(find("lion"), 1)[2]
    assert np.abs(step) == pytest.approx(np.full(5, RATE), rel=1e-6)
    assert np.sign(step) == pytest.approx(-np.sign(slopes(0)[2]))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_sgd_goes_along_the_gradient_and_its_momentum(momentum: float, nesterov: bool) -> None:
    def rule(w: Array, state: dict[str, Any], g: Array, lr: float, decay: float, t: int) -> Array:
        slope = g + decay * w
        state["m"] = momentum * state["m"] + slope if "m" in state else slope
        return w - lr * (slope + momentum * state["m"] if nesterov else state["m"])

    same(moved(find("sgd", momentum=momentum, nesterov=nesterov), 5, falling), alone(rule, 5, falling))


@pytest.mark.parametrize("scaled", [True, False])
def test_adafactor_is_the_papers(scaled: bool) -> None:
    """Shazeer & Stern 2018, algorithms 4 and 5; transformers' own weight decay."""

    def rule(w: Array, state: dict[str, Any], g: Array, lr: float, decay: float, t: int) -> Array:
        size = max(1e-3, math.sqrt((w**2).mean())) if scaled else 1.0
        beta, square = 1 - t**-0.8, g**2 + 1e-30
        if w.ndim > 1:
            state["r"] = beta * state.get("r", 0.0) + (1 - beta) * square.mean(1)
            state["c"] = beta * state.get("c", 0.0) + (1 - beta) * square.mean(0)
            v = np.outer(state["r"], state["c"]) / state["r"].mean()
        else:
            state["v"] = v = beta * state.get("v", 0.0) + (1 - beta) * square
        update = g / np.sqrt(v)
        update = update / max(1.0, math.sqrt((update**2).mean()))
        return w - lr * size * decay * w - lr * size * update

    same(moved(find("adafactor", scale_parameter=scaled), 5, falling), alone(rule, 5, falling))


def test_adafactor_is_transformers_with_its_options() -> None:
    from transformers.optimization import Adafactor

    options: dict[str, Any] = {"eps": (1e-28, 1e-2), "clip_threshold": 0.5, "decay_rate": -0.7, "beta1": 0.8}
    parameters = [nn.Parameter(start) for start in starts()]
    made = Adafactor(groups(learned_of(parameters)), relative_step=False, **options)
    for step in range(4):
        advance(made, parameters, step)
    ours = moved(find("adafactor", **options), 4)
    assert all(np.array_equal(one, other.detach().numpy()) for one, other in zip(ours, parameters, strict=True))


@pytest.mark.parametrize("how", ["match_rms_adamw", "original"])
def test_muon_moves_matrices_as_torchs_and_the_rest_as_adamw(how: str) -> None:
    parameters = [nn.Parameter(start) for start in starts()]
    some = learned_of(parameters)
    both = (torch.optim.Muon(groups(some[:2]), momentum=0.95, nesterov=True, adjust_lr_fn=how),
            torch.optim.AdamW(groups(some[2:]), betas=(0.9, 0.999), eps=1e-8))
    for step in range(3):
        for made in both:
            advance(made, parameters, step, falling(step))
    ours = moved(find("muon", adjust_lr_fn=how), 3, falling, hidden=True)
    same(ours, [parameter.detach().numpy().astype(np.float64) for parameter in parameters])


def test_what_is_no_matrix_of_a_layer_has_adamw_from_muon() -> None:
    same(moved(find("muon"), 3, hidden=False), moved(find("adamw"), 3))


def test_a_step_of_muon_has_singular_values_near_each_other() -> None:
    before, after = starts()[0].numpy(), moved(find("muon", adjust_lr_fn="original"), 1, hidden=True)[0]
    step = (before * (1 - RATE * DECAY) - after) / RATE / math.sqrt(4 / 3)
    values = np.linalg.svd(step, compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_says_what_is_moved_by_which() -> None:
    parameters = [nn.Parameter(start) for start in starts()]
    assert find("muon").describe(learned_of(parameters, hidden=True)) == (
        "2 matrices by Muon, 1 other tensors by AdamW")
    assert find("adamw").describe(learned_of(parameters)) == ""


def averaging(near: float, memory: float, eps: float) -> Any:
    """Defazio et al. 2024, algorithm 1, all three sequences written out; returns y."""

    def rule(w: Array, state: dict[str, Any], g: Array, lr: float, decay: float, t: int) -> Array:
        z, x = state.get("z", w), state.get("x", w)
        y = (1 - near) * z + near * x
        state["v"] = memory * state.get("v", 0.0) + (1 - memory) * g**2
        state["z"] = z - lr * (g / (np.sqrt(state["v"] / (1 - memory**t)) + eps) + decay * y)
        state["most"] = max(state.get("most", 0.0), lr)
        state["sum"] = state.get("sum", 0.0) + state["most"] ** 2
        share = state["most"] ** 2 / state["sum"] if state["sum"] else 0.0
        state["x"] = (1 - share) * x + share * state["z"]
        return (1 - near) * state["z"] + near * state["x"]

    return rule


def rising(step: int) -> float:
    return min(1.0, step / 3)


@pytest.mark.parametrize("factor", [rising, falling])
@pytest.mark.parametrize("near", [0.9, 0.5])
def test_schedule_free_is_algorithm_1_of_its_paper(factor: Any, near: float) -> None:
    same(moved(find("schedule_free", betas=(near, 0.99)), 6, factor), alone(averaging(near, 0.99, 1e-8), 6, factor))


def test_what_schedule_free_evaluates_is_the_average_and_then_the_parameters_are_what_they_were() -> None:
    parameters = [nn.Parameter(start) for start in starts()]
    optimizer, rule = find("schedule_free"), averaging(0.9, 0.999, 1e-8)
    made = optimizer.make(learned_of(parameters))
    weights, states = [start.numpy().astype(np.float64) for start in starts()], [dict[str, Any]() for _ in starts()]
    for step in range(5):
        advance(made, parameters, step)
        for i in range(3):
            weights[i] = rule(weights[i], states[i], slopes(step)[i], RATE / (1 + (i == 1)),
                              DECAY if weights[i].ndim > 1 else 0.0, step + 1)
        between = [parameter.detach().clone() for parameter in parameters]
        with optimizer.averaged(made):
            same([parameter.detach().numpy().astype(np.float64) for parameter in parameters],
                 [state["x"] for state in states])
        assert all(map(torch.equal, between, parameters))


def test_before_its_first_step_and_after_an_error_schedule_frees_parameters_are_as_they_were() -> None:
    parameters = [nn.Parameter(start) for start in starts()]
    optimizer = find("schedule_free")
    made = optimizer.make(learned_of(parameters))
    with optimizer.averaged(made):
        assert all(map(torch.equal, parameters, starts()))
    advance(made, parameters, 0)
    before = [parameter.detach().clone() for parameter in parameters]
    with pytest.raises(KeyError), optimizer.averaged(made):
        raise KeyError
    assert all(map(torch.equal, before, parameters))


def test_schedule_free_is_its_authors_package() -> None:
    package = pytest.importorskip("schedulefree")
    parameters = [nn.Parameter(start) for start in starts()]
    made = package.AdamWScheduleFree(groups(learned_of(parameters)), betas=(0.9, 0.999), eps=1e-8)
    made.train()
    for step in range(6):
        advance(made, parameters, step, rising(step))
    same(moved(find("schedule_free"), 6, rising), [p.detach().numpy().astype(np.float64) for p in parameters])


def test_means_of_8_bits_are_near_those_of_32() -> None:
    pytest.importorskip("bitsandbytes")
    same(moved(find("adamw_8bit"), 4, falling), moved(find("adamw"), 4, falling))  # too small for 8 bits
    ends = []
    for name, options in (("adamw", {}), ("adamw_8bit", {"min_8bit_size": 1})):
        parameter = nn.Parameter(torch.linspace(-1, 1, 1024).view(32, 32))
        made = find(name, **options).make([Learned("w", parameter, 1e-2, 0.0, True, ())])
        for step in range(5):
            parameter.grad = torch.cos(parameter.detach() * (step + 1))
            made.step()
        ends.append(parameter.detach())
    assert (ends[0] - ends[1]).abs().max() < 5e-3
    assert made.state[parameter]["state1"].dtype == torch.uint8


# ---- what holds for each ----


def able(name: str) -> Optimizer:
    """An optimizer, or the test is skipped where its library isn't here."""
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    return find(name)


NAMES = [*registry.names("optimizers"), "torch.optim.NAdam", "torch.optim.Adagrad"]


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_gradient_stays_and_what_has_one_of_0_may_move(name: str) -> None:
    parameters = [nn.Parameter(start) for start in starts()]
    made = able(name).make(learned_of(parameters, hidden=True))
    for step in range(3):
        for parameter, slope in zip(parameters[:2], slopes(step), strict=False):
            parameter.grad = torch.tensor(slope, dtype=torch.float32)
        parameters[2].grad = None
        made.step()
    assert torch.equal(parameters[2], starts()[2])
    assert not torch.equal(parameters[0], starts()[0])


@pytest.mark.parametrize("name", NAMES)
def test_what_waited_a_step_goes_on_from_where_it_was(name: str) -> None:
    """Two steps with a pause between them are two steps: as where two networks take turns."""
    ends = []
    for pause in (False, True):
        parameters = [nn.Parameter(start) for start in starts()]
        made = able(name).make(learned_of(parameters, hidden=True))
        for step in (0, None, 1) if pause else (0, 1):
            for i, parameter in enumerate(parameters):
                parameter.grad = None if step is None else torch.tensor(slopes(step)[i], dtype=torch.float32)
            made.step()
        ends.append(parameters)
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_to_the_bit_from_what_it_saves_as_plain_tensors(name: str, tmp_path: Any) -> None:
    def fresh(at: Sequence[torch.Tensor]) -> tuple[list[nn.Parameter], Any]:
        parameters = [nn.Parameter(start.clone()) for start in at]
        return parameters, able(name).make(learned_of(parameters, hidden=True))

    parameters, made = fresh(starts())
    for step in range(2):
        advance(made, parameters, step, falling(step))
    torch.save(made.state_dict(), tmp_path / "optimizer.pt")
    others, again = fresh([parameter.detach() for parameter in parameters])
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for step in (2, 3):
        advance(made, parameters, step, falling(step))
        advance(again, others, step, falling(step))
    assert all(map(torch.equal, parameters, others))


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_no_more_than_it_says(name: str) -> None:
    """For a matrix of 256 x 256: by this a run knows whether disk and memory have room."""
    parameter = nn.Parameter(torch.linspace(-1, 1, 65536).view(256, 256))
    optimizer = able(name)
    made = optimizer.make([Learned("w", parameter, 1e-3, 0.0, True, ())])
    parameter.grad = torch.cos(parameter.detach())
    made.step()
    kept = sum(value.nbytes for state in made.state.values() for value in state.values()
               if isinstance(value, torch.Tensor))
    assert kept <= optimizer.states * parameter.nbytes + 4096
    if "." not in name:
        assert kept >= 0.5 * optimizer.states * parameter.nbytes - 16_384


@pytest.mark.parametrize("name", NAMES)
def test_with_nothing_to_move_or_a_rate_of_0_nothing_moves(name: str) -> None:
    assert able(name).factor > 0
    parameters = [nn.Parameter(start) for start in starts()]
    made = able(name).make(learned_of(parameters, hidden=True))
    advance(made, parameters, 0, factor=0.0)
    assert all(map(torch.equal, parameters, starts()))


def test_several_optimizers_in_one_refuse_the_state_of_others() -> None:
    parameters = [nn.Parameter(start) for start in starts()]
    both = find("muon").make(learned_of(parameters, hidden=True))
    one = find("muon").make(learned_of(parameters, hidden=False))
    with pytest.raises(ValueError, match="there are 2 optimizers in one, and 1 were saved"):
        both.load_state_dict(one.state_dict())
    with pytest.raises(KeyError):
        both.load_state_dict(find("adamw").make(learned_of(parameters)).state_dict())
    advance(both, parameters, 0)
    assert len(both.state) == 3
    both.zero_grad()
    assert [parameter.grad for parameter in parameters] == [None, None, None]
