"""Whether a run goes on, is reported, starts afresh or is refused: every answer of `pick_up`, without training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmkit import recipe as recipes
from llmkit.recipe import Recipe
from llmkit.system.errors import CheckpointError, PlaceError
from llmkit.training.folder.belonging import is_longer
from llmkit.training.folder.resume import as_before, finished, pick_up, restored, tell_of_rounding
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


def ended(run: RunFolder, **said: Any) -> None:
    run.model.mkdir()
    run.write("summary.json", json.dumps({"status": "completed", "steps": 8, **said}))


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
    ended(run)
    assert pick_up(run, recipe(), recipe(), "auto") == (
        None, {"status": "completed", "steps": 8, "output_dir": str(run.folder)})


def test_a_longer_run_goes_on_from_a_finished_one(run):
    ended(run)
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


def named_by_a_checkpoint(run: RunFolder, theirs: Recipe | None, step: int = 4) -> str:
    """A checkpoint that says which recipe it was saved for, or as older versions left it."""
    noted = {} if theirs is None else {"recipe": recipes.tree_of(theirs)}
    run.save(step, {"state": {"step": step}, "data": {}, "processes": 1, **noted},
             lambda folder: (folder / "x").write_text("x"), 2)
    return str(run.checkpoint(step))


OTHERS = [({"learning_rate": 0.5}, r"training\.learning_rate is None, there 0\.5"),
          ({"weight_decay": 0.5}, r"training\.weight_decay is 0\.01, there 0\.5"),
          ({"max_steps": 9}, r"training\.max_steps is 8, there 9"),
          ({"max_steps": None, "max_tokens": 900},
           r"training\.max_steps is 8, there None; training\.max_tokens is None, there 900")]


@pytest.mark.parametrize("folder", ["empty", "its own"])
@pytest.mark.parametrize(("theirs", "what"), OTHERS)
def test_a_checkpoint_that_is_named_is_refused_where_it_was_saved_for_another_recipe(
    run, tmp_path, theirs, what, folder,
):
    path = named_by_a_checkpoint(run, recipe(**theirs))
    into = run if folder == "its own" else RunFolder(tmp_path / "new")
    with pytest.raises(CheckpointError, match=rf"is of another recipe's run \({what}.*Ask for what it was"):
        pick_up(into, recipe(), recipe(), path)


def test_one_that_is_found_is_refused_too_though_the_folders_recipe_was_edited_since(run):
    named_by_a_checkpoint(run, recipe(learning_rate=0.5))
    with pytest.raises(CheckpointError, match=r"learning_rate is None, there 0\.5"):
        pick_up(run, recipe(), recipe(), "auto")


def test_a_checkpoint_that_is_named_may_be_of_the_same_recipe_or_a_shorter_one(run, tmp_path):
    path, new = named_by_a_checkpoint(run, recipe(save_steps=3)), RunFolder(tmp_path / "new")
    for into in (run, new):
        assert pick_up(into, recipe(), recipe(), path)[0].step == 4
        assert pick_up(into, recipe(max_steps=20), recipe(max_steps=20), path)[0].step == 4


def test_a_checkpoint_that_is_named_does_not_go_over_another_recipes_run(run, tmp_path):
    """Neither over a finished one, nor over one that was killed, nor over a longer one of the same recipe."""
    path, other = named_by_a_checkpoint(run, recipe()), RunFolder(tmp_path / "other")
    for theirs, what in ((recipe(learning_rate=0.5), "learning_rate is None, there 0.5"),
                         (recipe(max_steps=300), "max_steps is 8, there 300")):
        other.write_recipe(theirs)
        other.log({"event": "train", "step": 1})
        with pytest.raises(CheckpointError, match=rf"holds another recipe's run \(training.{what}\)"):
            pick_up(other, recipe(), recipe(), path)
    other.close()


def test_one_of_an_older_version_is_compared_with_the_recipe_of_its_runs_folder(run, tmp_path, caplog):
    path, new = named_by_a_checkpoint(run, None), RunFolder(tmp_path / "new")
    assert pick_up(new, recipe(), recipe(), path)[0].step == 4
    with pytest.raises(CheckpointError, match="seed"):
        pick_up(new, replace(recipe(), seed=7), replace(recipe(), seed=7), path)
    (run.folder / "recipe.yaml").unlink()
    assert "noted no recipe" not in caplog.text
    assert pick_up(new, replace(recipe(), seed=7), replace(recipe(), seed=7), path)[0].step == 4
    assert "saved by a version of llmkit that noted no recipe, so none is compared" in caplog.text


def test_what_it_is_compared_with_is_said_before_what_stands_in_the_folder_is_read(run, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        pick_up(RunFolder(tmp_path / "new"), recipe(), recipe(), str(tmp_path / "nothing"))


# ---- finished, for which recipe ----


@pytest.mark.parametrize(("length", "asked", "whole"), [
    ({"max_steps": 8}, {}, True),
    ({"max_steps": 8}, {"max_steps": 300}, False),
    ({"max_tokens": 900}, {"max_steps": None, "max_tokens": 900}, True),
    ({"max_tokens": 900}, {"max_steps": None, "max_tokens": 901}, False),
    ({"num_train_epochs": 2.0}, {"max_steps": None, "num_train_epochs": 2}, True),
    ({"num_train_epochs": 2.0}, {"max_steps": None, "num_train_epochs": 2.5}, False),
    ({"max_minutes": 1.0}, {"max_steps": None, "max_minutes": 60}, False)])
def test_a_summary_is_of_the_length_that_it_says(run, length, asked, whole):
    ended(run, length=length, steps=8, tokens=900)
    assert (finished(run, recipe(**asked)) is not None) is whole


@pytest.mark.parametrize(("said", "lines", "asked", "whole"), [
    ({}, [7, 8], {}, True),
    ({}, [7, 8], {"max_steps": 300}, False),
    ({}, [8, 9], {}, False),  # it went on and was killed
    ({"tokens": 900}, [8], {"max_steps": None, "max_tokens": 900}, True),
    ({"tokens": 900}, [8], {"max_steps": None, "max_tokens": 1000}, False),
    ({}, [8], {"max_steps": None, "num_train_epochs": 2}, True),
    ({}, [8], {"max_steps": None, "num_train_epochs": 3}, False),
    ({"why": "early stopping"}, [8], {"max_steps": 300}, True),
    ({"why": "early stopping"}, [9], {"max_steps": 300}, False),
    ({"why": "the recipe's length is reached"}, [8], {"max_steps": 300}, False)])
def test_a_summary_of_an_older_version_is_of_the_length_that_the_run_came_to(run, said, lines, asked, whole):
    ended(run, **said)
    for step in lines:
        run.log({"event": "train", "step": step, "epoch": step / 4})
    run.close()
    assert (finished(run, recipe(**asked)) is not None) is whole


def test_a_checkpoint_behind_the_end_shows_that_a_run_of_an_older_version_went_on(run):
    ended(run)
    assert finished(run, recipe()) is not None
    named_by_a_checkpoint(run, None, 12)
    assert finished(run, recipe()) is None


@pytest.mark.parametrize("spoil", ["no model", "no summary", "half a summary", "running", "stopped"])
def test_a_run_is_finished_where_its_summary_says_so_and_its_model_is_there(run, spoil):
    ended(run, length={"max_steps": 8}, status=spoil if spoil in ("running", "stopped") else "completed")
    if spoil == "no model":
        run.set_aside()
    elif spoil == "no summary":
        (run.folder / "summary.json").unlink()
    elif spoil == "half a summary":
        run.write("summary.json", '{"status": "comp')
    assert finished(run, recipe()) is None


def test_the_length_that_grew_goes_on_though_the_summary_of_an_older_version_does_not_say_its_own(run):
    """Minutes: nothing that is left says how many they were."""
    run.write_recipe(recipe(max_steps=None, max_minutes=1))
    ended(run)
    longer = recipe(max_steps=None, max_minutes=2)
    assert pick_up(run, longer, longer, "must")[0].step == 4
    same = recipe(max_steps=None, max_minutes=1)
    assert pick_up(run, same, same, "must")[1]["steps"] == 8


# ---- micro-batches ----


def settled_with(micro: int) -> Any:
    from llmkit.planning.settle import Settled

    made = recipe(global_batch_size=16, micro_batch_size=micro)
    return Settled(made, Any, [], None, None, Any, {"micro_batch_size": "as many as fit"})  # type: ignore[arg-type]


def test_micro_batches_are_those_of_the_folders_recipe_or_of_the_checkpoint_in_a_new_folder(run, tmp_path):
    path = named_by_a_checkpoint(run, recipe(micro_batch_size=2))
    start = verify(Path(path))
    assert as_before(settled_with(16), run, start).recipe.training.micro_batch_size == 4
    found = as_before(settled_with(16), RunFolder(tmp_path / "new"), start)
    assert found.recipe.training.micro_batch_size == 2
    assert found.chosen == {"micro_batch_size": "as many as before"}
    older = verify(Path(named_by_a_checkpoint(run, None)))
    assert as_before(settled_with(16), RunFolder(tmp_path / "new"), older).recipe.training.micro_batch_size == 16


# ---- longer, and what else differs ----


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


@pytest.mark.parametrize(("before", "said"), [
    (3, ", 3 before: the same rows, but sums are rounded otherwise"), (None, ""), (0, ""), ("many", "")])
def test_another_number_of_threads_is_said(run, caplog, monkeypatch, before, said):
    """0 stands for as many as now; a checkpoint of an older version says nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    start = verify(run.checkpoint(4))
    threads = torch.get_num_threads()
    manifest = {**start.manifest, "threads": before if before != 0 else threads}
    with caplog.at_level("INFO", "llmkit"):
        restored(replace(start, manifest=manifest), {"a.txt": "abc"}, 1)
    assert said in caplog.text
    assert ("before: the same rows" in caplog.text) is bool(said)
    if said:
        assert f"{threads} {'thread' if threads == 1 else 'threads'}, 3 before" in caplog.text
        assert "OMP_NUM_THREADS=3 goes on to the bit" in caplog.text


