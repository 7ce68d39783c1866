"""Masked language modelling, BERT 4×256: llmkit beside UER-py's own trainer.

    LLMKIT_UER=checkout LLMKIT_DATA=folder python -m benchmarks.speed.uer

Its code is run from a checkout of github.com/dbiir/UER-py, with its data processor for masked LM, on the same stories
and vocabulary; it starts from random weights of its own.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.speed import masked_lm, pairs

EVERY = 10
"""Steps between two of its reports; the first isn't counted."""
MODEL = {
    "emb_size": 256, "feedforward_size": 1024, "hidden_size": 256, "hidden_act": "gelu", "heads_num": 4,
    "layers_num": 4, "max_seq_length": 128, "dropout": 0.1, "data_processor": "mlm",
    "embedding": ["word", "pos", "seg"],
    "encoder": "transformer", "mask": "fully_visible", "target": ["mlm"], "tie_weights": True}


def prepare(folder: Path, size: dict[str, int], **more: Any) -> dict[str, Any]:
    """The weights that llmkit starts from, and a data set as UER-py prepares it."""
    found = masked_lm.prepare(folder, size, **more)
    (folder / "config.json").write_text(json.dumps(MODEL))
    stories = pairs.data("tinystories/train.txt").read_text().split("<|endoftext|>")
    (folder / "corpus.txt").write_text("\n".join(" ".join(story.split()) for story in stories))
    subprocess.run(
        [sys.executable, "preprocess.py", "--corpus_path", str(folder / "corpus.txt"), "--vocab_path", vocabulary(),
         "--dataset_path", str(folder / "dataset.pt"), "--seq_length", "128", "--data_processor", "mlm",
         "--full_sentences", "--dynamic_masking"], cwd=os.environ["LLMKIT_UER"], check=True)
    return found


def vocabulary() -> str:
    return str(pairs.data("tokenizers/bert-base-uncased/vocab.txt"))


def stock(folder: Path, steps: int, rows: int, turn: int, **_: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "pretrain.py", "--dataset_path", str(folder / "dataset.pt"), "--vocab_path", vocabulary(),
         "--config_path", str(folder / "config.json"), "--output_model_path", str(folder / f"uer-{turn}.bin"),
         "--total_steps", str(steps), "--report_steps", str(EVERY), "--save_checkpoint_steps", str(10**6),
         "--batch_size", str(rows), "--learning_rate", "5e-4", "--data_processor", "mlm", "--seed", str(turn + 1)],
        cwd=os.environ["LLMKIT_UER"], check=True, capture_output=True, text=True)
    said = re.findall(r"([\d.]+) tokens/s\s*\| loss\s+([\d.]+)", done.stdout + done.stderr)
    return {"tokens_per_second": statistics.harmonic_mean([float(speed) for speed, _ in said[1:]]),
            "loss": float(said[-1][1])}


def run(full: bool) -> list[pairs.Row]:
    """Tokens a second."""
    if "LLMKIT_UER" not in os.environ:
        print("uer: left out; LLMKIT_UER says where a checkout of UER-py is.", file=sys.stderr)
        return []
    with pairs.Bench(__name__, size=masked_lm.SMALL, steps=100 if full else 40, rows=32, length=128) as bench:
        bench.run("prepare")
        mine, theirs = bench.turns(("ours", "stock"), 3 if full else 1)
    losses = [statistics.mean(one.found["loss"] for one in side) for side in (mine, theirs)]
    return [pairs.row("`masked_lm`, BERT 4×256", "tokens a second", "tokens_per_second", mine, theirs, goal=2.0,
                      beside="UER-py", reached=f"training loss at the end {losses[0]:.2f} / {losses[1]:.2f}")]


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=masked_lm.ours, stock=stock)
