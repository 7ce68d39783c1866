"""What steers a terminal is shown and not sent, wherever it is printed and however it is cut into pieces."""

import io
import json
import logging
import re
import sys
import unicodedata

import pytest

from llmkit.system import report, terminal
from llmkit.system.streams import as_json
from llmkit.system.terminal import Stretches, visible, visible_lines


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b]0;pwned\x07", r"\x1b]0;pwned\x07"), ("a\x1b[2Jb", r"a\x1b[2Jb"), ("\x9b2J", r"\x9b2J"),
    ("a\rllmkit: error: all is well", r"a\rllmkit: error: all is well"), ("ab\b\bcd", r"ab\x08\x08cd"),
    ("a\x7f", r"a\x7f"), ("a\0b", r"a\x00b"), ("gpj.\u202etxt", r"gpj.\u202etxt"), ("\u2066a\u2069", r"\u2066a\u2069"),
    ("a\nb", r"a\nb"), ("a\u2028b", r"a\u2028b"), ("a\x85b", r"a\x85b"),
])
def test_what_steers_a_terminal_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", [
    "", "the cat", "a\tb", "naïve – “quoted” …", "今天，好", "שלום\u200f (abc)", "می\u200cخواهم", "👩\u200d🚀 ✓",
    r"C:\x1b", "\ufeffa", "\u00a0"])
def test_plain_writing_stays_as_it_is(text: str) -> None:
    assert visible(text) == visible_lines(text) == text


def test_a_text_of_lines_keeps_them() -> None:
    assert visible_lines("a\nb\r\nc\n\td\u2028e") == "a\nb\nc\n\td\u2028e"
    assert visible_lines("a\rb\x0bc\x0cd") == r"a\rb\x0bc\x0cd"


def test_no_control_character_of_unicode_is_left() -> None:
    """Cc by Unicode's own table, but for the tab; in lines, the line's end too."""
    controls = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) == "Cc"]
    assert len(controls) == 65
    assert {c for c in controls if c in visible(f"a{c}b")} == {"\t"}
    assert {c for c in controls if c in visible_lines(f"a{c}b")} == {"\t", "\n"}


def test_every_mark_that_turns_the_direction_is_shown() -> None:
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # Unicode TR9's
    marks = [chr(i) for i in range(0x110000) if unicodedata.bidirectional(chr(i)) in turning]
    assert len(marks) == 9 and not any(mark in visible_lines(mark) for mark in marks)


@pytest.mark.parametrize("text", ["a\x1b[2J\r\nb", "\r\r\n\r", "\x1b]0;x\x07\n", "plain\n", "\x1b"])
def test_pieces_are_shown_as_the_whole_wherever_it_is_cut(text: str) -> None:
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = Stretches()
            shown = [pieces(text[:first]), pieces(text[first:second]), pieces(text[second:]), pieces.end()]
            assert "".join(shown) == visible_lines(text)


def test_an_escape_is_never_held_back() -> None:
    pieces = Stretches()
    assert [pieces("a\x1b"), pieces("[31m"), pieces.end()] == ["a\\x1b", "[31m", ""]


def test_out_and_err_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.out("a\x1b[2J\nb")
    terminal.err("c\x07", end="")
    terminal.pale("d\x1b[0m")
    assert capsys.readouterr() == ("a\\x1b[2J\nb\n", "c\\x07d\\x1b[0m\n")


def test_what_is_pale_has_our_escapes_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    terminal.pale("d\x1b[0m\x1b[31m")
    assert sys.stderr.getvalue() == "\033[2md\\x1b[0m\\x1b[31m\033[0m\n"


def test_a_record_of_the_log_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.log, "handlers", [])
    report.to_stderr()
    report.log.warning("labels: %s", "a\x1b[2J\nllmkit: error: all is well")
    assert capsys.readouterr().err == "labels: a\\x1b[2J\\nllmkit: error: all is well\n"


def test_above_a_bar_too(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with report.progress(True) as progress:
        progress.update(0.5, 3, {"f1 [bold]\x1b]0;x\x07": 0.5}, 60.0)
        report.log.warning("name: %s", "a\x1b]0;pwned\x07")
    plain = re.sub("\x1b\\[[0-9;]*m", "", screen.getvalue())  # rich's colours
    assert r"a\x1b]0;pwned\x07" in plain and r"f1 [bold]\x1b]0;x\x07 0.5" in plain
    assert "\x1b]0;" not in plain and "\x07" not in plain


def test_tables_show_it_in_heads_and_cells(capsys: pytest.CaptureFixture[str]) -> None:
    report.table([["name\x1b[2J", "[b]text"], ["a\x9b", "[/b]\x07"]])
    report.figures([("data\x1b[2J", "3\x07", "of [red]x\x9b")])
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()] == [
        [r"name\x1b[2J", "[b]text"], [r"a\x9b", r"[/b]\x07"], [r"data\x1b[2J", r"3\x07", "of", r"[red]x\x9b"]]


def test_a_librarys_log_is_shown_in_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(terminal.Calmed())
    record = logging.LogRecord("transformers", logging.ERROR, "x.py", 1, "no %s", ("a\x1b[2J",), None)
    handler.handle(record)
    assert capsys.readouterr().err == "no a\\x1b[2J\n"


def test_quiet_libraries_calms_transformers_once() -> None:
    report.quiet_libraries()
    report.quiet_libraries()
    handlers = logging.getLogger("transformers").handlers
    assert handlers and all([type(one) for one in handler.filters].count(terminal.Calmed) == 1 for handler in handlers)


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "\u202eabc", "\x7f", "猫 \x85"])
def test_json_on_stdout_is_exact_and_steers_nothing(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = as_json({"text": text})
    assert json.loads(said) == {"text": text}
    assert visible(said) == said


def test_json_without_such_characters_stays_readable() -> None:
    assert as_json({"text": "猫\tשלום\u200f"}) == '{"text": "猫\\tשלום\u200f"}'
    assert as_json(["\u202e"], io.StringIO()) == '["\u202e"]'  # of a file, for programs
