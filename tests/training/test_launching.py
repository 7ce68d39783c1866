"""Processes of a launch: all are waited for, and one that somebody killed is named with its signal."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmkit.system.errors import RequestError, Stopped
from llmkit.training.folder.ending import ended
from llmkit.training.spread import launch

SLEEPS = "import time; time.sleep(60)"


def started(*codes: str) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
            for code in codes]


def killing(number: str) -> str:
    """A program that ends by a signal, as if somebody had killed it."""
    return f"import os, signal; os.kill(os.getpid(), signal.{number})"


@pytest.mark.parametrize(("codes", "status"), [
    (("", ""), 0), (("raise SystemExit(3)",), 3), (("", "raise SystemExit(4)"), 4),
    ((SLEEPS, "raise SystemExit(5)"), 5),
    (("raise SystemExit(2)", SLEEPS), 2), ((killing("SIGKILL"),), 137), ((SLEEPS, killing("SIGTERM")), 143)])
def test_the_status_is_that_of_the_first_that_failed_and_nobody_is_left(codes: tuple[str, ...], status: int) -> None:
    children = started(*codes)
    began = time.monotonic()
    assert launch.wait(children) == status
    assert time.monotonic() - began < 30
    assert all(child.poll() is not None for child in children)


@pytest.mark.parametrize(("codes", "killed"), [
    (("", ""), []), ((SLEEPS, "raise SystemExit(5)"), []), ((SLEEPS, killing("SIGKILL")), [1]),
    ((killing("SIGSEGV"), SLEEPS), [0]), (("", "", killing("SIGKILL")), [2])])
def test_what_somebody_else_killed_is_told_and_what_was_ended_then_is_not(
    codes: tuple[str, ...], killed: list[int],
) -> None:
    found: list[int] = []
    launch.wait(started(*codes), found)
    assert found == killed


@pytest.mark.parametrize(("number", "said"), [
    ("SIGKILL", "was killed by SIGKILL, as a machine does that is out of memory; the others were ended."),
    ("SIGSEGV", "was killed by SIGSEGV; the others were ended."),
    ("SIGABRT", "was killed by SIGABRT; the others were ended.")])
def test_the_process_and_the_signal_are_named(number: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[subprocess.Popen[bytes]] = []

    def start(command: Any, variables: dict[str, str], sink: Any = None) -> subprocess.Popen[bytes]:
        made.extend(started(killing(number) if variables["RANK"] == "1" else SLEEPS))
        return made[-1]

    monkeypatch.setattr(launch, "start", start)
    with pytest.raises(Stopped) as error:
        launch.launch(["pretrain", "x.yaml"], 3)
    assert error.value.status == 128 + signal.Signals[number]
    assert str(error.value) == (f"process 1 of 0 to 2 (pid {made[1].pid}) {said} "
                                "The same command goes on from the last checkpoint")


def test_the_folder_of_the_run_says_it_too_where_a_run_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first process said of a connection that broke is written over."""
    monkeypatch.setattr(launch, "start", lambda command, variables, sink=None: started(
        killing("SIGKILL") if variables["RANK"] == "1" else SLEEPS)[0])
    for name in ("nothing", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"event": "train", "step": 1, "loss": 2.0}\n')
    (tmp_path / "run" / "status.json").write_text(ended(1, "another process of this run ended before this one"))
    (tmp_path / "run" / ".lock").write_text("")
    for name in ("nothing", "run"):
        with pytest.raises(Stopped) as error:
            launch.launch(["pretrain", "x.yaml"], 2, (), tmp_path / name)
    said = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (said["status"], said["message"], said["process"]) == (137, str(error.value), 1)
    assert list((tmp_path / "nothing").iterdir()) == []


def test_each_process_knows_which_one_it_is() -> None:
    said = launch._variables(1, 2, 4711)
    assert {name: said[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")} == {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "4711"}
    assert said["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("processes", [0, -1])
def test_less_than_one_process_is_refused(processes: int) -> None:
    with pytest.raises(RequestError, match=f"--processes {processes}: at least 1"):
        launch.check(processes)
