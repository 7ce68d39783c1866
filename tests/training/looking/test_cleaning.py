"""What may be deleted of runs, and what is never touched."""

import json
import os
from pathlib import Path

import pytest

from llmkit.models.run import Run
from llmkit.system.errors import PlaceError, RequestError
from llmkit.training.folder.holding import held
from llmkit.training.folder.run_folder import RunFolder, describe, sealed
from llmkit.training.looking import cleaning


def checkpoint(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "trained.safetensors").write_bytes(b"x" * 1000)
    files = {path.name: describe(path) for path in folder.iterdir()}
    (folder / "MANIFEST.json").write_text(sealed({"step": step, "files": files, "state": {}}))
    return folder


def made(folder: Path, status: str, model: bool = True) -> Run:
    """A run's folder with two checkpoints, and somebody's notes."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: x\n")
    (folder / "summary.json").write_text(json.dumps({"status": status, "steps": 4}))
    for step in (2, 4):
        checkpoint(folder, step)
    (folder / "notes.txt").write_text("mine")
    if model:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
    return Run(folder)


def names(run: Run) -> list[str]:
    return [one.path.name for one in cleaning.waste(run)]


def test_checkpoints_of_a_complete_run_may_go_and_nothing_else_does(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "completed")
    assert names(run) == ["step-00000002", "step-00000004"]
    gone, stayed = cleaning.sweep(run)
    assert [one.path.name for one in gone] == ["step-00000002", "step-00000004"]
    assert gone[0].size > 1000
    assert stayed == []
    assert sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")) == [
        ".lock", "checkpoints", "model", "model/config.json", "notes.txt", "recipe.yaml", "summary.json"]
    assert names(run) == []


@pytest.mark.parametrize("status", ["stopped", "failed", "running"])
def test_a_run_that_can_go_on_keeps_its_checkpoints(status: str, tmp_path: Path) -> None:
    assert names(made(tmp_path / "run", status, model=False)) == []


def test_a_run_that_is_alive_is_never_touched(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "completed")
    with held(run.folder):
        assert names(run) == []
        with pytest.raises(PlaceError, match="in use by another run"):
            cleaning.sweep(run)
    assert len(run.checkpoints) == 2


def test_what_llmkit_did_not_write_stays(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "completed")
    first, second = ((run.folder / "checkpoints" / f"step-0000000{step}") for step in (2, 4))
    (first / "mine.txt").write_text("mine")
    (second / "MANIFEST.json").write_text("broken")  # who can say whose files these are?
    own = sum(path.stat().st_size for path in first.iterdir()) - len("mine")
    assert [(one.path, one.size) for one in cleaning.waste(run)] == [(first, own)]
    assert list(cleaning.foreseen(run)) == [f"{first}: its folder would stay: llmkit didn't write mine.txt"]
    gone, stayed = cleaning.sweep(run)
    assert [(one.path, one.size) for one in gone] == [(first, own)]
    assert stayed == [f"{first}: the checkpoint's own files are deleted, and its folder stays: llmkit didn't write "
                      "mine.txt"]
    assert [path.name for path in first.iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in second.iterdir()) == ["MANIFEST.json", "trained.safetensors"]


def test_somebodys_folders_and_many_files_in_a_checkpoint_are_counted(tmp_path: Path) -> None:
    """A folder that is called as a file of the manifest is nobody's checkpoint, and a file that is gone has no size."""
    run = made(tmp_path / "run", "completed")
    first, second = ((run.folder / "checkpoints" / f"step-0000000{step}") for step in (2, 4))
    for name in "abcde":
        (first / f"{name}.txt").write_text("mine")
    (second / "trained.safetensors").unlink()
    (second / "trained.safetensors").mkdir()
    (second / "trained.safetensors" / "mine.txt").write_text("mine")
    manifest = (second / "MANIFEST.json").stat().st_size
    gone, stayed = cleaning.sweep(run)
    assert [note.rpartition("write ")[2] for note in stayed] == [
        "a.txt, b.txt, c.txt and 2 more", "trained.safetensors"]
    assert [one.size for one in gone] == [1000 + manifest, manifest]
    assert (second / "trained.safetensors" / "mine.txt").read_text() == "mine"
    assert list(cleaning.waste(run)) == []


def test_a_manifest_can_not_name_files_elsewhere(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "completed")
    (tmp_path / "precious.txt").write_text("mine")
    folder = run.folder / "checkpoints" / "step-00000002"
    (folder / "MANIFEST.json").write_text(json.dumps({"files": {"../../../precious.txt": {}, "/etc/passwd": {}}}))
    cleaning.sweep(run)
    assert (tmp_path / "precious.txt").read_text() == "mine"
    assert (folder / "trained.safetensors").is_file()


def test_links_stay(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "completed")
    (tmp_path / "elsewhere").mkdir()
    real = run.folder / "checkpoints" / "step-00000002"
    real.rename(tmp_path / "elsewhere" / "step-00000002")
    real.symlink_to(tmp_path / "elsewhere" / "step-00000002")
    (run.folder / "model.before").symlink_to(tmp_path / "elsewhere")
    assert names(run) == ["step-00000004"]


def test_what_a_killed_run_left_half_goes_but_not_the_only_one_of_its_name(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "running", model=False)
    for name in (".model.0f3a12bc", ".was-model", ".mine", "checkpoints/.step-00000006.0f3a12bc",
                 "checkpoints/.was-step-00000004", "model.before"):
        (run.folder / name).mkdir()
    assert names(run) == [".model.0f3a12bc", ".step-00000006.0f3a12bc", ".was-step-00000004"]
    cleaning.sweep(run)
    with RunFolder(run.folder).locked():  # puts back what was between two renames
        pass
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == [
        ".mine", "checkpoints", "model", "model.before"]


def test_the_model_from_before_goes_where_the_new_one_is_there(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "completed")
    (run.folder / "model.before").mkdir()
    assert names(run)[-1] == "model.before"


def test_a_folder_that_is_closed_to_this_user_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are found all the same; root may look into all, so what the system says is said here."""
    for name in ("a", "closed/run", "z"):
        made(tmp_path / name, "completed")

    def is_run(folder: Path) -> bool:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder / "recipe.yaml"))
        return (folder / "recipe.yaml").is_file()

    monkeypatch.setattr(cleaning, "is_run", is_run)
    with caplog.at_level("WARNING", "llmkit"):
        assert [run.folder.name for run in cleaning.runs_under(tmp_path)] == ["a", "z"]
    assert caplog.messages == [f"{tmp_path / 'closed'}: is left out: Permission denied"]


def test_runs_are_found_below_a_folder_in_their_order(tmp_path: Path) -> None:
    for name in ("b/second", "a", ".hidden/run"):
        made(tmp_path / name, "completed")
    os.symlink(tmp_path / "a", tmp_path / "link")
    assert [run.folder.relative_to(tmp_path).as_posix() for run in cleaning.runs_under(tmp_path)] == ["a", "b/second"]
    with pytest.raises(RequestError, match="there is no such folder"):
        list(cleaning.runs_under(tmp_path / "nowhere"))
