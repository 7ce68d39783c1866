"""A model whose tokens all end in one vector is known for it: before it is tuned, and after it was pretrained."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from llmkit.training.fit import fit
from llmkit.training.looking.collapse import ALIKE, mean_cosine, states, without_rogues


def of_rows(rows: Path, base: Path, folder: Path) -> dict[str, Any]:
    """A fine-tuning of one step."""
    return {"backbone": {"pretrained": str(base)}, "data": {"train": str(rows), "max_length": 16},
            "task": "classification", "output_dir": str(folder),
            "training": {"max_steps": 1, "global_batch_size": 4, "figures": False}}


@pytest.fixture(scope="module")
def healthy(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that saw four rows."""
    folder = tmp_path_factory.mktemp("healthy")
    fit({**tiny("bert", text, folder / "run", max_steps=1), "objective": "masked_lm"})
    return folder / "run" / "model"


def alike(healthy: Path, name: str, scale: float) -> Path:
    """The same, whose last normalisation hardly looks at what it normalises: cosines are about 1 / (1 + scale²)."""
    folder = healthy.parent / name
    shutil.copytree(healthy, folder)
    weights = load_file(folder / "model.safetensors")
    (norm,) = (name for name in weights if name.endswith("layer.1.output.LayerNorm.weight"))
    weights[norm] *= scale
    weights[norm.replace("weight", "bias")] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def broken(healthy: Path) -> Path:
    """One of nearly equal vectors."""
    return alike(healthy, "broken", 2e-2)


@pytest.fixture(scope="module")
def close(healthy: Path) -> Path:
    """One of vectors that are much alike: 1 / (1 + .25²) is .94."""
    return alike(healthy, "close", 0.25)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if "collapse" in line.getMessage()]


@pytest.mark.parametrize(("vectors", "cosine"), [
    ([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], 1 / 3), ([[1.0, 2.0], [3.0, 6.0]], 1.0), ([[1.0, 0.0], [-1.0, 0.0]], -1.0),
    ([[1.0, 0.0]], None)])
def test_the_mean_cosine_is_that_of_every_two_vectors(vectors: list[list[float]], cosine: float | None) -> None:
    assert mean_cosine(torch.tensor(vectors)) == (cosine if cosine is None else pytest.approx(cosine, abs=1e-12))


def test_two_dimensions_that_are_large_in_all_tokens_make_no_collapse() -> None:
    vectors = torch.cat([torch.eye(98), torch.full((98, 2), 1000.0)], 1)
    assert (mean_cosine(vectors) or 0.0) > ALIKE
    kept = without_rogues(vectors)
    assert kept.shape == (98, 98)
    assert mean_cosine(kept) == pytest.approx(0.0, abs=1e-12)


def test_states_are_those_of_each_row_by_itself(healthy: Path) -> None:
    model = AutoModel.from_pretrained(healthy).train()
    rows = [torch.tensor([2, 7, 8, 9, 3]), torch.tensor([2, 11, 3])]
    found = states(model, rows)
    assert model.training
    model.eval()
    with torch.inference_mode():
        alone = torch.cat([model(row[None]).last_hidden_state[0] for row in rows])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_a_collapsed_model_is_named_before_it_is_tuned(
    broken: Path, labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        fit(of_rows(labelled, broken, tmp_path / "run"))
    (line,) = said(caplog)
    assert line.startswith(f"{broken} has collapsed: all tokens leave it as nearly the same vector (mean cosine 0.9997")
    assert line.endswith("Pretrain it again at a lower rate, or start from random weights")


def test_a_collapsed_model_is_named_after_it_was_pretrained(
    broken: Path, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    asked = tiny("bert", text, tmp_path / "run", max_steps=1, learning_rate=1e-6)
    asked["backbone"] = {"pretrained": str(broken)}
    asked.pop("tokenizer")
    with caplog.at_level(logging.WARNING):
        fit({**asked, "objective": "masked_lm"})
    assert said(caplog)[0].endswith("Mostly the rate was too high: train again with training.learning_rate=3.3e-07")


def test_a_model_that_is_close_to_it_is_named_before_and_after(
    close: Path, labelled: Path, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    asked = tiny("bert", text, tmp_path / "run", max_steps=1, learning_rate=3e-6)
    asked["backbone"] = {"pretrained": str(close)}
    asked.pop("tokenizer")
    with caplog.at_level(logging.WARNING):
        fit(of_rows(labelled, close, tmp_path / "tuned"))
        fit({**asked, "objective": "masked_lm"})
    before, after = said(caplog)
    assert before.startswith(f"{close} is close to collapse: its tokens leave it much alike (mean cosine 0.")
    assert 0.9 < float(before.partition("cosine ")[2][:4]) < 0.98
    assert after.startswith("the model is close to collapse")
    assert after.endswith("train longer, or with training.learning_rate=1e-06")


def test_of_a_healthy_model_nothing_is_said(
    healthy: Path, labelled: Path, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        fit(of_rows(labelled, healthy, tmp_path / "tuned"))
        fit({**tiny("gpt2", text, tmp_path / "decoder", max_steps=1), "objective": "causal_lm"})
    assert said(caplog) == []
