"""What a run leaves to look at: pictures, a page, samples; and that it is the same run without them."""

import json
import logging
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import stories, tiny, write_rows

from llmkit.models.run import Run
from llmkit.system.errors import PlaceError
from llmkit.training.fit import fit
from llmkit.training.looking import drawing, samples
from llmkit.training.looking.drawing import Pictures
from llmkit.training.looking.story import Story

EVIL = "<script>alert(1)</script>"
NEW = {"loss.png", "loss.dark.png", "report.html", "samples.jsonl"}


class Text(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts and labels, of which some would run as a script."""
    found = [{"text": f"{story} {EVIL}", "label": EVIL if "cat" in story else "其他"} for story in stories(48, 11)]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", found)


def classifying(rows: Path, folder: Path, **training: Any) -> dict[str, Any]:
    recipe = tiny("bert", rows, folder, eval_steps=2, **training)
    del recipe["objective"]
    return {**recipe, "data": {"train": str(rows), "max_length": 48, "validation": 0.25},
            "task": {"name": "classification"}}


@pytest.fixture(scope="module")
def run(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that there is to see."""
    folder = tmp_path_factory.mktemp("seen") / EVIL.replace("/", "")
    fit(classifying(rows, folder, figures=True))
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").glob("*.safetensors")}


def figures_of(folder: Path) -> list[dict[str, Any]]:
    """All events without what depends on the clock."""
    return [{name: value for name, value in event.items() if name not in ("tokens_per_second", "data_wait")}
            for event in Run(folder).events]


def test_weights_and_figures_are_equal_to_the_bit_with_and_without(run: Path, rows: Path, tmp_path: Path) -> None:
    fit(classifying(rows, tmp_path / "run"))
    assert bytes_of(run) == bytes_of(tmp_path / "run")
    assert figures_of(run) == figures_of(tmp_path / "run")
    there = {path.name for path in run.iterdir()}
    assert {path.name for path in (tmp_path / "run").iterdir()} == there - NEW
    assert there >= NEW


def test_a_run_without_figures_goes_on_with_them(run: Path, rows: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fit(classifying(rows, run, figures=False))["status"] == "completed"


def test_the_page_has_every_part_and_no_script(run: Path) -> None:
    page = Text((run / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 4
    assert page.tags.count("svg") >= 6
    for part in ("What happened", "What it learned", "What was asked", "What it cost", "training.max_steps",
                 "By label", "By length", "floor: majority class: the most frequent label of training",
                 "tokens a second", "validation", "version of torch", "What the model says, after step 4"):
        assert part in page.text, part


def test_samples_stand_at_every_evaluation(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [
        (event, step) for step in (0, 2, 4) for event in ("answers", "samples")]
    answers = lines[-2]
    summary = json.loads((run / "summary.json").read_text())
    right = sum(answers["confusion"][i][i] for i in range(len(answers["labels"])))
    assert right / answers["rows"] == pytest.approx(summary["evaluation"]["accuracy"])
    assert {"text", "label", "the model says: label", "the model says: score"} == lines[-1]["rows"][0].keys()


def test_the_recipe_marks_what_differs_from_its_defaults(run: Path) -> None:
    fields = {name: (value, usual) for name, value, usual in Story.of(Run(run)).fields()}
    assert fields["training.max_steps"] == (4, None)
    assert fields["training.weight_decay"] == (0.01, 0.01)
    assert fields["optimizer.betas"] == ([0.9, 0.999], [0.9, 0.999])
    assert fields["data.train"][1] == ""


def test_a_picture_that_fails_is_said_once_and_ends_no_run(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*given: Any) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(drawing, "all_of", broken)
    monkeypatch.setattr(drawing, "curves_of", broken)
    monkeypatch.setattr(samples, "look", broken)
    caplog.set_level(logging.WARNING, logger="llmkit")
    assert fit(classifying(rows, tmp_path / "run", figures=True))["status"] == "completed"
    said = [record.getMessage() for record in caplog.records if "picture" in record.getMessage()]
    assert said == ["a picture of the run couldn't be made, and the run goes on without: ValueError: no ink"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


def test_pictures_take_two_seconds_or_a_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(drawing.time, "monotonic", lambda: now[0])
    drawn = []

    class Folder:
        folder = Path("x")

        def check(self) -> None:
            pass

    def draw(folder: Path) -> None:
        drawn.append(now[0])
        now[0] += 0.7

    monkeypatch.setattr(drawing, "curves_of", draw)
    pictures = Pictures(Folder(), True, 1000.0)  # type: ignore[arg-type]
    for _ in range(60):
        pictures.between()
        now[0] += 10
    # the first at once; after 2 s are spent but for the last picture, a hundredth of the time that has gone
    assert len(drawn) == 7
    assert pictures.spent + pictures.usual <= 0.01 * (now[0] - 1000.0)


def test_somebodys_picture_is_not_drawn_over(run: Path, rows: Path, tmp_path: Path) -> None:
    fit(classifying(rows, tmp_path / "run", max_steps=2, lr_scheduler_type="constant"))
    (tmp_path / "run" / "loss.png").write_bytes(b"\x89PNG of mine")
    with pytest.raises(PlaceError, match=r"loss\.png is there, and no run of llmkit wrote it"):
        fit(classifying(rows, tmp_path / "run", max_steps=3, lr_scheduler_type="constant", figures=True))
    assert (tmp_path / "run" / "loss.png").read_bytes() == b"\x89PNG of mine"


def test_a_run_that_went_on_says_after_which_steps(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "curves_of", lambda folder: [])
    for steps in (2, 4, 6):
        summary = fit(classifying(rows, tmp_path / "run", max_steps=steps, lr_scheduler_type="constant", figures=True))
    assert [one["step"] for one in summary["resumed"]] == [2, 4]
    page = Text((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert f"2resumed{summary['resumed'][0]['at']}" in page.text
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "samples"] == [0, 2, 4, 6]


def test_a_failed_run_has_a_page_that_says_why(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*given: Any) -> None:
        raise PlaceError(f"the disk {EVIL} is full.")

    monkeypatch.setattr("llmkit.training.finish.publish", fails)
    monkeypatch.setattr(drawing, "curves_of", lambda folder: [])
    with pytest.raises(PlaceError):
        fit(classifying(rows, tmp_path / "run", figures=True))
    page = Text((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert f"failed: the disk {EVIL} is full." in page.text
    assert "script" not in page.tags


def test_answers_that_are_all_the_same_are_in_the_summary(run: Path) -> None:
    story = Story.of(Run(run))
    same = story.summary.get("one_answer")
    said = [line for line in story.samples if line["event"] == "answers"][-1]["one_answer"]
    assert (same or "") == said
