"""Where processes meet before they are connected: here they are threads, which share a store in memory."""

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmkit.system.errors import DataError, LlmkitError, PlaceError, RequestError, Stopped
from llmkit.training.spread import first as firsts
from llmkit.training.spread import meeting as meetings
from llmkit.training.spread.meeting import Meeting, _not_met, introduced


class Store:
    """What a TCPStore does, among threads."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.gone = False

    def set(self, name: str, value: str) -> None:
        self.answer()
        self.kept[name] = value.encode()

    def get(self, name: str) -> bytes:
        self.answer()
        return self.kept[name]

    def check(self, names: list[str]) -> bool:
        self.answer()
        return all(name in self.kept for name in names)

    def compare_set(self, name: str, before: str, value: str) -> None:
        self.answer()
        if self.kept.get(name, b"").decode() == before:
            self.kept[name] = value.encode()

    def answer(self) -> None:
        if self.gone:
            raise torch.distributed.DistNetworkError("Connection was likely closed")


def all_of(processes: int, act: Callable[[Meeting], Any], patience: float = 20) -> list[Any]:
    """What each process comes to: what it returns, or the error that ends it."""
    store, came = Store(), dict[int, Any]()

    def run(rank: int) -> None:
        meeting = Meeting(store, rank, processes, patience)
        try:
            with meeting.first, meeting.living():
                came[rank] = act(meeting)
        except BaseException as error:
            came[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a process waits for ever"
    return [came[rank] for rank in range(processes)]


def test_all_get_what_the_first_makes_of_what_all_say() -> None:
    assert all_of(3, lambda meeting: meeting.decide("sizes", 8 - meeting.rank, min)) == [6, 6, 6]
    assert all_of(2, lambda meeting: meeting.decide("names", ["a", None][meeting.rank], list)) == [["a", None]] * 2


def test_one_process_decides_alone() -> None:
    assert Meeting().decide("sizes", 8, min) == 8
    Meeting().everyone("ready")


def test_a_slow_process_is_waited_for_longer_than_the_patience_as_long_as_it_lives(
    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meetings, "SIGN", 0.05)

    def act(meeting: Meeting) -> float:
        if meeting.rank == 1:
            time.sleep(1.0)  # tokenizes
        meeting.everyone("ready")
        return time.monotonic()

    began = time.monotonic()
    ends = all_of(2, act, patience=0.3)
    assert all(isinstance(end, float) and end - began >= 1.0 for end in ends), ends


def test_a_process_that_gives_no_sign_of_life_is_named() -> None:
    store = Store()
    store.set("life/1", "4 node1")
    meeting = Meeting(store, 0, 2, 0.3)
    with pytest.raises(PlaceError) as told:
        meeting.everyone("ready")
    assert str(told.value) == ("process 1 on node1 gave no sign of life for 0.3 s (training.ddp_timeout): it, its "
                               "machine, or the network between is gone.")


def test_a_judgement_that_is_an_error_ends_all_with_it_and_one_tells_it() -> None:
    def judge(every: list[Any]) -> None:
        raise RequestError(f"{every} differ")

    came = all_of(3, lambda meeting: meeting.decide("recipe", meeting.rank, judge))
    assert [(type(error), str(error), error.heard) for error in came] == [
        (RequestError, "[0, 1, 2] differ", False), (RequestError, "[0, 1, 2] differ", True),
        (RequestError, "[0, 1, 2] differ", True)]


@pytest.mark.parametrize("failing", [0, 1])
def test_who_waits_hears_at_once_why_another_fails(failing: int) -> None:
    def act(meeting: Meeting) -> None:
        if meeting.rank == failing:
            raise DataError("a.txt: no such file or folder.")
        meeting.everyone("ready")

    began = time.monotonic()
    came = all_of(2, act)
    assert time.monotonic() - began < 2
    assert str(came[failing]) == "a.txt: no such file or folder."
    assert (type(came[1 - failing]), str(came[1 - failing])) == (
        DataError, f"process {failing}: a.txt: no such file or folder.")
    assert came[1 - failing].heard


def test_a_launchers_signal_after_an_error_of_another_is_told_as_that_error() -> None:
    store = Store()
    store.set(firsts.KEY, "1 3 a.txt: is empty.")
    with pytest.raises(DataError, match=r"process 1: a\.txt: is empty"), Meeting(store, 2, 3, 9).first:
        raise Stopped("stopped by SIGTERM before the first step", 75)
    with pytest.raises(Stopped), Meeting(Store(), 2, 3, 9).first:
        raise Stopped("stopped by SIGTERM before the first step", 75)


def test_a_store_that_is_gone_is_told() -> None:
    store = Store()
    meeting = Meeting(store, 1, 2, 9)
    store.gone = True
    with pytest.raises(LlmkitError, match="another process of this run ended before this one"):
        meeting.everyone("ready")


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation"


def test_waiting_in_vain_is_an_error_of_the_place_with_the_field_that_says_how_long() -> None:
    with pytest.raises(PlaceError, match=re.escape(
            "the other processes didn't answer within 8 s (training.ddp_timeout): one of them is slower than that, "
            "hangs, or can't be reached.")), Meeting(Store(), 1, 2, 8).first:
        raise RuntimeError(GLOO)


def test_of_two_that_wait_in_vain_or_break_the_first_is_told() -> None:
    store = Store()
    with pytest.raises(PlaceError), Meeting(store, 1, 2, 8).first, Meeting(store, 1, 2, 8).first:
        raise RuntimeError(GLOO)
    with pytest.raises(PlaceError, match="process 1: the other processes didn't answer"), Meeting(store, 0, 2, 8).first:
        raise RuntimeError("gloo: Connection closed by peer")


def introducing(store: Store, processes: int, late: float = 0.0) -> list[str]:
    """The names that processes agree on, of which the last comes late."""
    found = dict[int, str]()

    def run(rank: int) -> None:
        time.sleep(late if rank == processes - 1 else 0)
        found[rank] = introduced(store, rank, processes, 20)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a process waits for ever"
    return [found[rank] for rank in range(processes)]


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_processes_that_are_started_anew_with_the_same_store_meet_under_a_new_name(late: float) -> None:
    """torchrun keeps its store when it restarts processes, with all that the dead ones said."""
    store = Store()
    names = [introducing(store, 3, late) for _ in range(3)]
    assert [len(set(each)) for each in names] == [1, 1, 1]
    assert len({each[0] for each in names}) == 3


def test_a_process_that_does_not_come_is_named() -> None:
    with pytest.raises(PlaceError, match=r"process 1, 2 didn't come within 0\.2 s \(training\.ddp_timeout\)"):
        introduced(Store(), 0, 3, 0.2)
    with pytest.raises(PlaceError, match="process 0, or another one, didn't come"):
        introduced(Store(), 1, 3, 0.2)


def test_a_connection_that_breaks_while_nobody_said_why_is_no_unforeseen_error() -> None:
    with pytest.raises(LlmkitError, match=r"another process of this run ended before this one; .* \(here: gloo: C"), \
            Meeting(Store(), 1, 2, 8).first:
        raise RuntimeError("gloo: Connection closed by peer")


@pytest.mark.parametrize(("said", "told"), [
    ("Timed out after 21 seconds waiting for clients. 1/2 clients joined.",
     "1 of 2 processes came together at node0:29500 within 20 s (training.ddp_timeout)."),
    ("The client socket has timed out after 20000ms while trying to connect to (node0, 29500).",
     "can't reach the first one at node0:29500 within 20 s"),
    ("The server socket has failed to listen on any local network address. EADDRINUSE: address already in use",
     "node0:29500: another program listens there; give another port")])
def test_processes_that_do_not_come_together_say_where(said: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert told in _not_met(said, 20)


def test_a_program_that_listens_and_says_nothing_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meetings, "LONGER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = str(mute.getsockname()[1])
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "1", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PlaceError, match=rf"127\.0\.0\.1:{port}: what listens there doesn't answer as a run does"):
            meetings._reached(0.3)
