"""`llmkit report` and `llmkit runs`: on runs of this version, of older ones, and on what is none."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny

from llmkit.cli import main
from llmkit.models.run import Run
from llmkit.system.errors import PlaceError
from llmkit.training.fit import fit
from llmkit.training.folder.holding import held
from llmkit.training.looking import cleaning

OLD = Path(__file__).parents[1] / "older" / "0.1.0" / "lora"
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def runs(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one recipe at two rates, without pictures."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("fast", 1e-2), ("slow", 1e-4)):
        recipe = tiny("gpt2", text, folder / name, max_steps=2, eval_steps=1)
        recipe["data"]["validation"] = 0.2
        fit({**recipe, "name": name, "training": {**recipe["training"], "learning_rate": rate}})
    return folder


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are drawn in one test: that takes longer than all else here."""
    if "anew" not in request.node.name:
        monkeypatch.setattr("llmkit.training.looking.pages.curves_of", lambda folder: [])


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(words)
    out, err = capsys.readouterr()
    return status, out, err


def document(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    status, out, _ = said([*words, "--json"], capsys)
    assert status == 0
    return json.loads(out)


def test_the_page_of_a_run_is_written_anew(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(["report", str(runs / "fast")], capsys)
    assert (status, out.strip()) == (0, str(runs / "fast" / "report.html"))
    page = Page(runs / "fast" / "report.html")
    assert "there is no samples.jsonl in its folder" in page.text
    assert "word frequencies alone" in page.text  # a loss of single tokens can be held against it
    assert (runs / "fast" / "loss.png").read_bytes().startswith(b"\x89PNG")
    again = document(["report", str(runs / "fast")], capsys)
    assert again["path"] == out.strip()
    assert again["runs"][0]["metric"] == "loss"


def test_a_run_of_an_older_version_has_a_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    found = document(["report", str(tmp_path / "old"), "-o", str(tmp_path / "old.html")], capsys)
    assert found["runs"][0]["status"] == "completed"
    assert not (tmp_path / "old" / "report.html").exists()
    assert "floor: majority class" in Page(tmp_path / "old.html").text


def test_several_runs_stand_side_by_side(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    both = [str(runs / "fast"), str(runs / "slow")]
    status, out, _ = said(["report", *both, "--metric", "accuracy"], capsys)
    assert (status, out.strip()) == (0, "report.html")
    page = Page(tmp_path / "report.html")
    assert "2 runs side by side" in page.text
    assert "training.learning_rate0.010.0001" in page.text
    assert page.text.index("accuracy —") < page.text.index("loss —")
    assert page.text.count("★") == 1 + len(json.loads(
        (runs / "fast" / "summary.json").read_text())["evaluation"]) + 1  # alike but for their rates
    status, _, err = said(["report", *both, "--metric", "accuracyy"], capsys)
    assert status == 2
    assert "no run has such a figure" in err and "'accuracy'" in err


@pytest.mark.parametrize(("words", "status", "part"), [
    (["report", "nowhere"], 2, "nowhere: there is no such folder"), (["report", "."], 6, "is no run's folder"),
    (["report", "RUN", "--metric", "loss"], 2, "--metric loss: is for several runs"),
    (["report", "RUN", "-o", "mine.html"], 6, "mine.html: is there, and llmkit report didn't write it"),
    (["report", "RUN", "-o", "."], 2, "is a folder; name a file in it"),
    (["runs", "show", "nowhere"], 2, "there is no such folder"),
    (["runs", "list", "nowhere"], 2, "nowhere: there is no such folder"), (["runs", "lst"], 2, "No such command"),
])
def test_what_cannot_be_shown_is_said(
    words: list[str], status: int, part: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    given = [str(runs / "fast") if word == "RUN" else word for word in words]
    got, out, err = said(given, capsys)
    assert (got, out) == (status, "")
    assert part in err
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"


def test_names_of_strangers_are_text(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "fast", run)
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"why": EVIL, "device": EVIL, "versions": {EVIL: EVIL}, "floors": {EVIL: {"loss": 1.0}},
                "one_answer": EVIL, "resumed": [{"step": 1, "at": EVIL}]}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "recipe.yaml").write_text(f"name: '{EVIL}'\nbackbone: '{EVIL}'\ntask: '{EVIL}'\n")
    (run / "bad_rows.txt").write_text(f"{EVIL}\n")
    (run / "samples.jsonl").write_text(json.dumps({"event": "samples", "step": 1, "about": EVIL, "rows": [
        {EVIL: EVIL, "marked": [[EVIL, EVIL, EVIL]], "list": [EVIL]}]}) + "\n")
    for words in (["report", str(run)], ["report", str(run), str(runs / "slow"), "-o", str(tmp_path / "both.html")]):
        assert said(words, capsys)[0] == 0
    for page in (Page(run / "report.html"), Page(tmp_path / "both.html")):
        assert "script" not in page.tags
        assert EVIL in page.text


def test_files_that_make_no_sense_are_told_in_a_line(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "fast", run)
    (run / "summary.json").write_text('{"wall_seconds": "soon", "versions": 3}')
    status, _, err = said(["report", str(run)], capsys)
    assert status == 0
    for what in ("wall_seconds is no number: 'soon'", "versions is no object: 3"):
        assert err.count(f"summary.json:1: {what}; it isn't shown") == 1
    (run / "summary.json").write_text("no JSON")
    (run / "recipe.yaml").write_text("a: [")
    found = document(["report", str(run)], capsys)
    assert len(found["runs"][0]["notes"]) == 2


def test_runs_are_listed_with_what_they_came_to(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = document(["runs", "list", str(runs)], capsys)
    summary = json.loads((runs / "fast" / "summary.json").read_text())
    assert (fast["name"], fast["status"], fast["learning"], fast["model"]) == ("fast", "completed", "causal_lm",
                                                                               "gpt2-tiny")
    assert fast["value"] == summary["evaluation"]["loss"]
    assert fast["floor"] == {"name": "word frequencies alone", "value": summary["unigram_entropy"]}
    assert (fast["steps"], slow["steps"]) == (2, 2)
    assert fast["bytes"] > 10_000
    status, out, _ = said(["runs", "list", str(runs)], capsys)
    assert status == 0
    assert "completed" in out and "causal_lm" in out


def test_a_run_that_was_killed_is_interrupted(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "all" / "run"
    shutil.copytree(runs / "fast", run)
    (run / "summary.json").write_text(json.dumps({"status": "running", "steps": 1}))
    assert document(["runs", "list", str(run.parent)], capsys)[0]["status"] == "interrupted"
    with held(run):
        assert document(["runs", "list", str(run.parent)], capsys)[0]["status"] == "running"


def test_two_runs_are_compared_by_what_differs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(["runs", "compare", str(runs / "fast"), str(runs / "slow")], capsys)
    assert found["recipe"] == {f"training.{name}": [0.01, 0.0001] for name in ("learning_rate", "head_learning_rate")}
    assert set(found["figures"]) >= {"loss", "accuracy", "train_loss"}
    status, out, _ = said(["runs", "compare", str(runs / "fast"), str(runs / "fast")], capsys)
    assert status == 0
    assert "their recipes differ in nothing but names and folders" in out


def test_one_run_is_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(["runs", "show", str(runs / "fast")], capsys)
    assert found["recipe"]["training.learning_rate"] == 0.01
    assert "training.weight_decay" not in found["recipe"]
    status, out, _ = said(["runs", "show", str(runs / "fast")], capsys)
    assert status == 0
    assert "training.learning_rate: 0.01" in out


def test_cleaning_is_a_list_before_it_is_done(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "fast", tmp_path / "run")
    found = document(["runs", "clean", str(tmp_path)], capsys)
    assert found["deleted"] is False
    assert [Path(one["path"]).name for one in found["found"]] == ["step-00000002"]
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
    status, _, err = said(["runs", "clean", str(tmp_path), "--yes"], capsys)
    assert status == 0
    assert "deleted" in err
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert said(["runs", "clean", str(tmp_path)], capsys)[2].strip() == "nothing may be deleted"
    assert document(["report", str(tmp_path / "run")], capsys)["runs"][0]["status"] == "completed"


def test_one_run_of_somebody_else_keeps_no_other_from_being_cleaned(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its folder ends the command with 6, when the others are done."""
    for name in ("a", "b", "c", "d"):
        shutil.copytree(runs / "fast", tmp_path / name)
    sweep = cleaning.sweep

    def closed(run: Run) -> tuple[list[cleaning.Waste], list[str]]:
        if run.folder.name in "ac":
            raise PlaceError(f"{run.folder}: Permission denied")
        return sweep(run)

    monkeypatch.setattr(cleaning, "sweep", closed)
    status, _, err = said(["runs", "clean", str(tmp_path), "--yes"], capsys)
    assert (status, err.splitlines()[-1]) == (6, f"llmkit: error: {tmp_path / 'a'}: Permission denied")
    assert f"{tmp_path / 'c'}: Permission denied\n" in err
    left = {name: len(list((tmp_path / name / "checkpoints").iterdir())) for name in "abcd"}
    assert left == {"a": 1, "b": 0, "c": 1, "d": 0}


def test_runs_of_other_data_or_tasks_get_no_star(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    for field, value in (("train", "other.txt"), ("validation", 0.1)):
        other = tmp_path / field
        shutil.copytree(runs / "slow", other)
        recipe = yaml.safe_load((other / "recipe.yaml").read_text())
        (other / "recipe.yaml").write_text(json.dumps({**recipe, "data": {**recipe["data"], field: value}}))
        page = tmp_path / f"{field}.html"
        assert said(["report", str(runs / "fast"), str(other), "-o", str(page)], capsys)[0] == 0
        assert Page(page).text.count("★") == 1  # the words below the table


def test_a_broken_summary_is_named_once(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "fast", tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{")
    status, _, err = said(["runs", "list", str(tmp_path)], capsys)
    assert status == 0
    assert err.count("summary.json") == 1 and err.count("can't be read") == 1
