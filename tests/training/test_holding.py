"""Holding a folder: one run has it, and what took it away from that run meanwhile is left as it is."""

import errno
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmkit.models.layout import SILENCE
from llmkit.system.errors import PlaceError
from llmkit.training.folder import holding
from llmkit.training.folder.run_folder import RunFolder, verify

MANIFEST: dict[str, Any] = {"state": {}, "data": {}, "processes": 1}
HOST = socket.gethostname()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A folder that this run holds, with a checkpoint."""
    made = RunFolder(tmp_path / "run")
    with made.locked():
        made.log({"event": "train", "step": 1})
        made.save(1, MANIFEST, weights("old"), 2)
        yield made
    made.close()


def weights(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return write


def trees(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def replaced(folder: Path) -> None:
    """By another run: its files stand where this one's stood."""
    shutil.rmtree(folder)
    (folder / "checkpoints" / "step-00000003").mkdir(parents=True)
    (folder / "checkpoints" / ".step-00000002").mkdir()
    (folder / "model").mkdir()
    for name in ("checkpoints/step-00000003/weights", "checkpoints/.step-00000002/weights", "model/weights",
                 "summary.json", "metrics.jsonl"):
        (folder / name).write_text("another run's")
    (folder / ".lock").write_text(f"process 1 on {HOST}\nabc\n")


def taken_over(folder: Path) -> None:
    """By a run on another machine, after a silence: in the same file."""
    (folder / ".lock").write_text("process 77 on elsewhere\nabc\n")
    (folder / "summary.json").write_text("another run's")


def unlocked(folder: Path) -> None:
    """As somebody does it who takes the run for dead."""
    (folder / ".lock").unlink()


WAYS = {"removed": removed, "moved": moved, "replaced": replaced, "taken over": taken_over, "unlocked": unlocked}
WRITES: dict[str, Callable[[RunFolder], object]] = {
    "a line": lambda run: run.log({"event": "train", "step": 2}),
    "a file": lambda run: run.write("summary.json", "{}"),
    "metrics from a step on": lambda run: run.rewind(0),
    "a checkpoint": lambda run: run.save(2, MANIFEST, weights("new"), 1),
    "a model": lambda run: run.publish(weights("new")),
    "another network": lambda run: run.publish(weights("new"), "generator"),
}


# ---- what a run does that lost its folder ----


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_lost_its_folder_writes_nothing_and_ends_with_6(
    way: str, what: str, run: RunFolder, tmp_path: Path,
) -> None:
    WAYS[way](run.folder)
    before = trees(tmp_path)
    with pytest.raises(PlaceError) as error:
        WRITES[what](run)
    assert error.value.status == 6
    said = {"removed": "was moved or removed, while this run had it", "moved": "was moved or removed",
            "replaced": "is another run's now, while this run had it",
            "taken over": "another run (process 77 on elsewhere) has taken it over from this one",
            "unlocked": "was moved or removed"}[way]
    assert str(error.value).startswith(f"{run.folder}: ") and said in str(error.value)
    assert trees(tmp_path) == before
    assert not (tmp_path / "run").exists() or way not in ("removed", "moved")


@pytest.mark.parametrize("what", ["a checkpoint", "a model"])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_loses_its_folder_while_it_saves_leaves_the_other_runs_files(
    way: str, what: str, run: RunFolder, tmp_path: Path,
) -> None:
    """Stopped within a save, as by SIGSTOP, and gone on after another run has begun to save the same step."""
    before: dict[str, bytes] = {}

    def write(folder: Path) -> None:
        (folder / "weights").write_text("first half")
        WAYS[way](run.folder)
        before.update(trees(tmp_path))
        (folder / "more").write_text("second half")

    with pytest.raises(PlaceError, match=r"while this run had it|has taken it over"):
        run.save(2, MANIFEST, write, 1) if what == "a checkpoint" else run.publish(write)
    half = [name for name in before if Path(name).parent.name.startswith((".step-00000002.", ".model."))]
    assert {name: text for name, text in trees(tmp_path).items() if name not in half} == {
        name: text for name, text in before.items() if name not in half}
    assert not any("more" in name for name in trees(tmp_path))


def test_a_run_that_lost_its_folder_leaves_the_lock_of_the_one_that_has_it(tmp_path: Path) -> None:
    for way in ("replaced", "taken over"):
        folder = tmp_path / way / "run"
        with RunFolder(folder).locked():
            WAYS[way](folder)
            lock = (folder / ".lock").read_text()
        assert (folder / ".lock").read_text() == lock


