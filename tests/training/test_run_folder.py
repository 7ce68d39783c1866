"""A run's folder: what is written is whole or absent, and the oldest goes; by its own methods, without a run."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmkit import recipe as recipes
from llmkit.system.errors import CheckpointError, PlaceError
from llmkit.training.folder import run_folder
from llmkit.training.folder.run_folder import RunFolder, put, seal, sealed, verify

MANIFEST: dict[str, Any] = {"state": {}, "data": {}, "processes": 1}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def saved(run: RunFolder, step: int, keep: int = 2, text: str = "weights") -> None:
    run.save(step, MANIFEST, lambda folder: (folder / "weights").write_text(text), keep)


def steps(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def told() -> tuple[list[str], Any]:
    lines: list[str] = []
    return lines, lines.append


# ---- checkpoints ----


def test_the_newest_checkpoints_stay(run):
    for step in (1, 2, 3):
        saved(run, step)
    assert steps(run) == ["step-00000002", "step-00000003"]


def test_steps_beyond_eight_digits_are_still_in_order(run):
    for step in (99_999_999, 100_000_000):
        saved(run, step)
    assert run.newest(print).step == 100_000_000


def test_a_checkpoint_after_the_one_that_is_saved_was_undone_and_goes(run):
    saved(run, 5)
    saved(run, 3)
    assert steps(run) == ["step-00000003"]


def test_saving_a_step_again_replaces_it(run):
    saved(run, 1, text="old")
    saved(run, 1, text="new")
    assert (run.checkpoint(1) / "weights").read_text() == "new"
    assert steps(run) == ["step-00000001"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_and_those_before_it(run):
    saved(run, 1)

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(PlaceError, match=r"full|No space"):
        run.save(2, MANIFEST, fails, 2)
    assert steps(run) == ["step-00000001"]
    assert verify(run.checkpoint(1)).step == 1


def test_a_checkpoint_knows_its_files_and_no_others(run):
    saved(run, 4)
    (run.checkpoint(4) / "smuggled").write_text("x")
    checkpoint = verify(run.checkpoint(4))
    assert checkpoint.file("weights") == run.checkpoint(4) / "weights"
    assert checkpoint.file("smuggled") is None
    assert checkpoint.state == {}


@pytest.mark.parametrize(("spoil", "what"), [
    (lambda folder: (folder / "weights").unlink(), "weights is missing"),
    (lambda folder: (folder / "weights").write_text("weight"), "weights has 6 bytes, not 7"),
    (lambda folder: (folder / "weights").write_text("weightz"), "weights has changed since it was written"),
    (lambda folder: (folder / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
    (lambda folder: (folder / "MANIFEST.json").write_text("{"), "MANIFEST.json is damaged"),
    (lambda folder: (folder / "MANIFEST.json").write_text("[]"), "MANIFEST.json is damaged"),
])
def test_what_is_wrong_with_a_damaged_checkpoint_is_said(run, spoil, what):
    saved(run, 1)
    spoil(run.checkpoint(1))
    with pytest.raises(CheckpointError, match=what.replace(".", r"\.")):
        verify(run.checkpoint(1))


def test_a_number_changed_in_a_manifest_is_seen(run):
    saved(run, 1)
    path = run.checkpoint(1) / "MANIFEST.json"
    path.write_text(path.read_text().replace('"step": 1', '"step": 2'))
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        verify(run.checkpoint(1))


@pytest.mark.parametrize("change", [{"files": {"../x": {"size": 1}}}, {"processes": "1"}, {"step": None}, {"data": []}])
def test_a_sealed_manifest_of_another_kind_is_not_believed(run, change):
    saved(run, 1)
    path = run.checkpoint(1) / "MANIFEST.json"
    path.write_text(sealed({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match="isn't one that llmkit writes"):
        verify(run.checkpoint(1))


def test_a_seal_does_not_depend_on_the_order_of_fields():
    assert seal({"a": 1, "b": 2}) == seal({"b": 2, "a": 1, "sha256": "anything"})
    assert seal({"a": 1}) != seal({"a": 2})


def test_the_newest_whole_checkpoint_is_taken_and_the_damaged_one_named(run):
    saved(run, 1)
    saved(run, 2)
    (run.checkpoint(2) / "weights").write_text("broken!")
    lines, say = told()
    assert run.newest(say).step == 1
    damaged = run.checkpoint(2)
    assert lines == [f"passed over a damaged checkpoint: {damaged}: weights has changed since it was written."]


def test_where_all_are_damaged_that_is_an_error_and_where_there_is_none_it_is_not(run):
    run.checkpoints.mkdir(parents=True)
    assert run.newest(print) is None
    saved(run, 1)
    (run.checkpoint(1) / "weights").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint in"):
        run.newest(lambda line: None)


def test_folders_of_other_names_are_no_checkpoints(run):
    saved(run, 1)
    for name in ("step-2", "step-x", "step-00000003.bak", "mine"):
        (run.checkpoints / name).mkdir()
    assert run.newest(print).step == 1
    saved(run, 4, keep=1)
    assert {"step-2", "step-x", "step-00000003.bak", "mine"} <= set(steps(run))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_who_may_read_a_run_may_go_on_with_its_checkpoints(run, umask, mode):
    def write(folder: Path) -> None:
        (folder / "trained.safetensors").write_text("numbers")
        (folder / "trained.safetensors").chmod(0o600)  # as safetensors writes it

    before = os.umask(umask)
    try:
        run.save(3, MANIFEST, write, 2)
    finally:
        os.umask(before)
    (place,) = run.checkpoints.iterdir()
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {mode}


# ---- model/ ----


def test_a_model_appears_whole_and_anybody_who_may_read_may_read_it(run):
    run.folder.mkdir()
    umask = os.umask(0o022)
    try:
        def write(folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            (folder / "config.json").chmod(0o600)

        run.publish(write)
    finally:
        os.umask(umask)
    assert (run.model / "config.json").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in run.folder.iterdir()] == ["model"]


def test_a_model_that_fails_to_be_written_leaves_the_old_one(run):
    run.folder.mkdir()
    run.publish(lambda folder: (folder / "config.json").write_text("old"))

    def fails(folder: Path) -> None:
        (folder / "config.json").write_text("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.publish(fails)
    assert (run.model / "config.json").read_text() == "old"
    assert [path.name for path in run.folder.iterdir()] == ["model"]


def test_another_network_stands_beside_it(run):
    run.folder.mkdir()
    run.publish(lambda folder: (folder / "x").write_text("x"), "generator")
    assert (run.folder / "generator" / "x").is_file()


# ---- metrics ----


def events(run: RunFolder) -> list[int]:
    return [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_a_step_are_dropped_and_written_anew(run):
    run.folder.mkdir()
    for step in (1, 2, 3):
        run.log({"event": "train", "step": step})
    run.close()
    run.rewind(2)
    assert events(run) == [1, 2]
    run.log({"event": "train", "step": 3})
    run.close()
    assert events(run) == [1, 2, 3]


def test_an_evaluation_that_is_due_is_written_anew(run):
    """A run went on from a signal in it, made it, and was killed before its next checkpoint."""
    run.folder.mkdir()
    for event in ({"event": "evaluate", "step": 1}, {"event": "train", "step": 2}, {"event": "evaluate", "step": 2}):
        run.log(event)
    run.show({"step": 1})
    run.show({"step": 2})
    run.close()
    run.rewind(2, due=False)
    assert events(run) == [1, 2, 2]
    run.rewind(2, due=True)
    assert events(run) == [1, 2]
    assert (run.folder / "samples.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("cut", ['{"event": "tr', "[]", '{"event": "train"}', "\x00\x00", '{"step": "x"}'])
def test_a_line_that_was_cut_short_ends_what_is_kept(run, cut):
    run.folder.mkdir()
    (run.folder / "metrics.jsonl").write_text('{"step": 1}\n' + cut + "\n" + '{"step": 2}\n')
    run.rewind(9)
    assert events(run) == [1]


def test_a_run_without_metrics_has_none_after_it_went_back(run):
    run.folder.mkdir()
    run.rewind(-1)
    assert events(run) == []


def test_a_line_is_on_disk_before_the_next_step(run):
    run.folder.mkdir()
    run.log({"event": "train", "step": 1, "loss": 0.1 + 0.2})
    assert json.loads((run.folder / "metrics.jsonl").read_text())["loss"] == 0.30000000000000004
    run.close()
    run.close()  # twice is no error


def test_a_checkpoint_that_goes_while_it_appears_is_told(run, monkeypatch):
    """The folder was moved away in this moment."""
    monkeypatch.setattr(run_folder, "replace", lambda staging, final: None)
    with pytest.raises(PlaceError, match=r"step-00000003: went while it was written; this run writes nothing more"):
        saved(run, 3)


# ---- what stands there ----


@pytest.mark.parametrize(("made", "started"), [
    ("nothing", False), ("lock", False), ("recipe", False), ("empty metrics", False), ("metrics", True),
    ("model", True), ("checkpoint", True)])
def test_a_folder_holds_a_run_once_something_in_it_is_worth_keeping(run, made, started):
    run.folder.mkdir()
    run.checkpoints.mkdir()
    if made == "lock":
        (run.folder / ".lock").touch()
    elif made == "recipe":
        run.write("recipe.yaml", "name: x\n")
    elif made == "empty metrics":
        (run.folder / "metrics.jsonl").touch()
    elif made == "metrics":
        run.log({"step": 1})
    elif made == "model":
        run.model.mkdir()
    elif made == "checkpoint":
        saved(run, 1)
    assert run.started() is started
    run.close()


def test_what_a_dead_run_left_half_is_put_right_when_the_folder_is_taken(run):
    saved(run, 1)
    saved(run, 2)
    run.checkpoint(2).rename(run.checkpoints / ".was-step-00000002")  # killed between two renames
    (run.checkpoints / ".step-00000003").mkdir()
    (run.folder / ".model").mkdir()
    (run.folder / ".clock-x").touch()
    (run.folder / "notes.txt").write_text("mine")
    with run.locked():
        assert steps(run) == ["step-00000001", "step-00000002"]
        assert verify(run.checkpoint(2)).step == 2
    assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "checkpoints", "notes.txt"]


@pytest.mark.parametrize("name", ["model", "checkpoints/step-00000001"])
def test_a_file_in_the_way_of_a_folder_is_named_and_left_alone(run, name):
    run.checkpoints.mkdir(parents=True)
    (run.folder / name).write_text("mine")
    with pytest.raises(PlaceError, match="is a file, and in the way"), run.locked():
        pass
    assert (run.folder / name).read_text() == "mine"


def test_a_disk_with_too_little_room_is_told_before_the_first_step(run, monkeypatch):
    run.checkpoints.mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, 25_000_000))
    run.room(10_000_000, 5_000_000, 2, 2)  # two checkpoints and the model: exactly what is free
    with pytest.raises(PlaceError, match=r"25\.0 MB are free, and this run needs 35\.0 MB: 3 checkpoints of 10\.0 MB"):
        run.room(10_000_000, 5_000_000, None, 2)
    with pytest.raises(PlaceError, match="1 checkpoints"):
        run.room(30_000_000, 0, 1, 2)
    run.room(30_000_000, 5_000_000, 0, 2)


@pytest.mark.parametrize("small", ["checkpoints", "run"])
def test_a_link_to_another_disk_needs_room_there(run, tmp_path, monkeypatch, small):
    other = Path("/dev/shm") / tmp_path.name
    if not other.parent.is_dir() or other.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    other.mkdir()
    try:
        run.folder.mkdir(exist_ok=True)
        run.checkpoints.symlink_to(other)
        free = {other: 30_000_000, run.folder.resolve(): 5_000_000}
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, free[path]))
        run.room(10_000_000, 5_000_000, None, 2)
        free[other if small == "checkpoints" else run.folder.resolve()] -= 1
        there, rest = (other, r"30\.0 MB: 3 checkpoints of 10\.0 MB\. M") if small == "checkpoints" else (
            run.folder.resolve(), r"5\.0 MB: a model of 5\.0 MB\. M")
        with pytest.raises(PlaceError, match=rf"{there}: .*this run needs {rest}"):
            run.room(10_000_000, 5_000_000, None, 2)
    finally:
        other.rmdir()


def test_checkpoints_that_are_there_need_no_more_room(run, monkeypatch):
    for step in (1, 2):
        saved(run, step)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, 15_000_000))
    run.room(10_000_000, 5_000_000, 8, 2)


def test_a_recipe_is_compared_with_the_one_that_stands_there(run):
    tree = {"backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {}}, "objective": "masked_lm",
            "data": {"train": "a.txt"}}
    ours, theirs = recipes.load(tree), recipes.load({**tree, "seed": 7, "name": "other", "output_dir": "elsewhere"})
    run.write_recipe(theirs)
    assert run.compare(ours) == {"seed": (42, 7)}
    run.write("recipe.yaml", "seed: [")
    with pytest.raises(CheckpointError, match=r"recipe\.yaml can't be read: .*not YAML"):
        run.compare(ours)


def test_a_file_is_replaced_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "summary.json"
    put(path, "old")
    usual = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.startswith(".summary"):
            raise OSError(5, "Input/output error")
        return usual(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(PlaceError, match=r"Input/output error\. What was saved before is whole"):
        put(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in path.parent.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("name", [".status.json", ".summary.json", ".README.md", ".recipe.yaml"])
def test_a_link_where_a_file_is_written_first_is_not_followed(run, tmp_path, name):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    run.folder.mkdir()
    (run.folder / name).symlink_to(mine)
    put(run.folder / name.removeprefix("."), "a run's")
    assert mine.read_text() == "mine"
    assert (run.folder / name.removeprefix(".")).read_text() == "a run's"


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays(run, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    run.folder.mkdir()
    run.log({"event": "train", "step": 1})
    run.close()
    (run.folder / ".lock").symlink_to(mine)
    with pytest.raises(PlaceError, match=r"\.lock: is no file"), run.locked():
        pass
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "status.json"])
def test_a_pipe_in_the_place_of_a_runs_file_is_refused(run, name):
    """To open it would wait for ever."""
    run.folder.mkdir()
    os.mkfifo(run.folder / name)
    with pytest.raises(PlaceError, match=rf"{name}: is no file, and a run's {name} is one"), run.locked():
        pass


def test_a_manifest_that_is_a_pipe_is_damage(run):
    saved(run, 1)
    (run.checkpoint(1) / "MANIFEST.json").unlink()
    os.mkfifo(run.checkpoint(1) / "MANIFEST.json")
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is no file"):
        verify(run.checkpoint(1))
