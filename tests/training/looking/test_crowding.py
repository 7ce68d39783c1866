"""Other programs on the cores of a run: said once, of the first seconds of its steps, and nothing where it is alone."""

import pytest
import torch

from llmkit.training.looking import crowding
from llmkit.training.looking.crowding import Crowding


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_steps_that_mostly_wait_for_a_core_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = Crowding(on=True)
    for _ in range(10):
        if watch.on:
            watch.add(1.5, 0.4)
    assert caplog.messages == [
        "steps of 6.0 s had a core for only 1.6 s of that: other programs work on the same cores, and 2 threads wait "
        "for each other; fewer may be faster: OMP_NUM_THREADS=1"]


def test_a_run_that_has_its_cores_hears_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watch = Crowding(on=True)
    for own in (1.5, 1.4, 0.7, 1.5):
        watch.add(1.5, own)
    assert (watch.on, caplog.messages) == (False, [])


def test_a_short_run_is_too_short_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    Crowding(on=True).add(4.9, 0.1)
    assert caplog.messages == []


def test_one_thread_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not Crowding(on=True).on


def test_the_first_step_is_not_looked_at_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    walls, owns = iter([0.0, 10.0, 11.0, 20.0, 22.5]), iter([0.0, 5.0, 5.5, 6.0, 7.0])
    monkeypatch.setattr(crowding.time, "monotonic", lambda: next(walls))
    monkeypatch.setattr(crowding.time, "thread_time", lambda: next(owns))
    watch = Crowding(on=True)
    for _ in range(3):
        with watch:
            pass
    monkeypatch.undo()
    assert (watch.wall, watch.own) == (3.5, 1.5)
