"""SIGKILL before and after every rename of a run's folder: what is there afterwards is whole, and the folder is usable.

The folder's own methods, without training, in a child that is killed for each rename; the real thing with a model is in
tests/reliability.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llmkit.models.run import Run
from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError
from llmkit.training.folder.run_folder import RunFolder, verify
from llmkit.training.learner import Learner
from llmkit.training.spread import shards

MANIFEST = {"state": {}, "data": {}, "processes": 1}


def killed_at(count: int, when: str, work: Callable[[], None]) -> int:
    """The signal that ended a child that does some work and is killed before or after its count-th rename; 0: none.

    when   before, after, or opens: at the count-th file that it opens to write
    """
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

            def opens(event: str, arguments: tuple[Any, ...]) -> None:
                if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            if when == "opens":
                sys.addaudithook(opens)
            else:
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


def every_kill(
    start: Path, work: Callable[[RunFolder], None], tmp_path: Path, kinds: Sequence[str] = ("before", "after"),
) -> list[Path]:
    """Copies of a folder after each kill, the last one of the work that came to its end."""
    found: list[Path] = []
    for when in kinds:
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


@pytest.fixture
def in_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[RunFolder, int, int], None]:
    """`save(run, step, keep)`: a checkpoint in parts, several files of weights that are all the step, and moments."""
    monkeypatch.setattr(shards, "FILE", 256)
    learner = learner_at(0)
    parts = shards.content(learner, stepped(learner), None)
    shards.write(tmp_path_factory.mktemp("first"), parts, main=True, alone=True)  # imports

    def save(run: RunFolder, step: int, keep: int) -> None:
        learner = learner_at(step)
        optimizer = stepped(learner)

        def write(folder: Path) -> None:
            shards.write(folder, shards.content(learner, optimizer, None), main=True, alone=True)

        run.save(step, MANIFEST, write, keep)

    return save


def learner_at(step: int) -> Learner:
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(2)))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, step)
    return Learner(model, registry.find("objectives", "masked_lm")(), registry.find("backbones", "bert"))


def stepped(learner: Learner) -> torch.optim.Optimizer:
    """An optimizer that has moments, and hasn't moved anything."""
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.0)
    learner.model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", ["before", "after", "opens"])
def test_checkpoints_in_parts_killed_anywhere_are_whole_or_absent(
    kind: str, tmp_path: Path, in_parts: Callable[[RunFolder, int, int], None],
) -> None:
    """Each file of a part, its manifest, the renames in and out: what is there afterwards is read, tensor by tensor."""
    start = RunFolder(tmp_path / "start")
    with start.locked():
        in_parts(start, 1, 1)
    parts = [*start.checkpoint(1).glob("shard-*.safetensors")]
    assert len(parts) >= 2

    def work(run: RunFolder) -> None:
        with run.locked():
            for step in (2, 3) if kind == "opens" else (2, 2, 3):
                in_parts(run, step, 1)

    kills, seen = every_kill(start.folder, work, tmp_path, [kind]), set()
    assert len(kills) > {"opens": 2 * len(parts)}.get(kind, 6)
    for folder in kills:
        run = RunFolder(folder)
        with run.locked():
            newest = run.newest(lambda line: pytest.fail(line))
            assert newest is not None
            learner = learner_at(0)
            optimizer = stepped(learner)
            shards.read(newest, learner, optimizer, alone=True)
            assert {value for one in learner.parameters() for value in one.flatten().tolist()} == {newest.step}
            seen.add(newest.step)
            assert [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")] == []
            in_parts(run, 4, 1)
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000004"]
        assert {path.name for path in run.checkpoint(4).iterdir()} == {
            path.name for path in start.checkpoint(1).iterdir()}
    assert seen == ({2, 3} if kind == "after" else {1, 2, 3})


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
