"""What each objective and task shows of a few rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from llmkit.training.fit import fit

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "masked_lm": ("bert", {}), "causal_lm": ("gpt2", {}), "span_corruption": ("t5", {}), "denoising": ("bart", {}),
    "permuted_lm": ("xlnet", {}), "prefix_lm": ("gpt2", {}), "next_sentence": ("bert", {}),
    "masked_lm_next_sentence": ("bert", {}), "sentence_order": ("albert", {}), "replaced_token": ("electra", {}),
    "contrastive": ("bert", {}),
    "adversarial": ("gpt2", {"sample_length": 8, "samples": 8,
                             "discriminator_config": {"hidden_size": 32, "num_attention_heads": 2}}),
}


def shown(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    return lines[-1]["rows"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("objective", CASES)
def test_an_objective_shows_rows(objective: str, text: Path, tmp_path: Path) -> None:
    family, options = CASES[objective]
    recipe = tiny(family, text, tmp_path / "run", figures=True, max_steps=1)
    recipe["data"] |= {"validation": 0.2}
    rows = shown_by(recipe | {"objective": {"name": objective, **options}}, tmp_path / "run")
    assert 4 <= len(rows) <= 6
    assert all(value not in ("", [], None) for row in rows for value in row.values())


def shown_by(recipe: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    fit(recipe)
    return shown(folder)