@pytest.mark.parametrize(("then", "shortcuts", "said"), [
    (None, ["target_heads", "chunked_loss", "unpadded"], "whose shortcuts (chunked_loss, unpadded) round otherwise"),
    ({"chunked_loss": 2}, ["chunked_loss", "short_attention"], "whose shortcuts (short_attention) round otherwise"),
    ({"two_streams": 7}, ["two_streams"], "whose shortcuts (two_streams) round otherwise"),
    (None, ["target_heads", "fused_norms"], None), (None, [], None),
    (recipes.ROUNDING, sorted(recipes.ROUNDING), None)])
def test_shortcuts_that_another_version_rounded_otherwise_are_said(run, caplog, then, shortcuts, said):
    """A checkpoint that notes nothing is an older version's; one of a newer version may note more."""
    start = verify(run.checkpoint(4))
    other = replace(start, manifest={**start.manifest, **({} if then is None else {"rounding": dict(then)})})
    with caplog.at_level("INFO", "llmkit"):
        tell_of_rounding(other, shortcuts)
    assert [said in caplog.text, "only that version goes on to the bit" in caplog.text] == [True, True] if said else (
        caplog.text == "")


def test_counts_of_another_version_are_refused(run):
    start = verify(run.checkpoint(4))
    other = replace(start, manifest={**start.manifest, "state": {"step": 4, "of_the_future": 1}})
    with pytest.raises(CheckpointError, match="was written by another version of llmkit"):
        restored(other, {"a.txt": "abc"}, 1)
