"""An evaluation that a GPU's memory has no room for goes on in smaller batches, and says the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny

import llmkit
from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.system.errors import RequestError
from llmkit.training import evaluate as judging
from llmkit.training.fit import fit
from llmkit.training.learner import Learner

FULL = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1 is free."


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a device have room for so many rows that are judged, and say all sizes that are tried."""
    usual, tried = Learner.forward, list[int]()

    def for_rows(most: int, words: str = FULL, kind: type[Exception] = torch.OutOfMemoryError) -> list[int]:
        def forward(self: Learner, batch: Any, way: str = "loss") -> Any:
            if not self.training:
                tried.append(len(next(iter(batch.values()))))
                if tried[-1] > most:
                    raise kind(words)
            return usual(self, batch, way)

        monkeypatch.setattr(Learner, "forward", forward)
        return tried

    return for_rows


@pytest.fixture(scope="module")
def roomy(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a task that had room for all."""
    folder = tmp_path_factory.mktemp("roomy") / "run"
    fit(recipes.load(task(labelled, folder)))
    return folder


def task(labelled: Path, folder: Path) -> dict[str, Any]:
    tree = tiny("bert", labelled, folder, still=True, max_steps=2, save_steps=1, eval_steps=1)
    del tree["objective"]
    tree["data"]["validation"] = 0.3
    return tree | {"task": {"name": "classification"}}


def lines(folder: Path) -> list[float]:
    return [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            if "loss" in line]


@pytest.mark.parametrize(("words", "kind"), [
    (FULL, torch.OutOfMemoryError), ("MPS backend out of memory", RuntimeError)])
def test_a_runs_evaluations_take_smaller_batches_and_say_the_same(
    words: str, kind: type[Exception], room: Any, roomy: Path, labelled: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture) -> None:
    tried = room(3, words, kind)
    fit(recipes.load(task(labelled, tmp_path / "run")))
    assert lines(tmp_path / "run") == pytest.approx(lines(roomy), rel=1e-5)
    assert [size for size in tried if size > 3] == [26, 8, 4]  # the other evaluations know what fits
    said = [message for message in caplog.messages if "don't fit in memory" in message]
    assert said == [f"an evaluation: batches of {size} rows don't fit in memory; going on with {less}, which changes "
                    "rounding only" for size, less in ((26, 8), (8, 4), (4, 2))]


def test_a_row_that_has_no_room_ends_the_run_and_keeps_its_checkpoints(
    room: Any, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation before the first step fits; the one after the second doesn't, and goes on later from the first."""
    path = tmp_path / "recipe.yaml"
    tree = task(labelled, tmp_path / "run")
    tree["training"] |= {"eval_steps": 2}
    path.write_text(json.dumps(tree))
    usual = judging.evaluate
    with monkeypatch.context() as patch:
        def evaluate(*given: Any, **options: Any) -> Any:
            if given[1].model.training is None or (tmp_path / "run" / "checkpoints" / "step-00000001").exists():
                room(0)
            return usual(*given, **options)
        patch.setattr("llmkit.training.validation.evaluate", evaluate)
        assert main(["pretrain", str(path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("llmkit: error: an evaluation: a row of up to 32 tokens doesn't fit in memory. Make rows")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    room(100)
    assert main(["pretrain", str(path)]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["resumed"][0]["step"] == 1


def test_processes_that_go_through_the_same_sizes_are_told() -> None:
    error = judging.too_large(8, 128, 2)
    assert str(error) == ("an evaluation: 8 rows of up to 128 tokens don't fit in memory, and other processes go "
                          "through batches of the same size. Use a smaller training.micro_batch_size; what checkpoints "
                          "hold is kept.")
    assert error.status == 2


def test_evaluate_and_predict_do_the_same(room: Any, roomy: Path, labelled: Path) -> None:
    right = llmkit.evaluate(roomy, labelled)["metrics"], list(llmkit.predict(roomy, labelled))
    tried = room(5)
    assert llmkit.evaluate(roomy, labelled)["metrics"] == pytest.approx(right[0], rel=1e-5)
    for mine, theirs in zip(llmkit.predict(roomy, labelled), right[1], strict=True):
        assert (mine["label"], mine["score"]) == (theirs["label"], pytest.approx(theirs["score"], rel=1e-4))
    assert max(tried) > 5 and 0 < tried[-1] <= 5
    room(0)
    with pytest.raises(RequestError, match=r"a row of up to 32 tokens doesn't fit in memory\. Make rows shorter"):
        llmkit.evaluate(roomy, labelled)


def test_a_mistake_is_no_lack_of_memory(room: Any, roomy: Path, labelled: Path) -> None:
    room(0, "mat1 and mat2 shapes cannot be multiplied", RuntimeError)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        llmkit.evaluate(roomy, labelled)
