"""fp16's gradient scaler: its state goes through checkpoints, and the steps that it leaves out are counted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny

from llmkit import recipe as recipes
from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError, NumberError
from llmkit.training.fit import fit
from llmkit.training.spread.ddp import SCALER, DataParallel


class Checkpoint:
    """A folder as the run's folder gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).is_file() else None


def spread(**state: Any) -> DataParallel:
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict({**scaler.state_dict(), **state})
    return DataParallel(SimpleNamespace(scaler=scaler))  # type: ignore[arg-type]


def learned() -> tuple[Any, torch.optim.Optimizer]:
    layer = torch.nn.Linear(2, 2)
    return SimpleNamespace(trained=dict(layer.named_parameters())), torch.optim.AdamW(layer.parameters())


def test_the_scale_and_how_long_it_went_well_are_saved_and_loaded(tmp_path: Path) -> None:
    learner, optimizer = learned()
    spread(scale=4096.0, _growth_tracker=17).save(tmp_path, learner, optimizer, None)
    told = json.loads((tmp_path / SCALER).read_text())
    assert (told["scale"], told["_growth_tracker"]) == (4096.0, 17)
    other = spread()
    other.load(Checkpoint(tmp_path), learner, optimizer)  # type: ignore[arg-type]
    assert other.accelerator.scaler.state_dict() == told  # type: ignore[union-attr]


def test_a_checkpoint_of_before_finds_its_scale_anew(tmp_path: Path) -> None:
    learner, optimizer = learned()
    DataParallel(SimpleNamespace(scaler=None)).save(tmp_path, learner, optimizer, None)  # type: ignore[arg-type]
    assert not (tmp_path / SCALER).exists()
    fresh = spread()
    before = fresh.accelerator.scaler.state_dict()  # type: ignore[union-attr]
    fresh.load(Checkpoint(tmp_path), learner, optimizer)  # type: ignore[arg-type]
    assert fresh.accelerator.scaler.state_dict() == before  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"scale": 1}'])
def test_a_state_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    learner, optimizer = learned()
    spread().save(tmp_path, learner, optimizer, None)
    (tmp_path / SCALER).write_text(text)
    with pytest.raises(CheckpointError, match=r"scaler\.json: isn't the state of a gradient scaler"):
        spread().load(Checkpoint(tmp_path), learner, optimizer)  # type: ignore[arg-type]


class Scaler:
    """What accelerate asks of a scaler in a step, on a machine that has no fp16."""

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss

    def state_dict(self) -> dict[str, float]:
        return {"scale": 2.0}


def overflowing(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the gradient overflow in some steps; the list fills with those after which the method did its part."""
    made, after = [0], list[int]()
    prepare, clip = DataParallel.prepare, DataParallel.clip

    def scaled(self: DataParallel, *given: Any) -> Any:
        prepared = prepare(self, *given)
        self.accelerator.scaler = Scaler()  # type: ignore[assignment]
        return prepared

    def clipped(self: DataParallel, *given: Any) -> float:
        made[0] += 1
        return float("inf") if made[0] in steps else clip(self, *given)

    monkeypatch.setattr(DataParallel, "prepare", scaled)
    monkeypatch.setattr(DataParallel, "clip", clipped)
    full = registry.find("tuning", "full")
    monkeypatch.setattr(full, "after_step", lambda self, model, step: after.append(step))
    return after


def test_a_step_that_overflows_is_counted_and_no_step_of_the_tuning_method(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = overflowing({2, 3}, monkeypatch)
    tree = tiny("gpt2", text, tmp_path / "run", max_steps=5, logging_steps=1)
    summary = fit(recipes.load(tree))
    assert (after, summary["skipped_steps"], summary["steps"]) == ([1, 4, 5], 2, 5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if line.get("event") == "skipped"]
    assert [line["step"] for line in skipped] == [2, 3]
    assert "at the scale of fp16" in skipped[0]["why"]


def test_where_no_scale_is_small_enough_the_run_ends(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overflowing(set(range(3, 100)), monkeypatch)
    with pytest.raises(NumberError, match=r"20 steps in a row were skipped.*training\.precision: fp32 may help"):
        fit(recipes.load(tiny("gpt2", text, tmp_path / "run", max_steps=40)))
