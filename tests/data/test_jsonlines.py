"""Rows go to a file that takes the place of what was there once all are in it; what is read is never written over."""

import codecs
import io
import json
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmkit.cli import main
from llmkit.data import jsonlines
from llmkit.system.errors import DataError, LlmkitError, PlaceError, RequestError

ROWS = [{"id": 1, "text": "猫"}, None, {"id": 3, "text": "the cat"}]
LINES = '{"id": 1, "text": "猫"}\nnull\n{"id": 3, "text": "the cat"}\n'
TABLE = "id,text\n1,猫\n,\n3,the cat\n"


def failing(rows: int, error: BaseException) -> Iterator[dict[str, Any]]:
    yield from ({"id": number} for number in range(rows))
    raise error


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


# ---- what is written ----


@pytest.mark.parametrize(("name", "text"), [
    ("out.jsonl", LINES), ("out.csv", TABLE), ("out.tsv", TABLE.replace(",", "\t")), ("out", LINES)])
@pytest.mark.parametrize("before", [None, "what was there before, and is longer than what comes: " + "x" * 99])
def test_rows_are_lines_or_a_table(name: str, text: str, before: str | None, tmp_path: Path) -> None:
    if before is not None:
        (tmp_path / name).write_text(before)
    assert jsonlines.write(iter(ROWS), str(tmp_path / name)) == 3
    assert (tmp_path / name).read_text("utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_row_is_an_empty_file(out: Path) -> None:
    assert jsonlines.write(iter([]), str(out)) == 0
    assert out.read_bytes() == b""


def test_a_dash_is_stdout(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert jsonlines.write(iter(ROWS), "-") == 3
    assert capsys.readouterr().out == LINES
    assert list(tmp_path.iterdir()) == []


def test_until_all_are_there_the_rows_stand_beside_it(out: Path) -> None:
    out.write_text("old\n")
    seen = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(3):
            if number:
                seen.append((out.read_text(), (out.parent / "out.jsonl.part").read_text()))
            yield {"id": number}

    jsonlines.write(rows(), str(out))
    assert seen == [("old\n", '{"id": 0}\n'), ("old\n", '{"id": 0}\n{"id": 1}\n')]
    assert out.read_text() == '{"id": 0}\n{"id": 1}\n{"id": 2}\n'


# ---- what fails ----


@pytest.mark.parametrize("error", [DataError("row 3 is bad"), RuntimeError("no"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_keeps_what_there_is(
    error: BaseException, out: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    out.write_text("old\n")
    part = out.with_name("out.jsonl.part")
    with pytest.raises(type(error)), caplog.at_level(logging.WARNING, "llmkit"):
        jsonlines.write(failing(2, error), str(out))
    assert out.read_text() == "old\n"
    assert part.read_text() == '{"id": 0}\n{"id": 1}\n'
    assert caplog.messages == [f"{part}: has the rows until then; {out} is as it was"]
    jsonlines.write(iter([{"id": 9}]), str(out))
    assert out.read_text() == '{"id": 9}\n'
    assert {path.name: path.read_text() for path in out.parent.iterdir()} == {
        "out.jsonl": '{"id": 9}\n', "out.jsonl.part": '{"id": 0}\n{"id": 1}\n'}


def test_what_fails_before_the_first_row_leaves_nothing(out: Path) -> None:
    with pytest.raises(DataError):
        jsonlines.write(failing(0, DataError("bad")), str(out))
    assert list(out.parent.iterdir()) == []


def test_a_place_that_cannot_be_is_told_before_a_row_is_asked_for(tmp_path: Path) -> None:
    never = failing(0, AssertionError("a row was asked for"))
    with pytest.raises(PlaceError, match=r"nowhere/out\.jsonl: its folder does not exist"):
        jsonlines.write(never, str(tmp_path / "nowhere" / "out.jsonl"))
    with pytest.raises(PlaceError, match="is a folder"):
        jsonlines.write(never, str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_device_is_written_as_it_is() -> None:
    with pytest.raises(PlaceError, match="No space left on device"):
        jsonlines.write(iter(ROWS), "/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert jsonlines.write(iter(ROWS), os.devnull) == 3
    assert not Path("/dev/full.part").exists()


def test_a_pipe_gets_each_row(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert jsonlines.write(iter(ROWS), str(pipe)) == 3
    assert os.read(reading, 1000).decode() == LINES
    os.close(reading)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_file_in_a_folder_that_cannot_be_written_is_written_as_it_is(
    out: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = Path.open

    def refusing(self: Path, *given: Any, **more: Any) -> Any:
        if self.suffix == ".part":
            raise PermissionError(13, "Permission denied", str(self))
        return usual(self, *given, **more)

    out.write_text("old")
    monkeypatch.setattr(Path, "open", refusing)
    assert jsonlines.write(iter(ROWS), str(out)) == 3
    assert out.read_text("utf-8") == LINES


# ---- what it is ----


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    real, link = tmp_path / "big" / "real.jsonl", tmp_path / "out.jsonl"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    jsonlines.write(iter(ROWS), str(link))
    assert link.is_symlink()
    assert real.read_text("utf-8") == LINES
    assert real.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["real.jsonl"]


def test_a_new_file_has_the_mode_that_the_umask_gives(out: Path) -> None:
    before = os.umask(0o027)
    try:
        jsonlines.write(iter(ROWS), str(out))
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o640


# ---- what is read ----


def linked(path: Path, how: str) -> Path:
    """Another name of a file."""
    other = path.with_name("other.jsonl")
    if how == "a link":
        other.symlink_to(path)
    elif how == "a hard link":
        os.link(path, other)
    elif how == "another way to it":
        (path.parent / "sub").mkdir()
        return path.parent / "sub" / ".." / path.name
    return path if how == "itself" else other


@pytest.mark.parametrize("how", ["itself", "a link", "a hard link", "another way to it"])
@pytest.mark.parametrize("pattern", [False, True])
def test_what_is_read_is_never_written_over(how: str, pattern: bool, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(LINES)
    target = linked(rows, how)
    read = [str(tmp_path / "nothing.txt"), str(tmp_path / "row?.jsonl" if pattern else rows)]
    with pytest.raises(RequestError, match=r"it is a file that is read here, and would be lost; name another") as error:
        jsonlines.write(failing(0, AssertionError("a row was asked for")), str(target), read)
    assert error.value.status == 2
    assert rows.read_text() == LINES


@pytest.mark.parametrize("there", ["file", "folder", "link to nowhere"])
def test_what_is_called_like_the_rows_so_far_is_left_alone(there: str, out: Path, caplog) -> None:
    part = out.with_name("out.jsonl.part")
    if there == "file":
        part.write_text("mine")
    elif there == "folder":
        part.mkdir()
    else:
        part.symlink_to("nowhere")
    with pytest.raises(DataError):
        jsonlines.write(failing(2, DataError("bad")), str(out))
    assert f"{part}2: has the rows until then" in caplog.text
    assert not out.exists()
    assert jsonlines.write(iter(ROWS), str(out), [str(part)] if there == "file" else []) == 3
    assert out.read_text() == LINES
    if there == "file":
        assert part.read_text() == "mine"
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.jsonl.part", "out.jsonl.part2"]


@pytest.mark.parametrize("read", [
    "builtin:python-docs", "hub:a/b", "-", "x" * 5000, "a\0b", "~nobody-has-this-name/x", "[", ""])
def test_what_is_read_and_is_no_file_is_in_nobodys_way(read: str, out: Path) -> None:
    out.write_text("old")
    assert jsonlines.write(iter(ROWS), str(out), [read]) == 3


def test_other_files_are_read_and_written_as_one_likes(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(LINES)
    assert jsonlines.write(iter(ROWS), str(tmp_path / "c.jsonl"), [str(tmp_path / "[ab].jsonl")]) == 3


@pytest.mark.parametrize("words", [
    ["predict", "a-run", "rows.jsonl", "-o", "rows.jsonl"],
    ["predict", "a-run", "*.jsonl", "-o", "rows.jsonl"],
    ["predict", "a-run", "rows.jsonl", "-o", "./link"],
    ["classify", "rows.jsonl", "--labels", "a,b", "-o", "rows.jsonl"],
    ["summarize", "rows.jsonl", "-o", "rows.jsonl"],
    ["translate", "rows.jsonl", "--to", "de", "-o", "rows.jsonl"],
    ["answer", "rows.jsonl", "-o", "rows.jsonl"],
    ["answer", "who?", "--context", "rows.jsonl", "-o", "rows.jsonl"],
    ["tag", "rows.jsonl", "--model", "a-run", "-o", "rows.jsonl", "--json"],
    ["generate", "--input", "rows.jsonl", "--model", "a-run", "-o", "rows.jsonl"],
    ["generate", "--input", "other.txt", "--model", "a-run", "-o", "rows.jsonl",
     "--prompt", "cloze(k=1, file=rows.jsonl)"],
], ids=lambda words: " ".join(words[:3]))
def test_no_command_writes_over_what_it_reads_and_no_model_is_opened_to_say_so(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """The model isn't there: that would be the next error."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "the cat", "question": "who?", "context": "the cat"}\n')
    Path("other.txt").write_text("the cat\n")
    Path("link").symlink_to("rows.jsonl")
    before = Path("rows.jsonl").read_bytes()
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("llmkit: error: --output ")
    assert "is the file that the prompts are in." in last or "a file that is read here, and would be lost" in last
    assert Path("rows.jsonl").read_bytes() == before


# ---- what comes from stdin ----


@pytest.mark.parametrize(("given", "suffix"), [(b'{"text": "a"}\n', ".jsonl"), (b"a\n", ".txt"), (b"", ".txt")])
def test_stdin_is_kept_as_a_file_of_what_it_looks_like(
    given: bytes, suffix: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    with jsonlines.kept("-") as path:
        assert Path(path).suffix == suffix
        assert Path(path).read_bytes() == given
    assert not Path(path).exists()


def test_an_error_in_what_stdin_gave_names_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    with pytest.raises(LlmkitError, match=r"^stdin:1: bad$"), jsonlines.kept("-") as path:
        raise DataError(f"{path}:1: bad")


def test_a_named_file_is_taken_as_it_is() -> None:
    with jsonlines.kept("somewhere.jsonl") as path:
        assert path == "somewhere.jsonl"


def test_lines_are_json() -> None:
    assert [json.loads(line) for line in LINES.splitlines()] == ROWS


@pytest.mark.parametrize(("start", "suffix"), [
    (b"{", ".jsonl"), (codecs.BOM_UTF8 + b"{", ".jsonl"), (b"a", ".txt"), (codecs.BOM_UTF8 + b"a", ".txt"),
    (b"", ".txt")])
def test_what_stdin_holds_is_seen_behind_a_mark_of_its_bytes(start, suffix, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(start + b'"text": 1}\n')))
    with jsonlines.kept("-") as name:
        assert Path(name).suffix == suffix
