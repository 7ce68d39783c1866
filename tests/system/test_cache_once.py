"""What is made once and kept: whole or absent, by content, in a folder that can be chosen."""

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from llmkit.system import cache
from llmkit.system.errors import PlaceError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def writes(text: str, made: list[str]):
    def make(folder: Path) -> None:
        made.append(text)
        (folder / "a.txt").write_text(text)

    return make


def test_a_folder_is_made_once(root):
    made: list[str] = []
    place = cache.once("tokens", "abc", writes("first", made))
    assert place == root / "tokens" / "abc"
    assert cache.once("tokens", "abc", writes("second", made)) == place
    assert made == ["first"]
    assert (place / "a.txt").read_text() == "first"
    assert place.stat().st_mode & 0o777 == 0o755


def test_another_kind_or_key_is_another_folder():
    made: list[str] = []
    places = {cache.once(kind, key, writes(kind + key, made)) for kind in "ab" for key in "xy"}
    assert len(places) == 4
    assert sorted(made) == ["ax", "ay", "bx", "by"]


def test_what_fails_leaves_nothing_and_is_tried_again(root):
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.once("tokens", "abc", fails)
    assert list((root / "tokens").iterdir()) == []
    made: list[str] = []
    assert (cache.once("tokens", "abc", writes("x", made)) / "a.txt").exists()


def test_of_two_that_make_the_same_the_first_rename_stays(root):
    """The second one's folder is thrown away: what others may have opened already isn't replaced."""
    inside, go = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        (folder / "a.txt").write_text("slow")
        inside.set()
        assert go.wait(10)

    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(cache.once("tokens", "abc", slow)))
    thread.start()
    assert inside.wait(10)
    place = cache.once("tokens", "abc", writes("fast", []))
    go.set()
    thread.join(10)
    assert found == [place]
    assert (place / "a.txt").read_text() == "fast"
    assert [path.name for path in (root / "tokens").iterdir()] == ["abc"]


def test_what_is_used_in_a_block_is_noted_be_it_there_or_new(root):
    old = cache.once("tokens", "old", writes("x", []))
    with cache.noted() as used:
        cache.once("tokens", "old", writes("x", []))
        with cache.noted() as inner:
            new = cache.once("words", "new", writes("x", []))
    assert used == {old}
    assert inner == {new}
    cache.once("tokens", "later", writes("x", []))
    assert used == {old}


def test_a_root_that_cant_be_written_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(PlaceError) as error:
        cache.once("tokens", "abc", writes("x", []))
    assert str(error.value) == (f"the cache folder {tmp_path / 'file' / 'tokens'} can't be written: Not a directory. "
                                "Set LLMKIT_CACHE to one that can.")


@pytest.mark.parametrize(("variables", "place"), [
    ({"LLMKIT_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"), ({"XDG_CACHE_HOME": "/x"}, "/x/llmkit"),
    ({"HOME": "/home/me"}, "/home/me/.cache/llmkit"), ({"LLMKIT_CACHE": "", "HOME": "/h"}, "/h/.cache/llmkit")])
def test_where_the_cache_is(variables, place, monkeypatch):
    for name in ("LLMKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.root() == Path(place)


def in_a_process(folder: Path, key: str, seconds: float) -> int:
    """Make a folder in a process of its own, slowly; each making leaves a line in `made`."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            def make(staging: Path) -> None:
                with (folder / "made").open("a") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(seconds)
                (staging / "a.txt").write_text("x")

            status = 0 if (cache.once("tokens", key, make) / "a.txt").exists() else 2
        finally:
            os._exit(status)
    return pid


def makers(folder: Path, count: int) -> list[str]:
    """The processes that began to make it, once there are so many."""
    path, deadline = folder / "made", time.monotonic() + 20
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text().split()


def test_of_several_processes_one_makes_it_and_the_others_wait(root, tmp_path):
    children = [in_a_process(tmp_path, "abc", 0.3) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert len(makers(tmp_path, 1)) == 1
    assert [path.name for path in (root / "tokens").iterdir()] == ["abc"]


def test_where_the_one_that_makes_it_is_killed_the_next_one_does(root, tmp_path):
    first = in_a_process(tmp_path, "abc", 60)
    assert makers(tmp_path, 1) == [str(first)]
    second = in_a_process(tmp_path, "abc", 0)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) == 0
    assert makers(tmp_path, 2) == [str(first), str(second)]
    assert [path.name for path in (root / "tokens").iterdir()] == ["abc"]


def test_a_disk_without_locks_keeps_nobody_waiting(monkeypatch):
    def lock(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache, "lock", lock)
    made: list[str] = []
    assert (cache.once("tokens", "abc", writes("x", made)) / "a.txt").exists()
    assert made == ["x"]
