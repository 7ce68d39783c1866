"""What a run writes of its losses: jumps are told, and none is where there is none."""

import numpy as np
import pytest

from llmkit.training.log import FEWEST_LOSSES, JUMP, deviations

STEADY = [2.0 + 0.01 * (-1) ** i for i in range(32)]
"""Mean 2, standard deviation .01."""


def test_a_loss_six_deviations_above_those_before_it_is_a_jump():
    assert deviations(2.0 + 0.061, STEADY) == pytest.approx(6.1)
    assert deviations(2.0 + 0.059, STEADY) is None


def test_a_loss_that_falls_is_none():
    assert deviations(0.1, STEADY) is None


def test_few_losses_say_nothing():
    assert deviations(100.0, STEADY[: FEWEST_LOSSES - 1]) is None
    assert deviations(100.0, STEADY[:FEWEST_LOSSES]) is not None


def test_losses_that_do_not_move_have_a_least_spread():
    """A thousandth of the mean: rounding is no jump."""
    flat = [2.0] * 32
    assert deviations(2.0 + 1e-6, flat) is None
    assert deviations(2.0 + 0.0121, flat) == pytest.approx(6.05)


def test_losses_of_nothing_are_no_division_by_nothing():
    assert deviations(0.0, [0.0] * 32) is None
    assert deviations(1.0, [0.0] * 32) == pytest.approx(1e12)


def test_noise_hardly_ever_is_one():
    """Of 20,000 normal losses, six deviations above: about none; three would be 27."""
    rng = np.random.default_rng(0)
    losses = rng.normal(3.0, 0.1, 20_000)
    jumps = [i for i in range(128, len(losses)) if deviations(float(losses[i]), losses[i - 128:i].tolist()) is not None]
    assert len(jumps) <= 1
    assert JUMP == 6.0
