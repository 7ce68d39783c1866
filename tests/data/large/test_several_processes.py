"""Several processes share the work: the results are in the order of the tasks, and the files are the same."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data import tokens
from llmkit.data.large import coding, cutting
from llmkit.data.large.working import in_order, several
from llmkit.data.sources import open_source
from llmkit.data.swapping.pairs import read_swaps
from llmkit.recipe import Source
from llmkit.system import machine
from llmkit.system.errors import DataError, RequestError

forks = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux only")


@forks
def test_results_come_in_the_order_of_the_tasks_from_other_processes():
    found = list(in_order(lambda task: (task * task, os.getpid()), range(23), 3))
    assert [(task, square) for task, (square, _) in found] == [(i, i * i) for i in range(23)]
    assert len({process for _, (_, process) in found}) == 3
    assert os.getpid() not in {process for _, (_, process) in found}


def test_one_process_is_this_one():
    assert list(in_order(lambda task: os.getpid(), "ab", 1)) == [("a", os.getpid()), ("b", os.getpid())]


@forks
def test_what_is_large_on_both_ways_stops_nobody():
    """Pipes hold 64 KB: one who only writes waits for ever for another who only writes."""
    found = list(in_order(lambda task: task * 2, ["x" * 500_000] * 12, 2))
    assert all(len(result) == 1_000_000 for _, result in found)
    assert len(found) == 12


def fails(task: int) -> int:
    if task == 5:
        raise DataError("the fifth")
    return task


@forks
def test_what_goes_wrong_there_is_raised_here_after_what_came_before():
    results = in_order(fails, range(9), 2)
    assert [next(results)[1] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="the fifth"):
        next(results)


@forks
@pytest.mark.parametrize("processes", [1, 2])
def test_what_goes_wrong_with_the_tasks_is_raised_after_the_results_before_it(processes):
    def tasks():
        yield from range(5)
        raise DataError("no more")

    found = []
    with pytest.raises(DataError, match="no more"):
        found.extend(in_order(lambda task: task + 1, tasks(), processes))
    assert [result for _, result in found] == [1, 2, 3, 4, 5]


@forks
def test_who_is_free_gets_the_next_task(tmp_path):
    """One process waits until the others did all but what it was given at the start."""
    def work(task: int) -> int:
        if task == 0:
            while not (tmp_path / "12").exists():
                time.sleep(0.01)
        (tmp_path / str(task)).touch()
        return os.getpid()

    slow, *others = (process for _, process in in_order(work, range(14), 4))
    assert others.count(slow) <= 1


def dies(task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


@forks
def test_a_process_that_the_system_ends_is_said_with_the_way_out():
    with pytest.raises(RequestError, match=r"data\.num_proc: one of 2 processes was ended.*status -9.*num_proc 1"):
        list(in_order(dies, range(9), 2))


@forks
def test_nobody_is_left_when_the_work_is_given_up():
    it = in_order(lambda task: os.getpid(), range(100), 2)
    processes = {next(it)[1] for _ in range(2)}
    it.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@forks
def test_a_process_that_is_ended_says_nothing_though_the_run_has_a_handler(capfd):
    def stop(number, frame):
        raise RuntimeError("the run's own handler")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        hands = in_order(lambda task: time.sleep(0.1) or os.getpid(), range(9), 2)
        _, process = next(hands)
        os.kill(process, signal.SIGTERM)
        with pytest.raises(RequestError, match="was ended by the system"):
            list(hands)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""


def test_auto_is_one_process_for_a_text_that_is_not_worth_more(monkeypatch):
    monkeypatch.setattr("llmkit.data.large.working.cores", lambda: 6)
    assert several("auto", 100_000) == 1
    assert several("auto", 20_000_000) == (6 if sys.platform == "linux" else 1)
    assert several(3, 10) == (3 if sys.platform == "linux" else 1)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 3), ("150000 100000", 2), ("50000 100000", 1),
                                              ("900000 100000", 3)])
def test_cores_are_those_that_a_container_may_use(quota, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert machine.cores(tmp_path / "cpu.max") == cores


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words in two alphabets, control tokens, an odd sign, and a document longer than a piece."""
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    odd = ["[MASK] the 猫 ☃ saw he .", "今天下雨。“真的？”他问；没人回答", " ".join(stories(40, 3))]
    lines = [*stories(150), *odd, *stories(60, 4)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(300), "wordpiece", 200)


@forks
@pytest.mark.parametrize("how", ["plain", "split", "words", "sentences", "swapped"])
def test_the_files_are_the_same_to_the_byte_for_any_processes(how, corpus, wordpiece, tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "BATCH", 1000)
    monkeypatch.setattr(cutting, "SIZE", 1500)
    monkeypatch.setattr(coding, "PIECE", 700)
    made = {}
    for processes in (1, 3):
        reader = open_source(Source(str(corpus)))
        if how in ("words", "sentences"):
            reader, = tokens.marked([reader], **({"words": "tokenizer"} if how == "words" else {"sentences": "auto"}))
        if how == "swapped":
            reader.swaps = read_swaps("builtin:gender", "both")
        reader.num_proc = processes
        folder = tmp_path / str(processes)
        folder.mkdir()
        tokens.write(reader, wordpiece, folder, how == "split")
        made[processes] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert made[1] == made[3]
    assert set(made[1]) >= {"ids.bin", "offsets.npy", "digests.npy", "about.json"}
    assert ("sentences.npy" in made[1]) == (how == "sentences")
    assert ("own.npy" in made[1]) == (how == "swapped")
