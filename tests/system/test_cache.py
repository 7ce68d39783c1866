"""The cache: made once, whole or absent; what killed processes left half goes; where it is, and who may read it."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from llmkit.system import cache, locks
from llmkit.system.errors import PlaceError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def writes(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "text").write_text(text)

    return make


def forked(act: Callable[[], object]) -> int:
    """A process that does something and ends; its number."""
    number = os.fork()
    if number == 0:
        try:
            act()
        finally:
            os._exit(0)
    return number


def killed_while_it_makes(kind: str, key: str) -> Path:
    """The folder that a process left half which was killed."""

    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(forked(lambda: cache.once(kind, key, make)), 0)
    (left,) = (cache.root() / kind).glob(f".{key[:16]}*")
    return left


# ---- made once ----


def test_what_is_made_once_is_not_made_again(place: Path) -> None:
    first = cache.once("kind", "key", writes("one"))
    assert first == place / "kind" / "key"
    assert cache.once("kind", "key", writes("two")) == first
    assert (first / "text").read_text() == "one"
    assert [path.name for path in (place / "kind").iterdir()] == ["key"]


@pytest.mark.parametrize(("spoil", "why"), [
    (lambda folder: (folder / "text").write_text("o"), "text has 1 bytes, not 3"),
    (lambda folder: (folder / "text").write_text(""), "text has 0 bytes, not 3"),
    (lambda folder: (folder / "text").unlink(), "text is missing"),
    (lambda folder: (folder / ".sizes").write_text("{"), r"\.sizes can't be read")])
def test_what_was_cut_short_since_is_made_anew_and_said(
        spoil: Callable[[Path], object], why: str, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoil(cache.once("kind", "key", writes("one")))
    assert (cache.once("kind", "key", writes("two")) / "text").read_text() == "two"
    assert re.search(rf"kind/key: is damaged \({why}\); it is made anew", caplog.text)
    assert [path.name for path in (place / "kind").iterdir()] == ["key"]


def test_what_an_older_version_made_without_a_note_is_taken(place: Path) -> None:
    folder = cache.once("kind", "key", writes("one"))
    (folder / ".sizes").unlink()
    (folder / "text").write_text("another size")
    assert (cache.once("kind", "key", writes("two")) / "text").read_text() == "another size"


def test_what_is_sealed_is_compared_with_its_hash(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = cache.sealed("kind", "key", writes("one"))
    assert cache.sealed("kind", "key", writes("two")) == folder
    assert (folder / "text").read_text() == "one"
    (folder / "text").write_text("oNe")
    assert (cache.sealed("kind", "key", writes("two")) / "text").read_text() == "two"
    assert "kind/key: is damaged (its files aren't what was written); it is made anew" in caplog.text


def test_what_fails_to_be_made_leaves_nothing_and_is_tried_again(place: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "text").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.once("kind", "key", fails)
    assert list((place / "kind").iterdir()) == []
    assert (cache.once("kind", "key", writes("whole")) / "text").read_text() == "whole"


def test_on_a_disk_without_locks_two_that_make_the_same_at_once_end_with_one_of_both(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin on an empty cache; each waits in `make` until the other is there too."""

    def no_lock(file: IO[bytes]) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache, "lock", no_lock)

    def make(folder: Path) -> None:
        (place / f"here-{os.getpid()}").touch()
        deadline = time.monotonic() + 30
        while len(list(place.glob("here-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        (folder / "text").write_text("the same")

    place.mkdir()
    both = [forked(lambda: (place / f"done-{cache.once('kind', 'key', make).name}-{os.getpid()}").touch())
            for _ in range(2)]
    assert [os.waitpid(number, 0)[1] for number in both] == [0, 0]
    assert len(list(place.glob("done-key-*"))) == 2
    assert [path.name for path in (place / "kind").iterdir()] == ["key"]
    assert (place / "kind" / "key" / "text").read_text() == "the same"


def test_a_cache_that_is_closed_to_this_user_holds_nothing_and_is_told_where_something_is_to_be_made(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may look into all, so what the system says is said here."""
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", closed)
    assert not cache.holds(place)
    with pytest.raises(PlaceError, match=r"cache/kind can't be written: Permission denied\. Set LLMKIT_CACHE to one"):
        cache.once("kind", "key", lambda folder: None)


def test_what_is_used_can_be_noted(place: Path) -> None:
    cache.once("kind", "before", writes("x"))
    with cache.noted() as used:
        cache.once("kind", "made", writes("x"))
        cache.once("kind", "before", writes("x"))
    cache.once("kind", "after", writes("x"))
    assert used == {place / "kind" / "made", place / "kind" / "before"}


# ---- what was left half ----


@pytest.mark.parametrize("kind", ["tokens", "tokenizers", "models"])
def test_what_a_killed_process_left_goes_with_the_next_that_is_made_and_that_is_said(
    kind: str, place: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    left = killed_while_it_makes("tokens", "a" * 64)
    assert (left / "half").is_file()
    with caplog.at_level(logging.INFO, "llmkit"):
        cache.once(kind, "c" * 64, writes("x"))
    assert not left.exists()
    assert caplog.messages == [f"{place}: what processes that were killed had left half is removed (1)"]


def test_what_stands_deeper_goes_when_something_is_made_beside_it(place: Path) -> None:
    left = killed_while_it_makes("search/shelf/pieces", "d" * 64)
    cache.once("search/shelf/pieces", "e" * 64, writes("x"))
    assert not left.exists()


def test_what_a_living_process_makes_is_left_alone(place: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "text").write_text("outer")
        os.waitpid(forked(lambda: cache.once("kind", "inner", writes("x"))), 0)  # it sweeps
        cache.once("kind", "own", writes("x"))  # this process sweeps too

    assert (cache.once("kind", "outer", make) / "text").read_text() == "outer"
    assert sorted(path.name for path in (place / "kind").iterdir()) == ["inner", "outer", "own"]


@pytest.mark.parametrize("name", [
    ".0123456789abcdef@00000000-1-1@abcdefgh", ".0123456789abcdef-abcdefgh", ".old-abcdefgh"])
def test_what_is_of_another_machine_or_an_older_version_goes_after_a_day_without_a_change(
    name: str, place: Path,
) -> None:
    staging = place / "kind" / name
    staging.mkdir(parents=True)
    (staging / "half").write_text("x")
    past = time.time() - cache.SILENCE - 60
    for path in (staging / "half", staging):
        os.utime(path, (past, past))
    os.utime(staging / "half")  # something is still written into it
    cache.once("kind", "one", writes("x"))
    assert staging.is_dir()
    os.utime(staging / "half", (past, past))
    cache.once("kind", "two", writes("x"))
    assert not staging.exists()


def test_hidden_folders_of_what_is_kept_stay(place: Path) -> None:
    def make(folder: Path) -> None:
        (folder / ".cache").mkdir()
        os.utime(folder / ".cache", (0, 0))

    kept = cache.once("models", "one", make)
    os.utime(kept / ".cache", (0, 0))
    cache.once("models", "two", writes("x"))
    assert (kept / ".cache").is_dir()


# ---- where it is ----


@pytest.mark.parametrize(("variables", "where"), [
    ({"LLMKIT_CACHE": "~/x"}, "{home}/x"), ({"LLMKIT_CACHE": "~"}, "{home}"), ({"LLMKIT_CACHE": "/a/~/x"}, "/a/~/x"),
    ({"LLMKIT_CACHE": "here"}, "here"), ({"LLMKIT_CACHE": ""}, "{home}/.cache/llmkit"),
    ({"XDG_CACHE_HOME": "~/y"}, "{home}/y/llmkit"), ({"XDG_CACHE_HOME": "/y"}, "/y/llmkit"),
    ({"XDG_CACHE_HOME": ""}, "{home}/.cache/llmkit"), ({}, "{home}/.cache/llmkit")])
def test_a_tilde_is_the_home_folder_whoever_set_the_variable(
    variables: dict[str, str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LLMKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache.root() == Path(where.format(home=tmp_path))


def test_a_home_that_nobody_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_CACHE", "~nobody-has-this-name/x")
    with pytest.raises(PlaceError, match=r"LLMKIT_CACHE ~nobody-has-this-name/x: no home folder is known"):
        cache.root()


def test_a_full_disk_is_told_with_the_cache_that_is_on_it(place: Path) -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device"), OSError("66 requested and 0 written")):
        def fill(folder: Path, error: OSError = error) -> None:
            (folder / "half").write_text("x")
            raise error

        with pytest.raises(PlaceError, match=r"the cache folder .*kind can't be written: No space left on device\. Set "
                                             r"LLMKIT_CACHE to one that can\."):
            cache.once("kind", "key", fill)
        assert not list((place / "kind").glob("*key*"))


def test_a_cache_that_is_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(PlaceError, match=r"file/kind can't be written: Not a directory\. Set LLMKIT_CACHE"):
        cache.once("kind", "key", writes("x"))


@pytest.mark.parametrize(("mask", "folder", "file"), [
    (0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)])
def test_others_may_read_what_the_umask_lets_them(
    mask: int, folder: int, file: int, place: Path,
) -> None:
    before = os.umask(mask)
    try:
        made = cache.once("kind", "key", writes("x"))
    finally:
        os.umask(before)
    assert (made.stat().st_mode & 0o777, (made / "text").stat().st_mode & 0o777) == (folder, file)


# ---- who a process is ----


def test_a_signature_is_dead_once_its_process_has_ended() -> None:
    code = "from llmkit.system.locks import signature; print(signature(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as other:
        assert other.stdout is not None
        signed = other.stdout.readline().strip()
        assert locks.dead(signed) is False
        other.communicate("\n")
    assert locks.dead(signed) is True
    assert locks.dead(locks.signature()) is False


def test_another_process_of_the_same_number_is_not_the_one_that_signed() -> None:
    space, number, started = locks.signature().split("-")
    assert locks.dead(f"{space}-{number}-{int(started) - 1}") is True


@pytest.mark.parametrize("signed", ["", "x", "00000000-1-1", "12345", "zzzzzzzz-1-1"])
def test_of_another_machines_process_nothing_is_known(signed: str) -> None:
    assert locks.dead(signed) is None
