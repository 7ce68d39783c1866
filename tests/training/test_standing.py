"""What stands in a folder already: a run's own files are gone on from, somebody's are left alone, and named (6)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny

from llmkit import recipe as recipes
from llmkit.system.errors import PlaceError
from llmkit.training.fit import fit
from llmkit.training.folder import standing
from llmkit.training.folder.run_folder import RunFolder

EVENT = '{"event": "train", "step": 1, "loss": 2.5}\n'
SUMMARY = '{"status": "completed", "steps": 4}'
CARD = "---\nlibrary_name: transformers\ntags: [llmkit]\n---\n# mine\n"


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path) -> str:
    """What is said of a folder that a run can't take; nothing in it is touched, or made."""
    before = contents(folder)
    for _ in range(2):  # to ask leaves no trace that the next run takes for one of a run
        with pytest.raises(PlaceError) as error, RunFolder(folder).locked():
            pass
        assert error.value.status == 6
    assert contents(folder) == before
    assert not (folder / "checkpoints").exists() or any((folder / "checkpoints").iterdir())
    return str(error.value)


# ---- somebody's files ----


@pytest.mark.parametrize("files", [
    {"README.md": "# my thesis\n"}, {"recipe.yaml": "# my notes\nname: x\n"}, {"summary.json": '{"mine": 1}'},
    {"metrics.jsonl": '{"accuracy": 0.5}\n'}, {"metrics.jsonl": "not JSON\n"}, {"metrics.jsonl": "[1]\n"},
    {"summary.json": "[]"}, {"summary.json": "no JSON"}, {"bad_rows.txt": "my list\n"}, {"trackers.json": "{}"},
    {"model/config.json": "{}"}, {"base/config.json": "{}"}, {".model/x": "x"}, {".README.md": "x"},
    {"checkpoints/step-00000500/pytorch_model.bin": "x"},
], ids=lambda files: ", ".join(f"{name} {text[:12]!r}" for name, text in files.items()))
def test_a_name_that_a_run_writes_and_no_run_wrote_is_told(files: dict[str, str], tmp_path: Path) -> None:
    put(tmp_path, files)
    name = next(iter(files)).partition("/")[0]
    assert refused(tmp_path) == (
        f"{tmp_path}: {name} is there, and no run of llmkit wrote it; this run would write over that. Choose another "
        "--output-dir, or move it away.")


def test_all_such_names_are_told_at_once(tmp_path: Path) -> None:
    put(tmp_path, {"summary.json": '{"mine": 1}', "README.md": "# mine\n", "recipe.yaml": "# mine\n", "notes": "x"})
    assert ": recipe.yaml, summary.json, README.md are there, and no run of llmkit wrote them;" in refused(tmp_path)


def test_a_plain_models_folder_keeps_its_card(tmp_path: Path) -> None:
    put(tmp_path, {"config.json": "{}", "model.safetensors": "x", "README.md": "# base model card\n"})
    assert "README.md is there" in refused(tmp_path)


