"""Runs that are made by hand: the board reads files, and never opens a model by itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def lines(events: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def steps(count: int) -> list[dict[str, Any]]:
    """Training lines whose loss falls from 4 to 2."""
    return [{"event": "train", "step": i, "epoch": i / 10, "tokens": 100 * i, "loss": 4 - 2 * i / count,
             "learning_rate": 1e-3, "grad_norm": 1.0, "tokens_per_second": 50.0} for i in range(1, count + 1)]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """A run's folder of such files, under the folder of the test."""
    def make(
        name: str = "first", title: str = "", status: str = "completed", count: int = 10, **summary: Any,
    ) -> Path:
        folder = tmp_path / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "recipe.yaml").write_text(json.dumps({
            "name": title or name, "backbone": {"family": "gpt2", "size": "tiny"}, "tokenizer": {"train": {}},
            "data": {"train": "text.txt"},
            "objective": {"name": "causal_lm"}, "training": {"max_steps": 20}, "output_dir": str(folder)}))
        (folder / "metrics.jsonl").write_text(lines([*steps(count), {"event": "evaluate", "step": count, "loss": 2.5}]))
        (folder / "summary.json").write_text(json.dumps({
            "status": status, "steps": count, "wall_seconds": 20.0, "evaluation": {"loss": 2.5}, **summary}))
        return folder

    return make
