"""Runs that llmkit 0.1.0 left, before its modules moved: they still evaluate, generate and resume, to the same numbers.

`tests/older/0.1.0` holds the folders as 0.1.0 wrote them, and what it said of them. A run that was interrupted is the
finished one without what came after its checkpoint.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmkit import recipe as recipes
from llmkit.inference.evaluate import evaluate
from llmkit.inference.generate import Options, generate
from llmkit.training.fit import fit

OLDER = Path(__file__).parents[1] / "older"
VERSIONS = sorted(path.name for path in OLDER.iterdir())


@pytest.fixture(params=VERSIONS)
def older(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a version left, as the current folder; adapters know their base by its whole path."""
    folder = tmp_path / "older"
    shutil.copytree(OLDER / request.param, folder)
    for path in folder.glob("*/model/adapter_config.json"):
        adapter = json.loads(path.read_text())
        path.write_text(json.dumps({**adapter, "base_model_name_or_path": str(folder / "bert" / "model")}))
    monkeypatch.chdir(folder)
    return folder


def train_events(run: Path) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            if event["event"] == "train"]


@pytest.mark.parametrize(("run", "data"), [
    ("gpt2", "text.txt"), ("bert", "text.txt"), ("prefix", "held.csv"), ("lora", "held.csv")])
def test_a_run_is_measured_as_it_was(older: Path, run: str, data: str) -> None:
    said = json.loads((older / f"{run}.evaluate.json").read_text())
    found = evaluate(run, data)
    assert found["metrics"] == pytest.approx(said["metrics"], rel=1e-5)
    assert (found["measured_by"], found["max_length"], found["rows"]) == (
        said["measured_by"], said["max_length"], said["rows"])


def test_a_model_writes_what_it_wrote(older: Path) -> None:
    said = json.loads((older / "gpt2.generate.json").read_text())
    found = generate(said["prompt"], "gpt2", Options(max_new_tokens=12, temperature=0.0))
    assert [one.text for one in found.completions] == [one["text"] for one in said["completions"]]


@pytest.mark.parametrize("run", ["gpt2", "prefix", "lora"])
def test_an_interrupted_run_goes_on_to_the_same_end(older: Path, run: str) -> None:
    events = train_events(older / run)
    shutil.rmtree(older / run / "model")
    (older / run / "summary.json").unlink()
    summary = fit(recipes.load(older / f"{run}.yaml"), resume="must")
    assert summary["status"] == "completed"
    assert [event["step"] for event in train_events(older / run)] == list(range(1, 13))
    for before, now in zip(events, train_events(older / run), strict=True):
        assert now["loss"] == pytest.approx(before["loss"], rel=1e-5)
        assert now["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-4)
        assert now["tokens"] == before["tokens"]


def test_a_finished_run_is_reported(older: Path) -> None:
    assert fit(recipes.load(older / "bert.yaml"))["steps"] == 8
