"""What a run says: to a terminal that is there, and to one that was closed."""

import os
import pty
import sys
import time

import pytest

from llmkit.system import report


def test_what_is_said_to_a_terminal_that_was_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writes fail before the signal that says so is heard."""
    terminal, inside = pty.openpty()
    monkeypatch.setattr(sys, "stderr", os.fdopen(inside, "w", buffering=1))
    try:
        with report.progress(True) as progress:
            progress.update(0.1, 1, {"loss": 1.5}, 5.0)
            report.log.warning("hello")
            time.sleep(0.3)
            seen = os.read(terminal, 100_000)
            os.close(terminal)
            with pytest.raises(OSError, match="Input/output"):
                os.write(inside, b"x")
            for step in (2, 3):
                progress.update(0.2, step, {"loss": 1.5}, 5.0)
                report.log.warning("more")
                time.sleep(0.3)  # the bar is drawn anew
        assert b"hello" in seen
        assert b"step 1" in seen
    finally:
        os.dup2(os.open(os.devnull, os.O_WRONLY), inside)  # where what is still to be written may go


def test_a_run_that_is_stopped_says_its_last_line_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """Where nobody watches, a line comes every ten seconds: the last one may be what the stop would say again."""
    monkeypatch.setattr(report.log, "propagate", True)
    monkeypatch.setattr(report.log, "handlers", [])
    progress = report.Progress(True)
    progress.last -= 60  # it is time for a line
    with caplog.at_level("INFO", "llmkit"):
        progress.update(0.1, 1, {"loss": 1.5}, 5.0)
        progress.closed(stopped=True)
        assert caplog.messages == ["step 1 (10 %)  loss 1.5  00:05 left"]
        progress.update(0.2, 2, {"loss": 1.25}, 4.0)  # too soon for a line of its own
        progress.closed(stopped=True)
    assert caplog.messages == ["step 1 (10 %)  loss 1.5  00:05 left", "step 2 (20 %)  loss 1.25"]


def test_what_is_to_be_said_once_is_said_once_and_all_else_as_often_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report.log, "handlers", [])
    monkeypatch.setattr(report.log, "propagate", False)
    report.to_stderr()
    for number in (1, 1, 2, 1):
        report.log.warning("run %d is used", number, extra={"once": True})
        report.log.warning("again")
    assert capsys.readouterr().err.split("\n") == [
        "run 1 is used", "again", "again", "run 2 is used", "again", "again", ""]
    monkeypatch.setattr(report.log, "handlers", [])
    report.to_stderr()  # as another command does
    report.log.warning("run %d is used", 1, extra={"once": True})
    assert capsys.readouterr().err == "run 1 is used\n"
