"""A device that has memory for some rows only, and what a run's lines of metrics say of its losses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmkit.training.learner import Learner


def short_of_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    """Let a device have room for so many rows; for more, torch.OutOfMemoryError. Returns the sizes that are tried."""
    tried: list[int] = []
    usual = Learner.forward

    def forward(self: Learner, batch: Any, way: str = "loss") -> Any:
        if self.training:
            tried.append(len(batch["input_ids"]))
            if tried[-1] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return usual(self, batch, way)

    monkeypatch.setattr(Learner, "forward", forward)
    return tried


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "train"]
