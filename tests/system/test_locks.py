"""A lock on a file: for one process, until that ends, and on Windows on a byte that nobody needs."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmkit.system import locks

OTHER = """
import sys
from llmkit.system.locks import lock
with open(sys.argv[1], "a+") as file:
    try:
        lock(file)
    except OSError as error:
        print(error.errno)
    else:
        print("locked")
"""


def other(path: Path) -> str:
    """What another process finds that tries to lock a file."""
    return subprocess.run([sys.executable, "-c", OTHER, str(path)], capture_output=True, text=True,
                          check=True).stdout.strip()


def test_a_file_is_locked_for_one_process_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("a+") as file:
        locks.lock(file)
        assert other(path) in map(str, (errno.EACCES, errno.EAGAIN))
    assert other(path) == "locked"


def test_windows_locks_one_byte_far_behind_what_stands_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    locked = []
    with (tmp_path / ".lock").open("a+") as file:
        file.write("process 1 on here")

        def locking(handle: int, mode: int, count: int) -> None:
            locked.append((handle == file.fileno(), mode, count, file.tell()))

        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
        with monkeypatch.context() as windows:
            windows.setattr(sys, "platform", "win32")
            locks.lock(file)
        assert locked == [(True, 2, 1, 1 << 30)]
        assert file.tell() == 17


def test_a_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (tmp_path / ".lock").open("a+") as file, pytest.raises(OSError, match="no locks") as raised:
        locks.lock(file)
    assert raised.value.errno == errno.ENOLCK


def test_a_process_runs_under_the_name_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    name = locks.this_process()
    assert locks.runs(name)
    number, _, started = name.partition("-")
    for other in (f"{number}-{int(started) + 1}", f"{number}-", number, "-1", "", "1.5-2", "x-1"):
        assert not locks.runs(other)


def test_a_process_that_ended_does_not_run(tmp_path: Path) -> None:
    code = "from llmkit.system.locks import this_process; print(this_process(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert locks.runs(name)
        other.communicate("\n")
    assert not locks.runs(name)


def test_without_proc_psutil_says_whether_a_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, *args: object, **kwargs: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    name = locks.this_process()
    assert locks.runs(name)
    assert not locks.runs(f"{name}0")
