"""A curve in a line of text, and where it is shown."""

import logging
import sys

import pytest

from llmkit.system import report
from llmkit.system.sparkline import shows, sparkline


@pytest.mark.parametrize(("values", "line"), [
    ([3, 2, 1, 1.5], "█▅▁▃"), ([], ""), ([2, 2], "▁▁"), ([1, float("nan"), 2], "▁█"), ([float("inf")], "")])
def test_figures_become_bars(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_many_figures_are_means_of_neighbours() -> None:
    assert sparkline([0, 0, 4, 4, 8, 8], 3) == "▁▅█"


def test_streams_that_lack_the_letters_are_known() -> None:
    assert (shows("utf-8"), shows("ascii"), shows(None), shows("no such")) == (True, False, False, False)


class Screen:
    """stderr, as a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.encoding, self.text = terminal, "utf-8", ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self.terminal


def shown(terminal: bool, stop: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log lines of a progress that is updated twice and then ends, or is stopped."""
    monkeypatch.setattr(sys, "stderr", Screen(terminal))
    # pytest listens at loggers that don't propagate, too: once is enough
    monkeypatch.setattr(report.log, "propagate", caplog.handler not in report.log.handlers)
    caplog.set_level(logging.INFO, logger="llmkit")
    try:
        with report.progress(True) as progress:
            progress.update(0.25, 1, {"loss": 4.0, "tokens/s": 10.0}, 3)
            progress.update(0.5, 2, {"loss": 2.0, "tokens/s": 12.0}, 2)
            if stop:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("stop", [True, False])
def test_a_terminal_keeps_the_last_loss_and_its_curve(
    stop: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    assert shown(True, stop, monkeypatch, caplog) == ["step 2 (50 %)  loss 2  tokens/s 12  █▁"]


def test_elsewhere_it_is_said_where_a_run_is_stopped_without_a_curve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    assert shown(False, True, monkeypatch, caplog) == ["step 2 (50 %)  loss 2  tokens/s 12"]
    caplog.clear()
    assert shown(False, False, monkeypatch, caplog) == []
