"""How long a run is, and its learning rate at each step: against the formulas, by hand."""

import math

import pytest

from llmkit import recipe as recipes
from llmkit.recipe import Training
from llmkit.system.errors import RequestError
from llmkit.training.schedule import Length, schedule, weights
from llmkit.training.state import State


def plan(**fields) -> Training:
    return Training(global_batch_size=8, learning_rate=1.0, **fields)


def rates(training: Training, steps: int, rows: int = 80) -> list[float]:
    factor = schedule(training, Length(training, rows))
    return [factor(State(step=step)) for step in range(steps)]


def test_a_run_of_steps_ends_after_them():
    length = Length(plan(max_steps=4), 80)
    assert [length.done(State(step=step)) for step in range(6)] == [False, False, False, False, True, True]
    assert [length.share(State(step=step)) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("epochs", "rows", "steps"), [
    (1, 80, 10), (2, 80, 20), (0.5, 80, 5), (1, 81, 11), (0.01, 80, 1), (3, 7, 3)])
def test_passes_over_the_rows_become_whole_steps(epochs, rows, steps):
    assert Length(plan(num_train_epochs=epochs), rows).steps == steps


def test_a_run_of_tokens_ends_by_them_and_one_of_minutes_by_the_shared_clock():
    tokens, minutes = Length(plan(max_tokens=1000), 80), Length(plan(max_minutes=2), 80)
    assert (tokens.steps, minutes.steps) == (None, None)
    assert tokens.share(State(step=99, tokens=250)) == 0.25
    assert tokens.done(State(tokens=1000))
    assert minutes.share(State(seconds=1e9, agreed=30.0)) == 0.25  # what this process alone counted decides nothing
    assert minutes.done(State(agreed=120.0))


def test_epochs_are_rows_seen_over_rows_there_are():
    assert Length(plan(max_steps=100), 80).epochs(State(step=15)) == 1.5


def test_linear_falls_to_nothing_after_its_warm_up():
    assert rates(plan(max_steps=8, warmup_steps=2), 9) == pytest.approx(
        [0, 1 / 2, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_a_warm_up_below_one_is_a_share_of_all_steps():
    assert rates(plan(max_steps=8, warmup_steps=0.25), 8) == rates(plan(max_steps=8, warmup_steps=2), 8)


def test_cosine_is_half_a_wave():
    expected = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert rates(plan(max_steps=10, lr_scheduler_type="cosine"), 10) == pytest.approx(expected)


def test_cosine_ends_at_the_least_rate_that_is_given():
    training = plan(max_steps=10, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1})
    found = rates(training, 11)
    assert (found[0], found[10]) == (pytest.approx(1.0), pytest.approx(0.1))
    assert found[5] == pytest.approx(0.1 + 0.9 * 0.5)


def test_constant_stays():
    assert rates(plan(max_steps=3, lr_scheduler_type="constant"), 3) == [1.0, 1.0, 1.0]


def test_inverse_square_root_falls_from_the_end_of_its_warm_up():
    found = rates(plan(max_steps=100, lr_scheduler_type="inverse_sqrt", warmup_steps=4), 17)
    assert found[4] == pytest.approx(1.0)
    assert found[16] == pytest.approx(math.sqrt(4 / 16))


def test_a_run_of_tokens_goes_through_the_schedule_by_its_share():
    training = plan(max_tokens=1000)
    factor = schedule(training, Length(training, 80))
    assert [factor(State(step=step, tokens=250 * step)) for step in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])


def test_its_warm_up_counts_steps_where_they_are_steps():
    training = plan(max_tokens=1000, warmup_steps=4, lr_scheduler_type="constant")
    factor = schedule(training, Length(training, 80))
    assert [factor(State(step=step)) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_options_that_a_schedule_does_not_have_are_a_wrong_request():
    training = plan(max_steps=3, lr_scheduler_type="cosine", lr_scheduler_kwargs={"circles": 2})
    with pytest.raises(RequestError, match=r"training\.lr_scheduler_kwargs: .*circles"):
        schedule(training, Length(training, 80))


def test_weights_are_those_of_all_sources_or_of_none():
    tree = {"backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {}}, "objective": "masked_lm"}
    assert weights(recipes.load({**tree, "data": {"train": ["a.txt", "b.txt"]}})) is None
    sources = [{"source": "a.txt", "weight": 3}, {"source": "b.txt", "weight": 0.5}]
    assert weights(recipes.load({**tree, "data": {"train": sources}})) == [3.0, 0.5]


@pytest.mark.parametrize(("fields", "now", "since", "seconds"), [
    # 40 of 100 steps in 80 s by a slow machine, then 10 in 5 s by a quick one: 50 are left
    ({"max_steps": 100}, State(step=50, seconds=85.0), State(step=40, seconds=80.0), 25.0),
    ({"max_steps": 100}, State(step=50, seconds=25.0), State(), 25.0),
    ({"max_steps": 100}, State(step=100, seconds=90.0), State(step=40, seconds=80.0), 0.0),
    ({"max_tokens": 1000}, State(tokens=600, seconds=110.0), State(tokens=500, seconds=100.0), 40.0),
    ({"max_minutes": 2}, State(seconds=60.0, agreed=60.0), State(seconds=30.0, agreed=30.0), 60.0)])
def test_what_is_left_is_told_by_the_pace_of_this_process(fields, now, since, seconds):
    assert Length(plan(**fields), 80).left(now, since) == pytest.approx(seconds)


def test_before_a_step_is_made_nobody_knows_what_is_left():
    begun = State(step=40, seconds=80.0)
    assert Length(plan(max_steps=100), 80).left(begun, begun) == 0.0
