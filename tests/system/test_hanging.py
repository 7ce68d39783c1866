"""A signal that the processes of a run can't agree on, for one of them is gone: after a while the others leave."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llmkit.system import signals
from llmkit.system.signals import Stopping


@contextmanager
def watched(state: Stopping, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, list[tuple[int, str]]]]:
    """What sends signals to a watcher, and what the program was ended with."""
    left: list[tuple[int, str]] = []
    monkeypatch.setattr(state, "quit", lambda number, said: (left.append((number, said)), state.agreed.set()))
    ear, mouth = socket.socketpair()
    thread = threading.Thread(target=state.watch, args=(ear,), daemon=True)
    thread.start()
    yield mouth, left
    mouth.send(b"\0")
    thread.join(10)
    assert not thread.is_alive()
    mouth.close()
    ear.close()


def heard(state: Stopping, mouth: socket.socket, number: signal.Signals) -> None:
    """As the kernel and Python do it: the wakeup byte and the handler."""
    mouth.send(bytes([number]))
    state.by = number


def test_processes_that_do_not_agree_on_a_signal_leave_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Stopping()
    state.train(together=True)
    assert state.within == signals.HANGS
    state.within = 0.2
    with watched(state, monkeypatch) as (mouth, left):
        heard(state, mouth, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not left and time.monotonic() < deadline:
            time.sleep(0.02)
    assert left == [(signal.SIGTERM, "stopped by SIGTERM at once, for the other processes didn't answer for 0.2 s; the "
                                     "same command goes on from the last checkpoint")]


@pytest.mark.parametrize(("together", "agreed"), [(True, True), (False, False)])
def test_who_agrees_or_is_alone_may_save_for_as_long_as_it_takes(
    together: bool, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Stopping()
    state.train(together)
    state.within = 0.1 if together else state.within
    if agreed:
        state.agreed.set()
    with watched(state, monkeypatch) as (mouth, left):
        heard(state, mouth, signal.SIGTERM)
        time.sleep(1.3)
    assert left == []


def test_slow_steps_have_the_time_of_three_of_them() -> None:
    alone, together = Stopping(), Stopping()
    alone.train()
    together.train(together=True)
    for state in (alone, together):
        state.paced(50.0)
        state.paced(1.0)
    assert alone.within is None
    assert together.within == 150.0


def test_what_ends_in_the_middle_of_a_call_says_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    state = Stopping()
    state.leave = lambda status, said: told.append((status, said))
    monkeypatch.setattr(signals.os, "_exit", told.append)
    monkeypatch.setattr(signals.terminal, "err", told.append)
    monkeypatch.delenv("RANK", raising=False)
    state.quit(signal.SIGTERM, "stopped by SIGTERM at once")
    assert told == [(75, "stopped by SIGTERM at once"), "llmkit: error: stopped by SIGTERM at once", 75]
