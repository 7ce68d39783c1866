"""Checkpoints that are written while the run goes on: the same ones, whole or absent, whatever happens meanwhile."""

import errno
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Child, tiny
from reliability import runs

import llmkit
from llmkit.system.errors import LlmkitError, PlaceError, Stopped
from llmkit.training.folder import run_folder
from llmkit.training.folder.aside import Aside
from llmkit.training.spread import ddp

SAVES = ["step-00000002", "step-00000004", "step-00000006"]


# ---- the thread ----


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_waited_for():
    aside = Aside()

    def fails() -> None:
        raise PlaceError("the disk is full")

    aside.start(1, fails)
    with pytest.raises(PlaceError, match="the disk is full"):
        aside.end()
    assert not aside.busy


def test_one_is_begun_only_when_the_end_of_the_one_before_was_heard():
    aside, go = Aside(), threading.Event()
    assert (aside.busy, aside.over) == (False, False)
    aside.start(5, go.wait)
    assert (aside.busy, aside.over) == (True, False)
    with pytest.raises(TimeoutError, match=r"after 0\.01 s"):
        aside.end(0.01)
    with pytest.raises(RuntimeError, match="step 5"):
        aside.start(6, go.wait)
    go.set()
    aside.end()
    aside.start(6, go.wait)
    aside.end()


def test_a_run_that_fails_says_that_a_checkpoint_does_not_come(caplog: pytest.LogCaptureFixture):
    aside = Aside()

    def fails() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    aside.start(7, fails)
    with caplog.at_level(logging.WARNING, "llmkit"):
        aside.leave()
    assert "the checkpoint after step 7 isn't there: [Errno 28] No space left on device" in caplog.text


# ---- runs ----


class Watch(llmkit.Callback):
    """Notes what a run tells, and does something after a step."""

    def __init__(self, **acts: Callable[[], None]) -> None:
        self.acts = acts
        self.told: list[str] = []

    def on_step(self, view: Any) -> None:
        self.told.append(f"step {view.step}")
        self.acts.get(f"after_{view.step}", lambda: None)()

    def on_save(self, view: Any, folder: Path) -> None:
        self.told.append(folder.name)

    def on_end(self, view: Any, summary: Any) -> None:
        self.told.append(summary["status"])


def recipe(text: Path, folder: Path, beside: bool = True, **training: Any) -> dict[str, Any]:
    """Six steps with dropout, a checkpoint after each second; the best weights are kept beside the last."""
    plan = {"max_steps": 6, "save_steps": 2, "save_total_limit": 9, "eval_steps": 1, "metric_for_best_model": "loss",
            "async_save": beside, **training}
    made = tiny("gpt2", text, folder, **plan)
    made["data"]["validation"] = 0.1
    return made


