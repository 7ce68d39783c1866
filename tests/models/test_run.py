"""A run's folder has one reader, whichever version wrote it and however far the run came."""

import json
from pathlib import Path

import pytest

from llmkit import recipe
from llmkit.models.run import Run, recipe_of
from llmkit.system.errors import CheckpointError

RECIPE = """
name: small
backbone: {family: bert, size: tiny}
tokenizer: {train: {vocab_size: 300}}
data: {train: stories.txt}
objective: masked_lm
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a finished run leaves, but for its weights."""
    folder = tmp_path / "runs" / "small"
    for name in ("model", "generator", "checkpoints/step-00000500", "checkpoints/step-100000000",
                 "checkpoints/.step-00000600"):
        (folder / name).mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "summary.json").write_text(json.dumps({"status": "completed", "steps": 500}))
    (folder / "metrics.jsonl").write_text('{"event": "train", "step": 1}\n{"event": "train", "step": 2}\n{"event": "tr')
    return folder


@pytest.mark.parametrize("below", ["", "model", "generator"])
def test_a_path_is_of_the_run_that_it_is_in(run, below, monkeypatch):
    assert Run.open(run / below).recipe.name == "small"
    monkeypatch.chdir(run)
    assert Run.open(below or ".").recipe.name == "small"
    monkeypatch.chdir(run / below)
    assert Run.open(".").recipe.name == "small"


def test_a_run_in_ones_own_home_is_found(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe_of("~/runs/small").name == "small"


def test_a_name_of_the_catalogue_is_no_run_in_a_runs_folder(run, monkeypatch):
    monkeypatch.chdir(run)
    assert recipe_of("smollm2-135m-instruct") is None
    assert recipe_of("smollm2-135m-instruct/") is None


def test_an_id_of_the_hub_is_no_run_beside_a_run_of_its_owners_name(run, tmp_path, monkeypatch):
    run.rename(tmp_path / "google-bert")
    monkeypatch.chdir(tmp_path)
    assert recipe_of("google-bert/bert-base-uncased") is None
    assert recipe_of("google-bert").name == "small"


def test_a_folder_without_a_recipe_is_no_run(run):
    (run / "recipe.yaml").unlink()
    assert Run.open(run) is None


def test_an_exported_model_is_no_run_though_a_recipe_lies_in_it(tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "recipe.yaml").write_text(RECIPE)
    assert Run.open(tmp_path / "given") is None


def test_metrics_end_where_a_line_was_cut_short(run):
    assert [event["step"] for event in Run(run).events] == [1, 2]


def test_checkpoints_are_those_that_appeared_the_oldest_first(run):
    assert Run(run).checkpoints == ["step-00000500", "step-100000000"]


def test_a_run_that_goes_on_has_a_recipe_and_no_model(run):
    (run / "model").rmdir()
    (run / "summary.json").unlink()
    (run / "metrics.jsonl").unlink()
    open_ = Run.open(run)
    assert (open_.summary, open_.completed, open_.has_model, list(open_.events)) == (None, False, False, [])
    assert recipe_of(run) is None


@pytest.mark.parametrize(("summary", "completed"), [
    ({"status": "completed"}, True), ({"status": "stopped"}, False), ({"status": "failed"}, False), ({}, False)])
def test_a_run_is_complete_where_its_summary_says_so(run, summary, completed):
    (run / "summary.json").write_text(json.dumps(summary))
    assert Run(run).completed is completed
    assert Run(run).summary == summary


def test_a_summary_that_is_cut_short_is_no_complete_runs(run):
    (run / "summary.json").write_text('{"status": "comp')
    assert not Run(run).completed
    with pytest.raises(CheckpointError, match=r"summary\.json: can't be read"):
        _ = Run(run).summary


def test_a_recipe_is_had_checked_and_as_it_is_written(run):
    assert Run(run).recipe == recipe.load(run / "recipe.yaml")
    (run / "recipe.yaml").write_text("name: small\nlater: 1\n")
    assert Run(run).asked == {"name": "small", "later": 1}
