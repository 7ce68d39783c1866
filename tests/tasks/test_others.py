"""Metrics of the evaluate library beside a task's own: by a script's absolute path where no hub can be reached."""

from pathlib import Path

import pytest
from conftest import tiny

from llmkit import recipe
from llmkit.inference import evaluate as evaluation
from llmkit.system.errors import RequestError
from llmkit.tasks.shared import named_metrics
from llmkit.training.fit import fit

SCRIPT = '''
import datasets
import evaluate


class Off(evaluate.Metric):
    def _info(self):
        kind = datasets.Value("{kind}")
        return evaluate.MetricInfo(description="", citation="", inputs_description="",
                                   features=datasets.Features({{"predictions": kind, "references": kind}}))

    def _compute(self, predictions, references):
        same = sum(a == b for a, b in zip(predictions, references))
        return {{"wrong": 1 - same / len(references), "words": "none"}}
'''


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = tmp_path / "metrics" / "off" / "off.py"
    path.parent.mkdir(parents=True)
    path.write_text(SCRIPT.format(kind="int64"))
    return path


def test_a_named_metric_is_part_of_every_evaluation(script: Path, labelled: Path, tmp_path: Path) -> None:
    tree = tiny("bert", labelled, tmp_path / "run", max_steps=2, metrics=[str(script)])
    del tree["objective"]
    tree |= {"task": "classification", "data": {**tree["data"], "validation": 0.3}}
    found = fit(recipe.load(tree))["evaluation"]
    assert found["off/wrong"] == pytest.approx(1 - found["accuracy"])
    assert "off/words" not in found  # no figure
    again = evaluation.evaluate(tmp_path / "run", labelled)["metrics"]
    assert again["off/wrong"] == pytest.approx(1 - again["accuracy"])


def test_predictions_that_a_metric_does_not_take_are_told(script: Path) -> None:
    with pytest.raises(RequestError, match=r"doesn't take this task's predictions"):
        named_metrics.scores([str(script)], [("a text", "another")])


def test_a_script_of_the_current_folder_never_runs_in_the_place_of_a_hubs(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(script.parents[1])
    with pytest.raises(RequestError, match=rf"is also a file or folder here.*write '{script.parent}'"):
        named_metrics.metric("off")


@pytest.mark.parametrize(("name", "message"), [
    ("/nowhere/accuracy", "there is no /nowhere/accuracy"),
    ("accuracy_of_nobody", "can't be loaded: .* give the absolute path of a metric's script"),
])
def test_a_metric_that_cannot_be_had_is_refused(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        named_metrics.metric(name)


def test_an_objective_has_no_predictions_for_a_metric(script: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="these metrics are of tasks"):
        fit(recipe.load(tiny("bert", text, tmp_path / "run", metrics=[str(script)])))