@pytest.fixture(scope="module")
def usual(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that waits for its checkpoints."""
    folder = tmp_path_factory.mktemp("usual") / "run"
    llmkit.fit(recipe(text, folder, beside=False))
    return folder


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[threading.Event], None]:
    """`slow(event)`: what is written beside the loop waits for an event before its first byte."""
    def make(event: threading.Event) -> None:
        write = ddp.write

        def waits(*given: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                assert event.wait(60)
            write(*given)

        monkeypatch.setattr(ddp, "write", waits)

    return make


def contents(run: Path) -> dict[str, Any]:
    """What each checkpoint holds, the state of the loop without its clock; and the lines of metrics.jsonl."""
    found: dict[str, Any] = {"events": [{name: value for name, value in event.items() if name not in runs.TIMED}
                                        for event in runs.events(run, None)]}
    for folder in runs.checkpoints(run):
        checkpoint = run_folder.verify(folder)
        found[folder.name] = runs.digests_of(folder), checkpoint.manifest["recipe"]["training"]["max_steps"], {
            name: value for name, value in checkpoint.state.items() if name not in CLOCKS}
    return found


CLOCKS = ("seconds", "waited", "agreed", "wall", "window")


def test_what_is_saved_is_the_state_of_its_step_whatever_the_steps_after_it_change(
    text: Path, tmp_path: Path, usual: Path, slow: Callable[..., None],
) -> None:
    """The checkpoint of step 2 is written after step 3, the next after step 5: bit for bit those of the usual run."""
    go = threading.Event()
    slow(go)
    watch = Watch(after_3=go.set, after_4=go.clear, after_5=go.set)
    llmkit.fit(recipe(text, tmp_path / "run"), callbacks=[watch])
    assert [folder.name for folder in runs.checkpoints(tmp_path / "run")] == SAVES
    assert contents(tmp_path / "run") == contents(usual)
    assert watch.told.index("step-00000002") > watch.told.index("step 3")
    assert [name for name in watch.told if name.startswith("step-")] == SAVES
    assert watch.told[-2:] == ["step-00000006", "completed"]


def test_a_second_checkpoint_waits_for_the_first_and_that_is_said(
    text: Path, tmp_path: Path, slow: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()
    slow(go)
    monkeypatch.setattr("llmkit.training.folder.saving.SLOW", 0.0)
    watch = Watch(after_4=lambda: threading.Timer(0.3, go.set).start())
    with caplog.at_level(logging.WARNING, "llmkit"):
        llmkit.fit(recipe(text, tmp_path / "run"), callbacks=[watch])
    assert watch.told.index("step-00000002") == watch.told.index("step 4") + 1
    assert "s for the checkpoint after step 2, which was still being written; a larger training.save_steps" in (
        caplog.text)


def test_a_full_disk_ends_the_run_at_the_next_step_with_6_and_leaves_no_half(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(folder: Path, *given: Any) -> None:
        (folder / "half").write_bytes(b"half")
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "half"))

    monkeypatch.setattr(ddp, "write", full)
    watch = Watch()
    with pytest.raises(PlaceError, match=r"No space left on device. What was saved before is whole") as told:
        llmkit.fit(recipe(text, tmp_path / "run"), callbacks=[watch])
    assert told.value.status == 6
    assert watch.told[-1] == "failed"
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert runs.summary(tmp_path / "run")["status"] == "failed"


def test_a_run_that_fails_leaves_the_checkpoint_that_was_on_its_way(
    text: Path, tmp_path: Path, usual: Path, slow: Callable[..., None],
) -> None:
    go = threading.Event()
    slow(go)

    def fails() -> None:
        threading.Timer(0.2, go.set).start()
        raise LlmkitError("something else")

    with pytest.raises(LlmkitError, match="something else"):
        llmkit.fit(recipe(text, tmp_path / "run"), callbacks=[Watch(after_3=fails)])
    there = contents(tmp_path / "run")
    assert SAVES[0] in there
    assert SAVES[1] not in there
    assert there[SAVES[0]] == contents(usual)[SAVES[0]]
    llmkit.fit(recipe(text, tmp_path / "run"), resume="must")
    assert contents(tmp_path / "run") == contents(usual)


def test_a_signal_waits_for_both_checkpoints(
    text: Path, tmp_path: Path, usual: Path, slow: Callable[..., None],
) -> None:
    """SIGTERM after step 3, while the checkpoint after step 2 is written: that one and the one of step 3 are whole."""
    go = threading.Event()
    slow(go)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(0.2, go.set).start()

    with pytest.raises(Stopped) as told:
        llmkit.fit(recipe(text, tmp_path / "run"), callbacks=[Watch(after_3=stop)])
    assert told.value.status == 75
    assert [folder.name for folder in runs.checkpoints(tmp_path / "run")] == ["step-00000002", "step-00000003"]
    llmkit.fit(recipe(text, tmp_path / "run"), resume="must")
    again = contents(tmp_path / "run")
    del again["step-00000003"]
    assert again == contents(usual)


def test_a_kill_while_it_is_written_costs_that_checkpoint_alone(text: Path, tmp_path: Path, usual: Path) -> None:
    """The checkpoint after step 4 is half written, beside step 5, when the process is killed."""
    def killed() -> int:
        write, there = ddp.write, threading.Event()

        def half(folder: Path, *given: Any) -> None:
            write(folder, *given)
            if "00000004" in folder.name:
                there.set()
                threading.Event().wait()

        def kill() -> None:
            there.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)

        ddp.write = half  # in a child of its own
        llmkit.fit(recipe(text, tmp_path / "run"), callbacks=[Watch(after_5=kill)])
        return 0

    assert Child([], tmp_path / "said", killed).wait() == -signal.SIGKILL, (tmp_path / "said").read_text()
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names[-1] == "step-00000002"
    assert names[0].startswith(".step-00000004.")
    llmkit.fit(recipe(text, tmp_path / "run"), resume="must")
    assert contents(tmp_path / "run") == contents(usual)


def test_a_run_goes_on_with_and_without_it(text: Path, tmp_path: Path, usual: Path) -> None:
    """It isn't compared: half a run each way."""
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        llmkit.fit(recipe(text, tmp_path / "run", save_total_limit=2), callbacks=[Watch(after_4=stop)])
    llmkit.fit(recipe(text, tmp_path / "run", beside=False, save_total_limit=2), resume="must")
    assert [folder.name for folder in runs.checkpoints(tmp_path / "run")] == SAVES[1:]
    assert {name: value for name, value in contents(usual).items() if name != SAVES[0]} == contents(tmp_path / "run")


def test_who_lost_the_folder_writes_nothing_more(tmp_path: Path) -> None:
    """A thread that is slower than the run's patience finds that the lock isn't held any more."""
    run = run_folder.RunFolder(tmp_path / "run")
    begun, go, said = threading.Event(), threading.Event(), list[str]()

    def write(folder: Path) -> None:
        begun.set()
        assert go.wait(60)

    def save() -> None:
        with pytest.raises(PlaceError) as told:
            run.save(1, {"state": {}, "data": {}, "processes": 1}, write, 2)
        said.append(str(told.value))

    thread = threading.Thread(target=save)
    with run.locked():
        thread.start()
        begun.wait(60)
    go.set()
    thread.join(60)
    assert said == [f"{tmp_path / 'run'}: this run has left it, and writes nothing more."]
    assert list(run.checkpoints.iterdir()) == []
