"""What the files of a run's folder and of a model's folder are called."""

from __future__ import annotations

import re
from pathlib import Path

# ---- a run's folder ----

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
STATUS = "status.json"
"""The exit status that the run ended with, for launchers that lose it."""
CARD = "README.md"
BAD_ROWS = "bad_rows.txt"
CURVES, CURVES_DARK = "loss.png", "loss.dark.png"
"""Loss, rate, gradient and speed over the steps, on white and on black."""
REPORT = "report.html"
"""The page that says what a run was asked, what happened, what it learned and what it cost."""
SAMPLES = "samples.jsonl"
"""What the model says of a few rows, and a count of its answers, at each evaluation."""
TRACKERS = "trackers.json"
"""What trackers call this run, so that it goes on as one run of theirs."""
MODEL = "model"
BEFORE = "model.before"
"""The model of a run that ended, while that run goes on to a greater length."""
CHECKPOINTS = "checkpoints"
BASE = "base"
"""The model that an adapter goes on, where no other folder holds it; in model/, one that trained with its adapter."""
LOCK = ".lock"
"""Says which process has the folder, on which machine; touched now and then."""
HELD = ".held-"
"""What a file's name begins with that says which process of this machine has the folder."""
SILENCE = 300.0
"""Seconds without a touch of its lock after which a run on another machine counts as dead."""
MANIFEST = "MANIFEST.json"
"""Of a checkpoint: sizes and hashes of its files."""
CHECKPOINT = re.compile(r"step-(\d{8,})")
"""What a checkpoint's folder is called: the step that it was saved after."""



def is_part(target: Path, folder: Path) -> bool:
    """Whether a file belongs to a run or model in a folder: all but tables that somebody put beside it."""
    target, folder = target.resolve(), folder.resolve()
    if not (target.is_file() and target.is_relative_to(folder)):
        return False
    first = target.relative_to(folder).parts[0]
    ours = (METRICS, SAMPLES, MODEL, BEFORE, CHECKPOINTS, BASE)
    return first in ours or target.suffix not in (".jsonl", ".csv", ".tsv")


def model_in(run: Path) -> Path:
    """The folder of a run's model: model/, or while it goes on to a greater length, what it had before."""
    usual, before = run / MODEL, run / BEFORE
    return before if before.is_dir() and not usual.exists() else usual


# ---- a model's folder ----

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
