"""status.json: how a run ended, for launchers that end with 1 whatever their processes ended with."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny, write_rows

from llmkit import Callback
from llmkit.system.errors import DataError, NumberError, PlaceError, RequestError, Stopped, status_of
from llmkit.training.fit import fit
from llmkit.training.folder.ending import ended, leave, status_in, status_left
from llmkit.training.folder.run_folder import RunFolder


def said(folder: Path) -> Any:
    path = folder / "status.json"
    return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate's launcher starts a single process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@pytest.mark.parametrize(("error", "status"), [
    (RequestError("no"), 2), (DataError("no"), 3), (NumberError("no"), 5), (Stopped("no", 75), 75),
    (KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 6), (MemoryError(), 2), (ValueError("no"), 1)])
def test_every_exception_has_the_exit_status_of_the_command_line(error: BaseException, status: int) -> None:
    assert status_of(error) == status


def test_a_run_that_ends_says_0(text: Path, tmp_path: Path) -> None:
    fit(tiny("bert", text, tmp_path / "run", max_steps=1))
    found = said(tmp_path / "run")
    assert (found["status"], found["message"], found["process"]) == (0, "completed", 0)
    assert set(found) == {"status", "message", "process", "host", "time"}


def test_a_run_that_began_says_what_it_failed_of_and_the_next_one_takes_that_away(
    text: Path, tmp_path: Path) -> None:
    tree = tiny("bert", text, tmp_path / "run", max_steps=2, learning_rate=1e38, save_steps=1)
    with pytest.raises(NumberError) as told:
        fit(tree)
    assert (said(tmp_path / "run")["status"], said(tmp_path / "run")["message"]) == (5, str(told.value))

    seen: list[Any] = []

    class Looks(Callback):
        def on_start(self, view: Any) -> None:
            seen.append(said(tmp_path / "run"))

    with pytest.raises(NumberError):
        fit(tree, callbacks=[Looks()])
    assert seen == [None]


def test_missing_data_is_said_in_the_folder_where_a_launcher_would_lose_it(
    launched: None, tmp_path: Path) -> None:
    tree = tiny("bert", tmp_path / "缺.txt", tmp_path / "run")
    with pytest.raises(DataError):
        fit(tree)
    assert said(tmp_path / "run")["status"] == 3
    assert said(tmp_path / "run")["message"] == f"data.train: {tmp_path / '缺.txt'}: no such file or folder."
    write_rows(tmp_path / "缺.txt", [{"text": "one"}] * 40)
    assert fit(tree)["status"] == "completed"  # the file is in nobody's way


def test_without_a_launcher_a_refused_request_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fit(tiny("bert", tmp_path / "none.txt", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_where_another_run_or_somebodys_files_are(launched: None, tmp_path: Path) -> None:
    other, here = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with other.locked():
        leave(here, 3, "no")
        assert said(tmp_path / "run") is None
        leave(other, 75, "stopped")
        assert said(tmp_path / "run")["status"] == 75
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "status.json").write_text('{"status": "mine"}')
    leave(RunFolder(tmp_path / "mine"), 3, "no")
    assert said(tmp_path / "mine") == {"status": "mine"}


def test_a_run_whose_folder_became_another_runs_says_its_end_nowhere(launched: None, tmp_path: Path) -> None:
    """As a run that slept, and was then ended by a second signal."""
    folder, old = tmp_path / "run", RunFolder(tmp_path / "run")
    with old.locked():
        old.begun = True
        folder.rename(tmp_path / "moved")
        leave(old, 75, "stopped")
        assert not folder.exists()
        with RunFolder(folder).locked():
            leave(old, 75, "stopped")
        assert said(folder) is None
        assert said(tmp_path / "moved") is None
    leave(old, 75, "stopped")
    assert said(folder) is None


def test_somebodys_status_json_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text('{"status": "mine"}')
    with pytest.raises(PlaceError, match=r"status\.json is there, and no run of llmkit wrote it"):
        fit(tiny("bert", text, tmp_path / "run"))


def test_only_the_first_process_writes(launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(DataError), status_left(RunFolder(tmp_path / "run")):
        raise DataError("no")
    assert not (tmp_path / "run").exists()


def test_what_is_older_than_a_start_is_not_of_it(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text(ended(75, "stopped by SIGTERM after step 3 …"))
    assert status_in(tmp_path, time.time() - 5) == json.loads(path.read_text())
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert status_in(tmp_path, time.time() - 5) is None
    path.write_text("half")
    assert status_in(tmp_path, 0) is None
    assert status_in(tmp_path / "none", 0) is None