def test_a_link_to_somebodys_file_is_told_too(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", {"mine.md": "# mine\n"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").symlink_to(tmp_path / "elsewhere" / "mine.md")
    assert "README.md is there" in refused(tmp_path / "run")


@pytest.mark.parametrize("files", [
    {"slurm-1.out": "x", "notes.txt": "x", "train.py": "x"}, {"config.json": "{}", "model.safetensors": "x"},
    {"metrics.jsonl": ""}, {"README.md": ""}, {"checkpoints/best.ckpt": "x"}, {"checkpoints/step-5/x": "x"},
    {"data/recipe.yaml": "x"}, {"models/x": "x"}, {".git/config": "x"}, {".was-mine": "x"}, {".clock-radio": "x"},
    {".held-back/x": "x"}, {"checkpoints/.was-step-1/x": "x"},
], ids=lambda files: ", ".join(files))
def test_other_files_are_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    put(tmp_path, files)
    before = contents(tmp_path)
    with RunFolder(tmp_path).locked():
        pass
    assert {name: text for name, text in contents(tmp_path).items() if name != ".lock"} == before


def test_an_empty_folder_of_a_runs_name_has_nothing_to_lose(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with RunFolder(tmp_path).locked():
        pass


# ---- an earlier run's ----


RAN = {
    "events": {"metrics.jsonl": EVENT}, "a summary": {"summary.json": SUMMARY},
    "a checkpoint": {"checkpoints/step-00000005/MANIFEST.json": "{}"},
    "a summary of one that failed": {"summary.json": '{"status": "failed", "steps": 0}'},
}


@pytest.mark.parametrize("left", RAN)
def test_a_run_that_was_there_is_known_by_what_it_left_though_its_lock_was_not_copied(
    left: str, tmp_path: Path,
) -> None:
    put(tmp_path, {"recipe.yaml": "name: x\n", "model/config.json": "{}", "README.md": CARD, "trackers.json": "{}",
                   "bad_rows.txt": "x\n", **RAN[left]})
    run = RunFolder(tmp_path)
    with run.locked():
        assert not run.first
    assert standing.ours(tmp_path)


@pytest.mark.parametrize("lock", ["", "process 12 on here", "process 12 on here\nabc\n"])
def test_a_run_that_was_killed_before_its_first_step_is_known_by_its_lock(
    lock: str, tmp_path: Path, text: Path,
) -> None:
    recipe = recipes.load(tiny("gpt2", text, tmp_path))
    put(tmp_path, {".lock": lock, "recipe.yaml": recipes.dump(recipe), "metrics.jsonl": "", "bad_rows.txt": "x\n",
                   "trackers.json": "{}", "base/config.json": "{}"})
    (tmp_path / "checkpoints").mkdir()
    os.utime(tmp_path / ".lock", (1000, 1000))
    run = RunFolder(tmp_path)
    with run.locked():
        assert not run.first


@pytest.mark.parametrize("files", [
    {"README.md": "# mine\n"}, {"recipe.yaml": "# mine\nname: x\n"}, {"summary.json": '{"mine": 1}'},
    {"metrics.jsonl": '{"mine": 1}\n'}, {"model/config.json": "{}"}], ids=lambda files: next(iter(files)))
def test_what_came_after_a_run_that_failed_early_is_somebodys(files: dict[str, str], tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked():
        pass
    put(tmp_path, files)
    with (pytest.raises(PlaceError, match=f"{next(iter(files)).partition('/')[0]} is there, and no run"),
          RunFolder(tmp_path).locked()):
        pass


def test_another_programs_lock_is_no_runs(tmp_path: Path) -> None:
    put(tmp_path, {".lock": "4711\n", "bad_rows.txt": "mine\n"})
    assert "bad_rows.txt, .lock are there" in refused(tmp_path)


# ---- the card, and other networks ----


@pytest.mark.parametrize(("card", "mine"), [
    (CARD, False), ("", False), ("# my thesis\n", True), ("see llmkit\n", True), ("x" * 3000 + CARD, True)])
def test_in_a_runs_folder_a_card_that_no_run_wrote_is_seen_before_it_trains(
    card: str, mine: bool, tmp_path: Path,
) -> None:
    put(tmp_path, {"metrics.jsonl": EVENT, "README.md": card})
    run = RunFolder(tmp_path)
    with run.locked():
        if mine:
            with pytest.raises(PlaceError, match=r"README\.md is there, and no run of llmkit wrote it"):
                run.free(())
        else:
            run.free(())


def test_another_networks_folder_is_somebodys_in_a_folder_where_no_run_was(tmp_path: Path) -> None:
    put(tmp_path, {"generator/config.json": "{}"})
    run = RunFolder(tmp_path)
    with run.locked():
        run.free(["discriminator"])
        with pytest.raises(PlaceError, match="generator is there"):
            run.free(["discriminator", "generator"])
    put(tmp_path, {"metrics.jsonl": EVENT})
    with run.locked():
        run.free(["generator"])


# ---- runs ----


def in_place(folder: Path, text: Path, **files: str) -> Callable[..., Any]:
    """`fit` of a recipe that stands in the folder it would write to."""
    tree = tiny("gpt2", text, folder, max_steps=2)
    put(folder, files)
    return lambda **more: fit(recipes.load({**tree, **more}))


def test_a_project_keeps_its_readme_and_its_recipe(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = tiny("gpt2", text, Path(), max_steps=2)
    put(tmp_path, {"README.md": "# my thesis\n", "recipe.yaml": "# my notes\n" + yaml.safe_dump(tree)})
    before = contents(tmp_path)
    with pytest.raises(PlaceError, match=r"recipe\.yaml, README\.md are there"):
        fit(recipes.load("recipe.yaml"))
    assert contents(tmp_path) == before


def test_a_run_beside_other_files_trains_is_reported_and_goes_on(tmp_path: Path, text: Path) -> None:
    run = in_place(tmp_path / "run", text, **{"slurm-1.out": "x", "notes.md": "mine"})
    assert run()["steps"] == 2
    assert run()["steps"] == 2  # reported
    assert run(training={"figures": False,
                         "max_steps": 2, "global_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1,
                         "precision": "fp32"}, name="other")["steps"] == 2
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"
    card = (tmp_path / "run" / "README.md").read_text()
    assert standing.check_card(tmp_path / "run") is None and "tags: [llmkit]" in card
    (tmp_path / "run" / "README.md").write_text("# what I think of it\n")
    assert run()["steps"] == 2  # it is only read
    assert (tmp_path / "run" / "README.md").read_text() == "# what I think of it\n"


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(standing, "check", refuses)
    with pytest.raises(PlaceError, match="Permission denied"), RunFolder(tmp_path).locked():
        pass


def test_a_summary_that_nests_without_end_is_no_summary(tmp_path: Path) -> None:
    put(tmp_path, {"summary.json": "[" * 100_000})
    assert "summary.json is there" in refused(tmp_path)
    assert json.loads(SUMMARY)["steps"] == 4
    assert os.path.lexists(tmp_path / "summary.json")
