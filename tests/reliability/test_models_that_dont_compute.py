"""A stranger's model that opens and then can't compute, or can't be made: told with its config."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.training.fit import fit
from reliability.strangers import change

GENERATE = ("generate", "the cat", "--max-new-tokens", "2", "--model")
CLASSIFY = ("classify", "the cat", "--model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path, labelled: Path) -> Path:
    """A model each of three families, and a classifier."""
    folder = tmp_path_factory.mktemp("runs")
    for family in ("gpt2", "llama", "t5"):
        fit(recipe.load(tiny(family, text, folder / family, max_steps=1)))
    tree = tiny("bert", labelled, folder / "bert", max_steps=1)
    del tree["objective"]
    fit(recipe.load({**tree, "task": "classification"}))
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Any:
    return lambda name: Path(shutil.copytree(trained / name / "model", tmp_path / "spoiled"))


@pytest.mark.parametrize(("name", "fields", "words"), [
    ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [1.0] * 9,
                                   "short_factor": [1.0], "original_max_position_embeddings": 16}}, GENERATE),
    ("t5", {"relative_attention_max_distance": 0}, GENERATE),
    ("bert", {"chunk_size_feed_forward": 7}, CLASSIFY),
    ("bert", {"hidden_act": "evil"}, CLASSIFY), ("gpt2", {"activation_function": "evil"}, GENERATE),
    ("gpt2", {"n_head": 0}, GENERATE), ("gpt2", {"n_embd": 24}, GENERATE),
    ("llama", {"intermediate_size": 20}, GENERATE),
])
def test_it_is_told_with_its_file(
        name: str, fields: dict[str, Any], words: tuple[str, ...], copied: Any, capsys: pytest.CaptureFixture[str],
) -> None:
    folder = copied(name)
    change(folder / "config.json", **fields)
    assert main([*words, str(folder)]) in (2, 4)
    said = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert said.startswith("llmkit: error: ")
    assert "config.json" in said
    assert "unforeseen" not in said
    assert "report" not in said


def test_a_weight_of_another_shape_is_named_with_both(copied: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied("gpt2")
    change(folder / "config.json", n_positions=100)
    assert main([*GENERATE, str(folder)]) == 4
    said = capsys.readouterr().err
    assert "wpe.weight is of shape (" in said
    assert "and by config.json it would be (100, " in said


def test_a_recipe_that_asks_for_such_a_model_is_told_its_field(
        text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    tree = tiny("bert", text, tmp_path / "run", max_steps=1)
    tree["backbone"]["config"]["chunk_size_feed_forward"] = 7
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    assert main(["pretrain", str(tmp_path / "recipe.yaml")]) in (2, 4)
    assert "unforeseen" not in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "generation_config.json", "more.safetensors"])
def test_a_pipe_among_its_files_is_not_waited_for(file: str, copied: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied("gpt2")
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    assert main([*GENERATE, str(folder)]) in (2, 4)
    assert f"{folder / file}: is a pipe, a socket or a device" in capsys.readouterr().err


def test_a_mistake_of_anybody_elses_stays_unforeseen(copied: Any, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    from llmkit.inference.writing.writer import Writer

    def broken(*given: Any, **more: Any) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(Writer, "open", broken)
    assert main([*GENERATE, str(copied("gpt2"))]) == 1
    assert "unforeseen: ValueError: ours" in capsys.readouterr().err
