"""A log that nobody can fill."""

import logging

import pytest

from llmkit.serving.network import often as module
from llmkit.serving.network.often import KINDS, listening


@pytest.fixture
def said(caplog, monkeypatch):
    """Records that reach the log, as (level, text)."""
    logger = logging.getLogger("llmkit")
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, "llmkit")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(module, "time", Clock())
    return module.time


def test_the_first_is_told_and_then_how_many_more(said, clock):
    uvicorn = logging.getLogger("uvicorn.error")
    with listening() as often:
        for _ in range(1000):
            uvicorn.warning("Invalid HTTP request received.")
        assert said() == [("WARNING", "Invalid HTTP request received.")]
        often.tell(clock.now)
        assert len(said()) == 1
        clock.now += 60
        often.tell(clock.now)
        assert said()[1:] == [("WARNING", "Invalid HTTP request received. (so many: 999)")]
        often.tell(clock.now + 600)
        assert len(said()) == 2


def test_after_a_minute_of_quiet_one_is_told_whole_again(said, clock):
    with listening():
        logging.getLogger("asyncio").error("socket.accept() out of system resource\nsocket: 7")
        clock.now += 61
        logging.getLogger("asyncio").error("socket.accept() out of system resource\nsocket: 7")
    assert len(said()) == 2


def test_what_is_said_of_different_things_is_told_of_each(said):
    log = logging.getLogger("llmkit")
    with listening():
        for _ in range(3):
            log.warning("one")
            log.warning("another")
            log.info("a line that is no warning")
    assert said() == [("WARNING", "one"), ("WARNING", "another"), *[("INFO", "a line that is no warning")] * 3]


def test_tracebacks_of_one_error_are_told_once_and_of_two_twice(said):
    log = logging.getLogger("uvicorn.error")
    with listening():
        for error in (ValueError("a"), ValueError("a"), KeyError("a"), ValueError("a")):
            try:
                raise error
            except Exception:
                log.exception("Exception in ASGI application")
    assert len(said()) == 2


def test_what_is_counted_is_told_at_once_and_then_each_minute(said, clock):
    with listening() as often:
        for i in range(180):
            often.count("connections refused")
            clock.now += 1
            often.tell(clock.now)
            assert len(said()) <= 1 + i // 60 + 1
    assert [text for _, text in said()] == [
        "connections refused (so many: 1)", "connections refused (so many: 60)", "connections refused (so many: 60)"]


def test_things_without_end_are_counted_together(said, clock):
    log = logging.getLogger("llmkit")
    with listening() as often:
        for i in range(5 * KINDS):
            log.warning("request %d is wrong", i)
        assert len(said()) == KINDS + 1
        clock.now += 61
        often.tell(clock.now)
        assert said()[-1] == ("WARNING", f"other warnings and errors (so many: {4 * KINDS - 1:,})")
        assert len(often.told) <= KINDS + 1


def test_afterwards_all_is_told_as_before(said):
    with listening():
        pass
    for _ in range(3):
        logging.getLogger("llmkit").warning("again")
    assert len(said()) == 3
