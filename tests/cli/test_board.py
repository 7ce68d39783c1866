"""`llmkit board` and `--live`: what is refused, and a board that begins and ends with its run and changes nothing."""

import contextlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmkit.cli import main
from llmkit.serving.board import starting
from llmkit.serving.board.starting import board_beside
from llmkit.system.errors import PlaceError

SHOWS = """
import pathlib, sys
print("http://127.0.0.1:8010", flush=True)
sys.stdin.read()
pathlib.Path(sys.argv[-2]).with_suffix(".ended").touch()
"""


@pytest.mark.parametrize(("words", "status", "said"), [
    (["board", "nowhere"], 2, "nowhere: there is no such folder"), (["board"], 2, "runs: there is no such folder"),
    (["board", "mine.txt"], 2, "mine.txt: is a file; a folder is needed"),
    (["runs", "list", "mine.txt"], 2, "mine.txt: is a file"), (["runs", "show", "mine.txt"], 2, "mine.txt: is a file"),
    (["runs", "clean", "mine.txt"], 2, "mine.txt: is a file"), (["report", "mine.txt"], 2, "mine.txt: is a file"),
    (["runs", "clean", "nowhere"], 2, "there is no such folder"),
    (["runs", "compare", "nowhere", "."], 2, "there is no such folder"),
    (["board", ".", "--port", "70000"], 2, "--port 70000")])
def test_a_folder_that_isnt_there_ends_all_looking_verbs_alike(words, status, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("mine")
    assert main(words) == status
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_port_that_is_taken_is_told_and_a_runs_board_takes_another(tmp_path, monkeypatch):
    shown = []

    async def show(folder, listener, ready):
        shown.append(listener.getsockname()[1])

    monkeypatch.setattr(starting, "_show", show)
    with starting.bound("127.0.0.1", 0) as other:
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PlaceError, match=rf"^--port {port}: something listens there already"):
            starting.board(tmp_path, port)
        monkeypatch.setattr(starting.os, "nice", lambda by: None)
        monkeypatch.setattr(starting, "_until_alone", lambda: None)
        starting.board(tmp_path, port, beside=True)
    assert len(shown) == 1 and shown[0] != port


def scripted(monkeypatch, code):
    """Boards that are a script: llmkit's own takes seconds to begin."""
    begin = subprocess.Popen
    monkeypatch.setattr(starting.subprocess, "Popen", lambda command, **how: begin(
        [sys.executable, "-c", code, *command[3:]], **how))


def until(true):
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it didn't come")


@pytest.mark.parametrize("ends", [
    contextlib.nullcontext(), pytest.raises(KeyboardInterrupt)], ids=["well", "by Ctrl-C"])
def test_a_runs_board_tells_its_address_and_ends_with_the_run(ends, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "llmkit")
    scripted(monkeypatch, SHOWS)
    with ends, board_beside(tmp_path / "run"):
        until(lambda: "the board of this run, until it ends: http://127.0.0.1:8010" in caplog.text)
        if not isinstance(ends, contextlib.nullcontext):
            raise KeyboardInterrupt
    assert (tmp_path / "run.ended").exists()


def test_a_board_that_cant_be_started_is_said_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    scripted(monkeypatch, "import sys; sys.exit('llmkit: error: no room.')")
    with board_beside(tmp_path / "run"):
        until(lambda: "the run goes on without: no room." in caplog.text)


def test_live_is_the_first_processs_affair_and_in_no_recipe(text, tmp_path, monkeypatch, capsys):
    from conftest import tiny

    (tmp_path / "r.yaml").write_text(json.dumps(tiny("gpt2", text, tmp_path / "run")))
    asked, shown = [], []

    def fit(request, resume):
        asked.append(request)
        return {"status": "completed"}

    @contextlib.contextmanager
    def beside(folder):
        shown.append(folder)
        yield

    monkeypatch.setattr("llmkit.training.fit.fit", fit)
    monkeypatch.setattr(starting, "board_beside", beside)
    for more in ([], ["--live"]):
        assert main(["pretrain", str(tmp_path / "r.yaml"), "--json", *more]) == 0
    assert asked[0] == asked[1] and shown == [tmp_path / "run"]
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"),
                        ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert main(["pretrain", str(tmp_path / "r.yaml"), "--live"]) == 0
    assert len(asked) == 3 and len(shown) == 1
    capsys.readouterr()
