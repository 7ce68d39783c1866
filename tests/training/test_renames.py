"""SIGKILL before and after every rename of a run's folder: what is there afterwards is whole, and the folder is usable.

The folder's own methods, without training, in a child that is killed for each rename; the real thing with a model is in
tests/reliability.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from llmkit.models.run import Run
from llmkit.system.errors import CheckpointError
from llmkit.training.folder.run_folder import RunFolder, verify

MANIFEST = {"state": {}, "data": {}, "processes": 1}


def killed_at(count: int, when: str, work: Callable[[], None]) -> int:
    """The signal that ended a child that does some work and is killed before or after its count-th rename; 0: none."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            left, usual = [count], os.rename

            def rename(*args: object, **kwargs: object) -> None:
                left[0] -= 1
                if left[0] == 0 and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                usual(*args, **kwargs)  # type: ignore[arg-type]
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            os.rename = rename  # type: ignore[assignment]
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return -os.waitstatus_to_exitcode(status)


def put(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "weights").write_text(text)  # type: ignore[return-value]


def save(run: RunFolder, step: int) -> None:
    run.save(step, MANIFEST, put(f"weights of {step}"), 1)


def end(run: RunFolder, step: int) -> None:
    """As `finish` does: the model, what is said of it, and then the model before goes."""
    run.publish(put(f"model of {step}"))
    run.write("summary.json", json.dumps({"status": "completed", "steps": step}))
    run.drop_before()


def longer(run: RunFolder) -> None:
    """As a run of two steps does that goes on to four: it says so, sets its model aside, saves and ends."""
    with run.locked():
        earlier = Run(run.folder).ended
        run.write("summary.json", json.dumps({"status": "running", "steps": 2, "before": earlier}))
        run.set_aside()
        run.write("recipe.yaml", "max_steps: 4")
        for step in (3, 4):
            save(run, step)
        end(run, 4)


@pytest.fixture
def short(tmp_path):
    """A run that ended after two steps."""
    made = RunFolder(tmp_path / "short")
    made.folder.mkdir()
    made.write("recipe.yaml", "max_steps: 2")
    for step in (1, 2):
        save(made, step)
    end(made, 2)
    return made.folder


def every_kill(start: Path, work: Callable[[RunFolder], None], tmp_path: Path) -> list[Path]:
    """Copies of a folder after each kill, the last one of the work that came to its end."""
    found: list[Path] = []
    for when in ("before", "after"):
        for count in range(1, 60):
            folder = tmp_path / f"{when}-{count}"
            if start.exists():
                shutil.copytree(start, folder)
            ended = killed_at(count, when, lambda folder=folder: work(RunFolder(folder)))  # type: ignore[misc]
            found.append(folder)
            if ended == 0:
                break
        else:
            raise AssertionError("it never came to its end")
    return found


def test_a_longer_run_killed_at_any_rename_has_a_model_and_a_checkpoint_and_ends_when_it_goes_on(short, tmp_path):
    """The renames of summary, model aside, recipe, saves (in, old one out), model, summary, model before out."""
    kills = every_kill(short, longer, tmp_path)
    assert len(kills) >= 20
    seen = set()
    for folder in kills:
        run = Run(folder)
        model = (run.model / "weights").read_text()
        assert model in ("model of 2", "model of 4")
        if run.completed:
            assert f"model of {run.summary['steps']}" == model
        elif run.ended is not None:
            assert (run.ended["steps"], model) == (2, "model of 2")
        seen.add((run.status, model, run.model.name))
        again = RunFolder(folder)
        with again.locked():
            pass
        newest = again.newest(lambda line: pytest.fail(line))
        assert newest is not None
        assert (newest.folder / "weights").read_text() == f"weights of {newest.step}"
        if not Run(folder).completed or Run(folder).summary["steps"] == 2:
            longer(again)
        assert (Run(folder).summary["status"], Run(folder).summary["steps"]) == ("completed", 4)
        with again.locked():
            pass
        assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
            "checkpoints", "model", "recipe.yaml", "summary.json"]
        assert (folder / "model" / "weights").read_text() == "model of 4"
    assert seen == {("completed", "model of 2", "model"), ("interrupted", "model of 2", "model"),
                    ("interrupted", "model of 2", "model.before"), ("interrupted", "model of 4", "model"),
                    ("completed", "model of 4", "model")}


def test_checkpoints_killed_at_any_rename_are_whole_or_absent(tmp_path):
    def work(run: RunFolder) -> None:
        with run.locked():
            for step in (1, 2, 2, 3):  # one is saved again: two renames that replace it
                save(run, step)

    for folder in every_kill(tmp_path / "nothing", work, tmp_path):
        run = RunFolder(folder)
        whole = [verify(path).step for path in run.checkpoints.glob("step-*")]
        with run.locked():
            newest = run.newest(lambda line: pytest.fail(line))
            assert newest is None or newest.step >= max(whole, default=0)
            assert [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")] == []
            for step in (3, 4):
                save(run, step)
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000004"]


def test_another_network_that_is_published_again_comes_back_where_a_kill_took_it(tmp_path):
    """model/ and generator/ of a run that ended and is published anew: one of the two stands there, or is put back."""
    def work(run: RunFolder) -> None:
        with run.locked():
            run.publish(put("new generator"), "generator")
            run.publish(put("new model"))

    start = RunFolder(tmp_path / "start")
    with start.locked():
        save(start, 1)  # so that it is a run's folder
        start.publish(put("old generator"), "generator")
        start.publish(put("old model"))
    for folder in every_kill(start.folder, work, tmp_path):
        with RunFolder(folder).locked():
            pass
        texts = [(folder / name / "weights").read_text() for name in ("generator", "model")]
        assert texts in (["old generator", "old model"], ["new generator", "old model"], ["new generator", "new model"])
        assert not list(folder.glob(".was-*"))


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    start = RunFolder(tmp_path / "start")
    start.write("summary.json", '{"steps": 1}')
    texts = {(folder / "summary.json").read_text()
             for folder in every_kill(start.folder, lambda run: run.write("summary.json", '{"steps": 2}'), tmp_path)}
    assert texts == {'{"steps": 1}', '{"steps": 2}'}


def test_a_model_that_is_set_aside_twice_is_the_newer_one(short):
    run = RunFolder(short)
    run.set_aside()
    assert (Run(short).model.name, run.started()) == ("model.before", True)
    run.set_aside()
    assert (short / "model.before" / "weights").read_text() == "model of 2"
    run.publish(put("model of 4"))
    run.set_aside()
    assert (short / "model.before" / "weights").read_text() == "model of 4"
    assert not run.model.exists()
    run.drop_before()
    run.drop_before()
    assert sorted(path.name for path in short.iterdir()) == ["checkpoints", "recipe.yaml", "summary.json"]


def test_the_model_before_goes_when_the_folder_is_taken_only_where_the_new_one_is_told_of(short):
    run = RunFolder(short)
    run.set_aside()
    run.publish(put("model of 4"))
    run.write("summary.json", json.dumps({"status": "running", "steps": 4}))
    with run.locked():
        assert (short / "model.before").is_dir()
    run.write("summary.json", json.dumps({"status": "completed", "steps": 4}))
    with run.locked():
        assert not (short / "model.before").exists()


def test_a_damaged_checkpoint_is_told_also_beside_a_model_before(short):
    run = RunFolder(short)
    run.set_aside()
    (run.checkpoint(2) / "weights").write_text("weights of 3")
    with pytest.raises(CheckpointError, match="every checkpoint in"):
        run.newest(lambda line: None)
    assert (Run(short).model / "weights").read_text() == "model of 2"
