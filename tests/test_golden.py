"""Golden losses: a refactoring leaves them as they are; any other change says why in its commit."""

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from llmkit import recipe, train

GOLDEN: dict[str, list[float]] = {
    "bert": [4.799471, 4.76598, 4.747249, 4.754492, 4.707917],
    "gpt2": [5.699991, 5.665811, 5.630548, 5.596561, 5.572814],
    "t5": [5.232917, 5.04781, 4.969256, 4.96001, 5.003049],
}


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_the_losses_of_a_tiny_recipe_are_what_they_were(family: str, text: Path, tmp_path: Path) -> None:
    import json

    train.fit(recipe.load(tiny(family, text, tmp_path / "run", max_steps=5)))
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines: list[dict[str, Any]] = [json.loads(line) for line in metrics.splitlines()]
    assert [line["loss"] for line in lines] == pytest.approx(GOLDEN[family], rel=1e-4)
