"""What the plug-ins promise: run `pytest` in this folder, once the package is installed."""

from pathlib import Path

import numpy as np

import llmkit
from llmkit.registry import find


def test_a_text_is_read_from_its_end():
    """7 8 9 -> inputs 9 8, labels 8 7."""
    objective = find("objectives", "backward_lm")()
    row = objective.draw(np.array([7, 8, 9], dtype=np.uint16), np.random.default_rng(0), None)
    assert (row["input_ids"].tolist(), row["labels"].tolist()) == ([9, 8], [8, 7])


def test_the_recipe_trains_the_table_alone(tmp_path):
    """Three steps, and less than half of the parameters learn."""
    recipe = Path(__file__).parents[1] / "backward_lm.yaml"
    settings = [f"data.train={recipe.with_name('README.md')}", f"output_dir={tmp_path / 'run'}"]
    summary = llmkit.fit(llmkit.load_recipe(recipe, settings))
    assert (summary["steps"], summary["trainable_parameters"] < summary["parameters"] / 2) == (3, True)
