"""Figures that others measured, reached again: minutes each, on real data that LLMKIT_DATA names."""

import json
import os
import re
from pathlib import Path

import pytest

import llmkit
from llmkit.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real data; models come from their wheels, so the registry may be asked."""
    folder = os.environ.get("LLMKIT_DATA")
    if not folder:
        pytest.skip("LLMKIT_DATA names no folder of data")
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    return Path(folder)


def summary(folder: Path) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = json.loads((folder / "summary.json").read_text())
    return out


def test_nanogpt_on_tiny_shakespeare(data: Path, tmp_path: Path) -> None:
    """nanoGPT's own README gives 1.88 for these numbers."""
    text = next((data / "tinyshakespeare").glob("*.txt"))
    words = ["pretrain", "shakespeare_char", "--set", f"data.train={text}", "--output-dir", str(tmp_path / "run")]
    assert main(words) == 0
    assert summary(tmp_path / "run")["evaluation"]["loss"] <= 1.89


def test_stories260k_on_its_own_kind_of_text(data: Path, tmp_path: Path) -> None:
    """1.33 a token on the first 400 stories, each after its begin token, all of it counted."""
    stories = (data / "tinystories" / "train.txt").read_text().split("<|endoftext|>")[:400]
    text = tmp_path / "stories.jsonl"
    text.write_text("".join(json.dumps({"text": re.sub(r"\s+$", "", story).lstrip()}) + "\n" for story in stories))
    found = llmkit.evaluate(data / "models" / "stories260K", text)
    assert found["metrics"]["loss"] == pytest.approx(1.333, abs=0.02)


@pytest.mark.parametrize(("method", "least"), [("full", 0.865), ("lora", 0.85), ("prefix", 0.82)])
def test_minilm_on_sst2(method: str, least: float, data: Path, tmp_path: Path) -> None:
    """Words and logistic regression reach 0.790."""
    assert main(["finetune", "--model", "minilm-l6", "--method", method, "--data", str(data / "sst2" / "train.tsv"),
                 "--validation", str(data / "sst2" / "dev.tsv"), "--output-dir", str(tmp_path / "run")]) == 0
    assert summary(tmp_path / "run")["evaluation"]["accuracy"] >= least