def test_a_run_that_lost_its_folder_gives_no_sign_of_life_there(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked(), holding.held(tmp_path) as hold:
        taken_over(tmp_path)
        os.utime(tmp_path / ".lock", (1000, 1000))
        hold.touch()
        assert (tmp_path / ".lock").stat().st_mtime == 1000


def test_a_sign_of_life_is_the_time_of_the_lock(tmp_path: Path) -> None:
    with holding.held(tmp_path) as hold:
        os.utime(tmp_path / ".lock", (1000, 1000))
        hold.touch()
        assert abs((tmp_path / ".lock").stat().st_mtime - time.time()) < 60


def test_a_folder_that_nothing_happened_to_stays_this_runs(run: RunFolder) -> None:
    for what in WRITES.values():
        what(run)
    run.check()
    assert verify(run.checkpoint(2)).step == 2
    assert (run.model / "weights").read_text() == "new"


def test_what_nobody_locked_is_not_asked_about(tmp_path: Path) -> None:
    """A trial run has a folder of its own, and no lock."""
    run = RunFolder(tmp_path)
    run.check()
    run.write("summary.json", "{}")


# ---- who has it ----


def test_the_lock_says_who_has_the_folder_and_nobody_once_that_is_over(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked():
        first, token = (tmp_path / "run" / ".lock").read_text().splitlines()
        assert first == f"process {os.getpid()} on {HOST}"
        assert len(token) == 32
    assert (tmp_path / "run" / ".lock").read_text() == ""
    with RunFolder(tmp_path / "run").locked():
        assert token not in (tmp_path / "run" / ".lock").read_text()


def test_a_folder_is_held_once_in_a_process(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked():
        with (pytest.raises(PlaceError, match=f"in use by another run of this program \\(process {os.getpid()}\\)"),
              RunFolder(tmp_path / "run").locked()):
            pass
        RunFolder(tmp_path / "run").check()
    with RunFolder(tmp_path / "run").locked():
        pass


OTHER = """
import pathlib, sys
from llmkit.training.folder.holding import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def refused(folder: Path) -> str:
    with pytest.raises(PlaceError) as error, holding.held(folder):
        pass
    assert error.value.status == 6
    return str(error.value)


def test_a_folder_of_another_process_is_refused_until_that_is_dead(
    tmp_path: Path, other: subprocess.Popen[bytes],
) -> None:
    assert refused(tmp_path) == (f"{tmp_path}: in use by another run (process {other.pid} on {HOST}); choose another "
                                 "--output-dir, or wait.")
    other.kill()
    other.wait()
    with holding.held(tmp_path) as hold:
        assert hold.said() == f"process {os.getpid()} on {HOST}"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_where_there_are_no_locks_it_is_said_once_and_the_owner_in_the_file_counts(
    number: int, tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A network disk without locks."""

    def lock(file: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(holding, "lock", lock)
    with caplog.at_level(logging.WARNING, "llmkit"):
        assert f"in use by another run (process {other.pid} on {HOST})" in refused(tmp_path)
    said = (f"{tmp_path}: this place knows no locks ({os.strerror(number)}); two runs are kept apart by what stands in "
            ".lock alone")
    assert caplog.messages == [said]
    other.kill()
    other.wait()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "llmkit"), holding.held(tmp_path) as hold:
        hold.check()
        assert hold.said() == f"process {os.getpid()} on {HOST}"
    assert caplog.messages == [said]


def test_of_two_that_start_at_once_without_locks_the_first_ends_at_its_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both read that nobody has it; then both write that they do."""

    def lock(file: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(holding, "lock", lock)
    run = RunFolder(tmp_path)
    with run.locked():
        code = OTHER.replace("with held", "from llmkit.training.folder import holding\n"
                             "holding._ask = lambda *given: None\nwith held")
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.DEVNULL, check=True)
        (tmp_path / ".lock").write_text("process 1 on here\nanother\n")
        with pytest.raises(PlaceError, match=r"another run \(process 1 on here\) has taken it over"):
            run.log({"event": "train", "step": 1})


@pytest.mark.parametrize(("age", "free"), [(0, False), (SILENCE - 30, False), (SILENCE + 30, True)])
def test_a_run_on_another_machine_counts_as_alive_until_it_was_silent_for_long(
    age: float, free: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / ".lock").write_text("process 4711 on elsewhere\nabc\n")
    past = time.time() - age
    os.utime(tmp_path / ".lock", (past, past))
    if not free:
        assert "in use by another run (process 4711 on elsewhere), which gave a sign of life" in refused(tmp_path)
        return
    with caplog.at_level(logging.WARNING, "llmkit"), holding.held(tmp_path):
        assert caplog.messages[0].startswith(f"{tmp_path}: taken over from process 4711 on elsewhere, silent for ")


@pytest.mark.parametrize("said", ["", "\n", "x", "process x on y", "process 12", "\0\0\0", "\udcff", "x" * 10_000])
def test_a_lock_that_says_nothing_that_one_understands_is_nobodys(said: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(said.encode(errors="surrogateescape"))
    with holding.held(tmp_path) as hold:
        hold.check()
    assert (tmp_path / ".lock").read_bytes() == b""


def test_an_older_versions_lock_is_understood(tmp_path: Path) -> None:
    """It has no second line."""
    (tmp_path / ".lock").write_text("process 4711 on elsewhere")
    assert "process 4711 on elsewhere" in refused(tmp_path)


# ---- links ----


def linked(path: Path, to: Path) -> None:
    """Move a folder to another place, and leave a link: a big disk."""
    to.parent.mkdir(exist_ok=True)
    path.rename(to)
    path.symlink_to(to)


def test_a_model_that_was_moved_to_a_big_disk_is_replaced_again_and_again_and_stays_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    run, big = RunFolder(tmp_path / "run"), tmp_path / "big" / "model"
    with run.locked():
        run.log({"event": "train", "step": 1})
        run.publish(weights("first"))
    run.close()
    linked(run.model, big)
    with caplog.at_level(logging.INFO, "llmkit"):
        for text in ("second", "third"):
            with run.locked():
                run.publish(weights(text))
            assert (run.model / "weights").read_text() == text
    assert (big / "weights").read_text() == "first"
    assert caplog.messages == [
        f"{run.model} was a link to {big}, which stays as it is; the new one stands in the run's folder"]
    assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "checkpoints", "metrics.jsonl", "model"]


def test_checkpoints_that_were_moved_one_by_one_go_as_links_when_they_are_old(tmp_path: Path) -> None:
    run, big = RunFolder(tmp_path / "run"), tmp_path / "big"
    with run.locked():
        for step in (1, 2):
            run.save(step, MANIFEST, weights(str(step)), 2)
    for step in (1, 2):
        linked(run.checkpoint(step), big / run.checkpoint(step).name)
    for step in (3, 4, 5):
        with run.locked():
            assert run.newest(print).step == step - 1  # type: ignore[union-attr]
            run.save(step, MANIFEST, weights(str(step)), 2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000004", "step-00000005"]
    assert sorted(path.name for path in big.iterdir()) == ["step-00000001", "step-00000002"]
    assert (big / "step-00000001" / "weights").read_text() == "1"


def test_a_checkpoint_that_is_a_link_is_saved_anew(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.locked():
        run.save(1, MANIFEST, weights("old"), 2)
        linked(run.checkpoint(1), tmp_path / "big" / "one")
        run.save(1, MANIFEST, weights("new"), 2)
    assert (run.checkpoint(1) / "weights").read_text() == "new"
    assert (tmp_path / "big" / "one" / "weights").read_text() == "old"


def test_all_checkpoints_may_lie_elsewhere(tmp_path: Path) -> None:
    run, big = RunFolder(tmp_path / "run"), tmp_path / "big"
    big.mkdir()
    run.folder.mkdir()
    run.checkpoints.symlink_to(big)
    for step in (1, 2, 3):
        with run.locked():
            run.save(step, MANIFEST, weights(str(step)), 2)
    assert run.checkpoints.is_symlink()
    assert sorted(path.name for path in big.iterdir()) == ["step-00000002", "step-00000003"]
    with run.locked():
        assert run.newest(print).step == 3  # type: ignore[union-attr]


def test_a_link_to_nowhere_is_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.folder.mkdir()
    run.checkpoints.symlink_to(tmp_path / "gone")
    with (pytest.raises(PlaceError, match=r"checkpoints: is a link to .*/gone, which isn't there; make that folder"),
          run.locked()):
        pass
    run.checkpoints.unlink()
    run.model.symlink_to(tmp_path / "gone")
    with run.locked():
        run.publish(weights("new"))
    assert not run.model.is_symlink()
    assert (run.model / "weights").read_text() == "new"


def test_links_that_a_killed_run_left_half_are_put_right(tmp_path: Path) -> None:
    """Between the two renames, and within `discard`."""
    run, big = RunFolder(tmp_path / "run"), tmp_path / "big"
    with run.locked():
        run.publish(weights("old"))
        run.save(1, MANIFEST, weights("1"), 2)
    linked(run.model, big / "model")
    (run.folder / ".was-generator").symlink_to(big / "model")
    (run.checkpoints / ".step-00000009").symlink_to(big / "model")
    with run.locked():
        pass
    assert (big / "model" / "weights").read_text() == "old"
    assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "checkpoints", "generator", "model"]
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]


def test_what_another_run_of_this_folder_left_half_goes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.locked():
        run.save(1, MANIFEST, weights("1"), 2)
    for half in ("checkpoints/.step-00000002.0123abcd", ".model.0123abcd", ".generator.89abcdef", ".held-1-1"):
        (tmp_path / half).mkdir()
    with run.locked():
        assert not [path for path in tmp_path.rglob(".*") if path.name not in (".lock",) and ".held" not in path.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoints"]


def test_json_of_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.locked():
        run.save(7, {**MANIFEST, "processes": 2}, weights("7"), 2)
    said = json.loads((run.checkpoint(7) / "MANIFEST.json").read_text())
    assert (said["step"], said["processes"], list(said["files"])) == (7, 2, ["weights"])
