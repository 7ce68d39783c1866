"""What the files of a run's folder and of a model's folder are called."""

from __future__ import annotations

import re

# ---- a run's folder ----

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
CARD = "README.md"
BAD_ROWS = "bad_rows.txt"
TRACKERS = "trackers.json"
"""What trackers call this run, so that it goes on as one run of theirs."""
MODEL = "model"
CHECKPOINTS = "checkpoints"
MANIFEST = "MANIFEST.json"
"""Of a checkpoint: sizes and hashes of its files."""
CHECKPOINT = re.compile(r"step-(\d{8,})")
"""What a checkpoint's folder is called: the step that it was saved after."""

# ---- a model's folder ----

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
