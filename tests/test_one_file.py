"""A new family or a new task is one file: the matrix finds its cells, and they hold, with no edit anywhere else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MISTRAL = '''
"""Mistral: Llama with a window (Jiang et al. 2023)."""

from llmkit.backbones.base import Family


class Mistral(Family):
    """No size is a published one."""

    model_type = "mistral"
    shape = "decoder"
    tokenizer = "bpe"
    special = "gpt2"
    sizes = {"tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
                      "intermediate_size": 344, "max_position_embeddings": 512, "tie_word_embeddings": True}}
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64,
             "max_position_embeddings": 64}
    positions = "max_position_embeddings"
    layers = ("model.layers",)
    feed_forward = ("mlp",)
    heads = {"AutoModelForCausalLM": "lm_head", "AutoModelForSequenceClassification": "score"}
'''
MOOD = '''
"""Mood: how a line sounds."""

from pydantic.dataclasses import dataclass

from llmkit.recipe.registry import OPTIONS
from llmkit.tasks.classification import Classification


@dataclass(config=OPTIONS)
class Mood(Classification):
    """One of two."""

    example = ({"text": "the sun is out and all is well", "label": "glad"}, {"text": "rain again", "label": "sad"})
'''
CELLS = ("mistral-objectives-causal_lm-feed_forward", "mistral-tasks-mood-layers", "gpt2-tasks-mood-full")


@pytest.mark.slow
def test_the_matrix_finds_a_file_that_was_dropped_into_its_folder(tmp_path: Path) -> None:
    copy = tmp_path / "llmkit"
    shutil.copytree(ROOT / "llmkit", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "backbones" / "mistral.py").write_text(MISTRAL)
    (copy / "tasks" / "mood.py").write_text(MOOD)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-p", "no:cacheprovider",
         "--basetemp", tmp_path / "cells", "-k", " or ".join(CELLS), ROOT / "tests" / "test_matrix.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path), "LLMKIT_MATRIX": "all"}, text=True,
        capture_output=True, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
