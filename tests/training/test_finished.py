"""A finished run is of the data that it learned from: data that has changed is refused, data that is gone is said."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import stories, tiny

from llmkit import recipe as recipes
from llmkit.models.run import Run
from llmkit.system.errors import CheckpointError, DataError
from llmkit.training.fit import fit
from llmkit.training.looking.story import Story


def recipe(**more: Any) -> recipes.Recipe:
    tree = tiny("gpt2", Path("a/*.txt"), Path("run"), max_steps=1)
    tree["data"]["validation"] = "held.txt"
    return recipes.load({**tree, **more})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the texts a/1.txt, a/2.txt and held.txt, and the finished run that learned from them."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "a").mkdir()
    for number, name in enumerate(("a/1.txt", "a/2.txt", "held.txt")):
        (folder / name).write_text("\n".join(stories(30, number)) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(recipe())
    return folder


@pytest.fixture
def there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a folder, to be spoiled; the program is in it."""
    shutil.copytree(made, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def edited(path: Path) -> None:
    """Another text of the same size."""
    path.write_text(path.read_text().replace("the", "THE", 1))


def test_what_a_run_learned_from_stands_in_its_summary(there: Path) -> None:
    data = json.loads((there / "run" / "summary.json").read_text())["data"]
    assert data.keys() == {"a/*.txt", "held.txt"}
    assert fit(recipe())["data"] == data  # nothing has changed: it is reported


@pytest.mark.parametrize(("spoil", "named"), [
    (lambda here: edited(here / "a" / "2.txt"), r"a/\*\.txt"),
    (lambda here: (here / "a" / "3.txt").write_text("one more\n"), r"a/\*\.txt"),
    (lambda here: (here / "a" / "1.txt").unlink(), r"a/\*\.txt"),
    (lambda here: edited(here / "held.txt"), r"held\.txt")], ids=["edited", "one more", "one less", "validation"])
def test_data_that_changed_since_is_refused_by_its_name(
    spoil: Callable[[Path], object], named: str, there: Path,
) -> None:
    spoil(there)
    before = (there / "run" / "summary.json").read_bytes()
    with pytest.raises(CheckpointError, match=f"^run: this run is complete, and its data has changed since: {named}. "):
        fit(recipe())
    assert (there / "run" / "summary.json").read_bytes() == before


@pytest.mark.parametrize("gone", ["a", "held.txt"])
def test_a_run_whose_data_is_gone_is_complete_and_that_is_said(
    gone: str, there: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    """Deleted, or on a disk that isn't mounted: its folder may be there, and empty."""
    (there / gone).rename(there / "elsewhere")
    if gone == "a":
        (there / gone).mkdir()
    with caplog.at_level(logging.INFO, "llmkit"):
        assert fit(recipe())["steps"] == 1
    assert "run: this run is complete after 1 step; nothing to do. Whether its data is still the same isn't " in (
        caplog.text)


@pytest.mark.parametrize("other", [{"seed": 7}, {"output_dir": "new"}], ids=str)
def test_without_data_no_other_run_is_reported(other: dict[str, Any], there: Path) -> None:
    shutil.rmtree(there / "a")
    with pytest.raises(DataError, match=r"a/\*\.txt: no file matches"):
        fit(recipe(**other))


def test_of_a_run_that_noted_no_hashes_nothing_is_compared(there: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As version 0.1.0 left them."""
    path = there / "run" / "summary.json"
    said = json.loads(path.read_text())
    del said["data"]
    path.write_text(json.dumps(said))
    edited(there / "held.txt")
    with caplog.at_level(logging.INFO, "llmkit"):
        assert fit(recipe())["steps"] == 1
    assert "noted no hashes of its data; it isn't compared" in caplog.text


@pytest.mark.parametrize("summary", [
    "", "{", "[]", "7", '{"status": "completed"}', '{"status": "completed", "steps": "x", "length": {"max_steps": 1}}',
    '{"status": "completed", "steps": 1, "tokens": 2, "tokens_per_second": 1, "wall_seconds": 1, "length": '
    '{"max_steps": 1}, "evaluation": {"loss": "low"}}', '{"resumed": [7, {"step": "x"}]}'])
def test_a_summary_that_somebody_wrote_into_is_written_anew(
        summary: str, there: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = json.loads((there / "run" / "summary.json").read_text())
    (there / "run" / "summary.json").write_text(summary)
    with caplog.at_level(logging.INFO, "llmkit"):
        assert fit(recipe())["steps"] == 1
    if "resumed" not in summary:
        assert "run/summary.json can't be taken for a run's: " in caplog.text
    again = json.loads((there / "run" / "summary.json").read_text())
    assert (again["status"], again["evaluation"]) == ("completed", whole["evaluation"])


def test_a_figure_that_is_no_number_is_a_figure(there: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = there / "run" / "summary.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "evaluation": {"perplexity": float("nan")}}))
    with caplog.at_level(logging.INFO, "llmkit"):
        fit(recipe())
    assert "run: this run is complete after 1 step; nothing to do" in caplog.text


def test_a_finished_run_that_was_moved_says_where_it_is_now(there: Path) -> None:
    (there / "run").rename(there / "moved")
    tree = {**tiny("gpt2", Path("a/*.txt"), Path("moved"), max_steps=1)}
    tree["data"]["validation"] = "held.txt"
    assert fit(recipes.load(tree))["output_dir"] == "moved"


def test_the_size_of_a_run_is_that_of_what_it_wrote(there: Path) -> None:
    folder = there / "run"
    before = Story.of(Run(folder)).size
    assert before > (folder / "model" / "model.safetensors").stat().st_size
    (folder / "mine.bin").write_bytes(bytes(10_000))
    (folder / "deep").mkdir()
    (folder / "deep" / "mine.bin").write_bytes(bytes(10_000))
    assert Story.of(Run(folder)).size == before
    (folder / "checkpoints" / "more").write_bytes(bytes(7))
    assert Story.of(Run(folder)).size == before + 7
