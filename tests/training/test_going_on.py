"""Whether a run goes on, is reported, starts afresh or is refused: every answer of `pick_up`, without training."""

import json
from dataclasses import replace
from typing import Any

import pytest

from llmkit import recipe as recipes
from llmkit.recipe import Recipe
from llmkit.system.errors import CheckpointError, PlaceError
from llmkit.training.folder.belonging import is_longer
from llmkit.training.folder.resume import pick_up, restored
from llmkit.training.folder.run_folder import RunFolder, verify

TREE: dict[str, Any] = {
    "name": "run", "backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {}}, "objective": "masked_lm",
    "data": {"train": "a.txt"}, "tuning": {"method": "full"},
    "training": {"max_steps": 8, "lr_scheduler_type": "constant", "micro_batch_size": 4, "compile": False,
                 "precision": "fp32"}}


def recipe(method: str = "full", **training: Any) -> Recipe:
    return recipes.load({**TREE, "tuning": {"method": method}, "training": {**TREE["training"], **training}})


@pytest.fixture
def run(tmp_path):
    """A folder that holds a run of eight steps, saved after four."""
    made = RunFolder(tmp_path / "run")
    manifest = {"state": {"step": 4}, "data": {"a.txt": "abc"}, "processes": 1}
    made.save(4, manifest, lambda folder: (folder / "x").write_text("x"), 2)
    made.write_recipe(recipe())
    return made


def finished(run: RunFolder) -> None:
    run.model.mkdir()
    run.write("summary.json", json.dumps({"status": "completed", "steps": 8}))


def test_an_empty_folder_starts_afresh(tmp_path):
    assert pick_up(RunFolder(tmp_path / "new"), recipe(), recipe(), "auto") == (None, None)


def test_must_refuses_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match="there is nothing to resume"):
        pick_up(RunFolder(tmp_path / "new"), recipe(), recipe(), "must")


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_the_same_recipe_goes_on(run, resume):
    start, done = pick_up(run, recipe(), recipe(), resume)
    assert done is None
    assert start is not None
    assert start.step == 4


def test_never_refuses_a_folder_in_use(run):
    with pytest.raises(PlaceError, match="holds a run already"):
        pick_up(run, recipe(), recipe(), "never")


@pytest.mark.parametrize("free", [{"logging_steps": 3}, {"save_steps": 7}, {"save_total_limit": 9},
                                  {"dataloader_num_workers": 2}])
def test_logging_and_saving_may_differ(run, free):
    assert pick_up(run, recipe(**free), recipe(**free), "auto")[0] is not None


@pytest.mark.parametrize(("other", "what"), [
    ({"learning_rate": 0.1}, "training.learning_rate is 0.1, there None"),
    ({"global_batch_size": 16}, "training.global_batch_size is 16, there 32"),
    ({"max_steps": 4}, "training.max_steps is 4, there 8"),
    ({"max_steps": None, "num_train_epochs": 2}, "training.num_train_epochs is 2"),
])
def test_another_recipe_is_refused_with_what_differs(run, other, what):
    with pytest.raises(CheckpointError, match=what.replace(".", r"\.")):
        pick_up(run, recipe(**other), recipe(**other), "auto")


def test_a_micro_batch_size_that_was_left_open_is_no_difference(run):
    asked, settled = recipe(micro_batch_size="auto"), recipe(micro_batch_size=8)
    assert pick_up(run, asked, settled, "auto")[0] is not None
    with pytest.raises(CheckpointError, match=r"micro_batch_size is 8, there 4"):
        pick_up(run, settled, settled, "auto")


def test_a_finished_run_is_reported(run):
    finished(run)
    assert pick_up(run, recipe(), recipe(), "auto") == (None, {"status": "completed", "steps": 8})


def test_a_longer_run_goes_on_from_a_finished_one(run):
    finished(run)
    start, done = pick_up(run, recipe(max_steps=20), recipe(max_steps=20), "auto")
    assert (start.step, done) == (4, None)


def test_a_run_without_a_checkpoint_starts_afresh_but_must_does_not(run):
    for path in run.checkpoint(4).iterdir():
        path.unlink()
    run.checkpoint(4).rmdir()
    run.log({"event": "train", "step": 1})
    run.close()
    assert pick_up(run, recipe(), recipe(), "auto") == (None, None)
    with pytest.raises(CheckpointError, match="no checkpoint was saved yet"):
        pick_up(run, recipe(), recipe(), "must")


def test_a_checkpoint_may_be_named_by_its_folder_or_its_runs(run):
    for path in (run.folder, run.checkpoint(4)):
        assert pick_up(run, recipe(), recipe(), str(path))[0].folder == run.checkpoint(4)
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        pick_up(run, recipe(), recipe(), str(run.folder / "nope"))


@pytest.mark.parametrize(("kind", "warmup", "method", "longer"), [
    ("constant", 0, "full", True), ("constant_with_warmup", 10, "full", True), ("inverse_sqrt", 10, "full", True),
    ("constant_with_warmup", 0.1, "full", False), ("linear", 0, "full", False), ("cosine", 0, "full", False),
    ("constant", 0, "adalora", False)])
def test_a_greater_length_goes_on_where_nothing_was_planned_by_the_old_one(kind, warmup, method, longer):
    ours = recipe(method, max_steps=20, lr_scheduler_type=kind, warmup_steps=warmup)
    assert is_longer(ours, {"training.max_steps": (20, 8)}) is longer
    assert not is_longer(ours, {"training.max_steps": (8, 20)})
    assert not is_longer(ours, {"training.max_steps": (20, 8), "seed": (1, 2)})
    assert not is_longer(ours, {"training.max_tokens": (20, None), "training.max_steps": (None, 8)})


def test_data_that_changed_is_named(run):
    start = verify(run.checkpoint(4))
    assert restored(start, {"a.txt": "abc"}, 1).step == 4
    with pytest.raises(CheckpointError, match=r"the data has changed since: a\.txt"):
        restored(start, {"a.txt": "abd"}, 1)


def test_another_number_of_processes_is_said(run, caplog):
    with caplog.at_level("INFO", "llmkit"):
        restored(verify(run.checkpoint(4)), {"a.txt": "abc"}, 2)
    assert "2 processes, 1 before: the same rows, other dropout" in caplog.text


def test_counts_of_another_version_are_refused(run):
    start = verify(run.checkpoint(4))
    other = replace(start, manifest={**start.manifest, "state": {"step": 4, "of_the_future": 1}})
    with pytest.raises(CheckpointError, match="was written by another version of llmkit"):
        restored(other, {"a.txt": "abc"}, 1)
