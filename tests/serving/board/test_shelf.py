"""All runs under a folder: what is told of them, and that a broken, huge, linked or vanished one stops nothing."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from llmkit.serving.board.shelf import Shelf, look
from llmkit.serving.protocol import ApiError
from llmkit.training.folder.holding import held

OLD = Path(__file__).parents[2] / "older" / "0.1.0"


def test_a_row_says_how_far_a_run_is(made, tmp_path):
    folder = made(status="running")
    shelf = Shelf(tmp_path / "runs")
    (one,) = shelf.listing()["runs"]
    assert (one["id"], one["status"], one["steps"], one["left"]) == ("first", "interrupted", 10, None)
    assert (one["loss"], one["validation"], one["share"]) == (2.0, 2.5, 0.5)
    with held(folder):
        (one,) = shelf.listing()["runs"]
        assert (one["status"], one["left"]) == ("running", pytest.approx(20.0))


def test_a_row_is_read_anew_where_its_files_changed(made, tmp_path, monkeypatch):
    folder = made()
    shelf = Shelf(tmp_path / "runs")
    assert shelf.listing()["runs"][0]["loss"] == 2.0
    with monkeypatch.context() as patch:
        patch.setattr("llmkit.serving.board.shelf.Story.of", None)  # it isn't read while nothing changes
        assert shelf.listing()["runs"][0]["loss"] == 2.0
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "train", "step": 11, "loss": 1.5}) + "\n")
    assert shelf.listing()["runs"][0]["loss"] == 1.5


def test_all_of_a_run_is_told(made, tmp_path):
    folder = made(floors={"majority class": {"loss": 3.0}}, resumed=[{"step": 4, "at": "2026-11-30"}],
                  evaluation_before={"loss": 4.0}, peak_memory_bytes=10**9, versions={"torch": "2.11"},
                  why="the recipe's length is reached", best={"step": 8, "loss": 2.5})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "spike", "step": 5, "loss": float("nan"), "deviations": 9.0}) + "\n")
    (folder / "samples.jsonl").write_text(json.dumps({"event": "samples", "step": 0, "about": "four rows", "rows": [
        {"text": [["the ", "", ""], ["cat", "wrong", "dog 0.3"]], "near": ["a", "b"], "cosine": 0.5}]}) + "\n")
    (folder / "bad_rows.txt").write_text("a.csv:3: no label\n")
    told = Shelf(tmp_path / "runs").told("first", "en")
    assert told["figures"] == [{"name": "loss", "before": 4.0, "after": 2.5, "floors": [3.0]}]
    assert told["floors"] == ["majority class: the most frequent label of training"]
    assert told["floor_lines"] == {"loss": {"majority class": 3.0}}
    assert told["happened"] == [{"step": 4, "what": "resumed", "at": "2026-11-30"},
                                {"step": 5, "what": "spike", "loss": None, "deviations": 9.0},
                                {"step": 8, "what": "best"}]
    assert told["samples"] == [{"step": 0, "about": "four rows", "names": ["text", "near", "cosine"], "rows": [
        [[["the ", "", ""], ["cat", "wrong", "dog 0.3"]], ["a", "b"], 0.5]]}]
    assert told["bad"] == {"count": 1, "first": ["a.csv:3: no label"]}
    assert told["cost"]["peak_memory_bytes"] == 10**9 and told["versions"] == {"torch": "2.11"}
    assert ["training.max_steps", "20", "null", True] in told["recipe"]
    assert told["can"] == {"rows": True, "chat": False, "predict": None, "why": "model"}
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(("name", "able"), [
    ("gpt2", {"rows": True, "chat": True, "predict": None, "why": ""}),
    ("bert", {"rows": True, "chat": False, "predict": None, "why": "learning"}),
    ("lora", {"rows": True, "chat": False, "why": "", "predict": [
        {"name": "text", "needed": True, "lines": False}, {"name": "text_pair", "needed": False, "lines": False}]})])
def test_what_can_be_asked_of_a_run_follows_from_what_it_learned(name, able):
    assert Shelf(OLD).told(name, "en")["can"] == able


def test_a_plug_in_of_somebodys_own_is_not_run(made, tmp_path):
    folder = made()
    recipe = json.loads((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(json.dumps({**recipe, "objective": {"name": "evil.module"}}))
    assert Shelf(tmp_path / "runs").told("first", "en")["can"] == {
        "rows": False, "chat": False, "predict": None, "why": "recipe"}


@pytest.mark.parametrize(("file", "content"), [
    ("summary.json", b"{"), ("summary.json", b"[1]"), ("summary.json", b'{"status": 3, "steps": "x"}'),
    ("summary.json", b'{"evaluation": [1], "best": 3, "resumed": 4, "floors": 5, "versions": 6, "why": 7}'),
    ("metrics.jsonl", b'{"event": "train", "step": 1, "loss": "low"}\n\x00\xff\n[]\n'),
    ("samples.jsonl", b'{"event": "samples", "step": 1, "rows": [3]}\n{"step": 1, "event": "samples", "rows": 3}\n'),
    ("recipe.yaml", b"a: [\n"), ("recipe.yaml", b"- 1\n"), ("recipe.yaml", b"training: 3\nbackbone: [1]\ntask: 5\n")])
def test_a_broken_file_is_told_of_or_passed_over(made, tmp_path, file, content):
    folder = made("broken")
    made("whole")
    (folder / file).write_bytes(content)
    shelf = Shelf(tmp_path / "runs")
    found = shelf.listing()
    assert "whole" in [one["id"] for one in found["runs"]]
    assert len(found["runs"]) + len(found["notes"]) >= 2
    for ask in (lambda: json.dumps(shelf.told("broken", "en"), allow_nan=False), lambda: shelf.report("broken")):
        with suppress(ApiError):  # which says what is wrong; nothing else may be raised
            assert ask()
    assert shelf.lines("broken", 0, "")["fresh"]


def test_a_broken_summary_is_named_once(made, tmp_path):
    folder = made()
    (folder / "summary.json").write_text("{")
    (one,) = Shelf(tmp_path / "runs").listing()["runs"]
    assert len([note for note in one["notes"] if "summary.json" in note]) == 1


def test_a_run_that_is_taken_away_is_gone_and_stops_nothing(made, tmp_path):
    folder = made()
    made("second")
    shelf = Shelf(tmp_path / "runs")
    assert len(shelf.listing()["runs"]) == 2
    shutil.rmtree(folder)
    for ask in (lambda: shelf.told("first", "en"), lambda: shelf.lines("first", 0, ""), lambda: shelf.report("first")):
        with pytest.raises(ApiError, match="is gone; somebody took it away") as error:
            ask()
        assert error.value.status == 404
    assert [one["id"] for one in shelf.listing()["runs"] if one["id"] != "first"] == ["second"]
    shutil.rmtree(tmp_path / "runs")
    assert look(tmp_path / "runs").runs == {}


def test_links_are_not_followed_and_that_is_said(made, tmp_path):
    folder = made()
    (tmp_path / "runs" / "again").symlink_to(folder)
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    found = look(tmp_path / "runs")
    assert list(found.runs) == ["first"]
    assert found.notes == ["2 links are not followed."]


def test_a_name_is_looked_up_and_never_made_a_path(made, tmp_path):
    made()
    shelf = Shelf(tmp_path / "runs" / "first")
    assert shelf.listing()["runs"][0]["id"] == "."
    for name in ("../first", "", "/etc", "first/../..", "\x00"):
        with pytest.raises(ApiError, match="no run is called"):
            shelf.told(name, "en")


def test_looking_changes_nothing_on_disk(made, tmp_path):
    folder = made()
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(tmp_path.rglob("*"))}
    shelf = Shelf(tmp_path / "runs")
    shelf.listing(), shelf.told("first", "zh"), shelf.lines("first", 0, ""), shelf.report("first")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(tmp_path.rglob("*"))} == before
    assert folder.is_dir()


def test_the_boards_process_needs_none_of_the_large_libraries():
    seen = subprocess.run([sys.executable, "-c", f"""
import sys
from pathlib import Path
from llmkit.serving.board import children, site, starting
from llmkit.serving.board.shelf import Shelf
shelf = Shelf(Path({str(OLD)!r}))
for one in shelf.listing()["runs"]:
    shelf.told(one["id"], "zh"), shelf.lines(one["id"], 0, ""), shelf.report(one["id"])
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    large = {"torch", "transformers", "datasets", "tokenizers", "accelerate", "peft", "pyarrow", "pandas", "sklearn",
             "matplotlib", "huggingface_hub"}
    assert large & set(seen.stdout.split()) == set()
    assert "starlette" in seen.stdout.split()
