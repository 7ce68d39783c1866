"""A run's folder has one reader, whichever version wrote it and however far the run came."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmkit import recipe
from llmkit.models.fetch import resolve, resolve_tokenizer
from llmkit.models.layout import model_in
from llmkit.models.run import Run, recipe_of
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.system.locks import this_process

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


# ---- a run that goes on ----


def goes_on(run: Path, before: object = None, status: str = "running") -> Run:
    """The folder of a run of eight steps that is on its way to more."""
    (run / "model").rename(run / "model.before")
    (run / "model.before" / "config.json").write_text("{}")
    said = {} if before is None else {"before": before}
    (run / "summary.json").write_text(json.dumps({"status": status, "steps": 30, **said}))
    return Run(run)


ENDED = {"status": "completed", "steps": 8}


def test_the_model_of_a_run_that_goes_on_is_the_one_that_it_had_before(run):
    assert model_in(run) == run / "model"
    found = goes_on(run, ENDED)
    assert (found.model, found.has_model, found.completed) == (run / "model.before", True, False)
    assert (found.of_model, found.ended) == (ENDED, ENDED)
    assert recipe_of(run).name == recipe_of(run / "model.before").name == recipe_of(run / "model").name == "small"
    assert Run.open(run / "model").folder == run
    (run / "model").mkdir()
    assert found.model == run / "model"


def test_without_any_model_the_usual_place_is_named(tmp_path):
    assert model_in(tmp_path) == tmp_path / "model"
    assert not Run(tmp_path).has_model


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_what_is_said_of_its_model_is_what_was_said_when_it_had_ended(run, status):
    assert goes_on(run, ENDED, status).of_model == ENDED


def test_killed_before_the_model_was_set_aside_it_is_still_that_of_the_end_before(run):
    (run / "summary.json").write_text(json.dumps({"status": "running", "steps": 8, "before": ENDED}))
    assert (Run(run).ended, Run(run).model) == (ENDED, run / "model")


def test_killed_after_the_new_model_was_published_nothing_was_said_of_it_yet(run):
    found = goes_on(run, ENDED)
    (run / "model").mkdir()
    assert found.ended is None
    assert found.of_model["steps"] == 30


@pytest.mark.parametrize(("summary", "ended"), [
    ('{"status": "completed", "steps": 500}', True), ('{"status": "stopped", "steps": 500}', False),
    ('{"status": "running", "before": [1]}', False), ('{"status": "comp', False), ("", False)])
def test_a_run_ended_where_its_summary_says_so(run, summary, ended):
    (run / "summary.json").write_text(summary)
    assert (Run(run).ended is not None) is ended


def test_a_summary_without_its_model_is_of_no_end(run):
    (run / "model").rmdir()
    assert Run(run).ended is None
    (run / "summary.json").unlink()
    assert (Run(run).ended, Run(run).of_model) == (None, None)


def test_using_the_model_before_is_said_with_its_steps(run, caplog):
    goes_on(run, ENDED)
    for name in (run, run / "model"):
        caplog.clear()
        assert resolve(name) == run / "model.before"
        assert [record.getMessage() for record in caplog.records] == [
            f"{run} goes on to a greater length and hasn't come to its end yet: the model that it had before, of 8 "
            "steps, is used (model.before)"]
        assert "once" in caplog.records[0].__dict__
    caplog.clear()
    assert resolve(run / "model.before") == run / "model.before"
    assert caplog.text == ""


@pytest.mark.parametrize("before", [None, {}, "x", {"steps": "many"}, {"steps": None}])
def test_where_nothing_says_its_steps_it_is_used_all_the_same(run, before, caplog):
    goes_on(run, before)
    assert resolve(run) == run / "model.before"
    assert "the model that it had before is used" in caplog.text


def test_a_new_model_is_used_as_soon_as_it_is_there(run, caplog):
    goes_on(run, ENDED)
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    assert resolve(run) == resolve(run / "model") == run / "model"
    assert caplog.text == ""


def test_its_tokenizer_is_found_there_too(run):
    goes_on(run, ENDED)
    (run / "model.before" / "tokenizer.json").write_text("{}")
    assert resolve_tokenizer(run) == run / "model.before"


def test_a_run_without_checkpoints_is_still_one_while_it_goes_on(run):
    goes_on(run, ENDED)
    for name in ("step-00000500", "step-100000000", ".step-00000600", ""):
        (run / "checkpoints" / name).rmdir()
    assert Run.open(run) is not None


def test_a_run_that_never_ended_has_no_model(run):
    (run / "model").rmdir()
    with pytest.raises(RequestError, match="a run that isn't finished: it has no model/ yet"):
        resolve(run)


# ---- whether it runs ----


def running(run: Path) -> Run:
    (run / "summary.json").write_text('{"status": "running"}')
    return Run(run)


def test_a_run_runs_while_a_process_has_its_folder(run):
    assert running(run).status == "interrupted"
    (run / f".held-{this_process()}").touch()
    assert Run(run).status == "running"
    (run / "summary.json").write_text(json.dumps(ENDED))
    assert Run(run).status == "completed"


def test_a_process_that_ended_or_whose_number_is_anothers_now_has_no_folder(run):
    child = subprocess.Popen(["sleep", "60"])
    name = f".held-{child.pid}-{started(child.pid)}"
    (run / name).touch()
    assert running(run).status == "running"
    child.kill()
    while state(child.pid) != "Z":  # nobody asked yet how it ended
        time.sleep(0.01)
    assert Run(run).status == "interrupted"
    child.wait()
    assert Run(run).status == "interrupted"
    (run / name).unlink()
    for other in (f"{os.getpid()}-1", "x", "", f"{os.getpid()}", "99999999-1"):
        (run / f".held-{other}").touch()
    assert Run(run).status == "interrupted"


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(("host", "seconds", "status"), [
    ("elsewhere", 10, "running"), ("elsewhere", 400, "interrupted"), (None, 10, "interrupted")])
def test_a_run_on_another_machine_runs_while_it_gives_signs_of_life(run, host, seconds, status):
    """On this machine the lock's text alone says nothing: a run that was killed leaves it."""
    lock = run / ".lock"
    lock.write_text(f"process 1 on {host or socket.gethostname()}")
    past = time.time() - seconds
    os.utime(lock, (past, past))
    assert running(run).status == status


@pytest.mark.parametrize("text", ["", "process", "\x00\xff on"])
def test_a_lock_that_says_nothing_is_nobodys(run, text):
    (run / ".lock").write_text(text)
    assert running(run).status == "interrupted"


def test_looking_whether_a_run_runs_does_not_let_go_of_its_lock(tmp_path):
    """POSIX: whoever closes a file of his own that he has locked lets go of it."""
    from llmkit.training.folder.run_folder import RunFolder

    with RunFolder(tmp_path / "run").locked():
        assert Run(tmp_path / "run").held
        code = ("import sys; from llmkit.system.locks import lock\n"
                "try:\n    lock(open(sys.argv[1], 'a+'))\nexcept OSError: print('held')\nelse: print('free')")
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run" / ".lock")], capture_output=True,
                               text=True, check=True)
        assert other.stdout == "held\n"
    assert not Run(tmp_path / "run").held


def test_a_run_that_says_nothing_has_no_status(run):
    (run / "summary.json").unlink()
    assert Run(run).status is None
