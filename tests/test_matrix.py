"""Every family x objective or task x tuning method, found by listing the folders: trains, freezes, saves, reloads."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, STILL, WORDS

import llmkit
from llmkit import models, recipe, registry, train

CANNOT: dict[tuple[str, str, str], str] = {}
"""(family, learning, method) to the reason why the cell can't work."""

SOURCES = {"classification": "labelled", "instruction": "asked"}
"""Which of the tests' files a task learns from; objectives learn from text."""


def cells() -> list[Any]:
    out = []
    for family in registry.names("backbones"):
        for kind in ("objectives", "tasks"):
            for learning in registry.names(kind):
                if registry.find("backbones", family).shape in registry.find(kind, learning).shapes:
                    out += [pytest.param(family, kind, learning, method, id=f"{family}-{learning}-{method}")
                            for method in registry.names("tuning")]
    return out


@pytest.fixture(scope="session")
def base_of(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny pretrained model of each family: its first objective, one step."""

    @cache
    def make(family: str) -> Path:
        shape = registry.find("backbones", family).shape
        fit = [name for name in registry.names("objectives") if shape in registry.find("objectives", name).shapes]
        folder: Path = tmp_path_factory.mktemp("base") / family
        train.fit(recipe.load({
            "backbone": {"family": family, "size": "tiny", "config": SMALL[family]},
            "tokenizer": {"train": {"vocab_size": WORDS[family]}},
            "data": {"train": str(text), "max_length": 32}, "objective": fit[0],
            "training": {"max_steps": 1, "global_batch_size": 8}, "output_dir": str(folder)}))
        return folder

    return make


def plain(name: str) -> str:
    """A parameter's name in the untuned model: `base_model.model.x.base_layer.weight` is `x.weight`."""
    for extra in ("base_model.model.", "base_model.", "base_layer.", "modules_to_save.default."):
        name = name.replace(extra, "")
    return name


@pytest.mark.parametrize(("family", "kind", "learning", "method"), cells())
def test_a_cell_trains_what_it_says_and_reloads_the_same(
    family: str, kind: str, learning: str, method: str, base_of: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if (family, learning, method) in CANNOT:
        pytest.skip(CANNOT[family, learning, method])
    data = request.getfixturevalue("text" if kind == "objectives" else SOURCES[learning])
    base, run = base_of(family), tmp_path / "run"
    summary = train.fit(recipe.load({
        "backbone": {"pretrained": str(base)}, "tuning": {"method": method},
        "data": {"train": str(data), "validation": [str(data)], "max_length": 40 if learning == "instruction" else 32,
                 "packing": "none"},
        "objective" if kind == "objectives" else "task": {"name": learning},
        "training": {"max_steps": 6, "global_batch_size": 16, "learning_rate": 3e-3, "precision": "fp32"},
        "output_dir": str(run)}))
    assert summary["evaluation"]["loss"] < summary["evaluation_before"]["loss"]
    assert 0 < summary["trainable_parameters"] <= summary["parameters"]

    again = llmkit.evaluate(run, data)
    assert again["metrics"] == pytest.approx(summary["evaluation"], rel=1e-5)

    asked = recipe.load(run / "recipe.yaml")
    head = asked.learning.head_for(registry.find("backbones", family))
    before = models.open_model(base, head)
    tuned = {plain(name): value for name, value in models.open_model(run, head).model.named_parameters()
             if "original_module" not in name}
    same = [name for name, value in before.model.named_parameters()
            if name not in before.missing and name in tuned and torch.equal(value, tuned[name])]
    known = [name for name, _ in before.model.named_parameters() if name not in before.missing and name in tuned]
    if asked.tuning.adapter:
        assert summary["trainable_parameters"] < summary["parameters"]
        poolers = registry.find("backbones", family).poolers
        assert [name for name in known if name not in same and not name.startswith(poolers)] == []
        assert len(known) > 10
    else:
        assert summary["trainable_parameters"] == summary["parameters"]
        assert [name for name in same if "position" not in name] == []

    if head in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        from llmkit.generation import Options

        written = llmkit.generate("the cat", str(run), Options(max_new_tokens=4))
        assert len(written.completions) == 1


@pytest.mark.parametrize("method", registry.names("tuning"))
@pytest.mark.parametrize("family", registry.names("backbones"))
def test_gradient_checkpointing_changes_no_number(
    family: str, method: str, base_of: Any, labelled: Path, tmp_path: Path
) -> None:
    still = dict.fromkeys(STILL[family], 0.0)
    ends = []
    for on in (False, True):
        ends.append(train.fit(recipe.load({
            "backbone": {"pretrained": str(base_of(family)), "config": still}, "tuning": {"method": method},
            "data": {"train": str(labelled), "max_length": 32}, "task": "classification",
            "training": {"max_steps": 3, "global_batch_size": 8, "precision": "fp32", "gradient_checkpointing": on},
            "output_dir": str(tmp_path / str(on))})))
    assert ends[0]["train_loss"] == pytest.approx(ends[1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("method", registry.names("tuning"))
def test_a_killed_tuning_ends_with_the_weights_of_one_that_was_not(
    method: str, base_of: Any, labelled: Path, tmp_path: Path
) -> None:
    """From the checkpoint in the middle, as after a kill: what comes after it is gone."""
    import shutil

    from safetensors.torch import load_file

    def tree(folder: Path) -> dict[str, Any]:
        return {
            "backbone": {"pretrained": str(base_of("bert"))}, "tuning": {"method": method},
            "data": {"train": str(labelled), "max_length": 32}, "task": "classification",
            "training": {"max_steps": 10, "save_steps": 5, "global_batch_size": 8, "precision": "fp32"},
            "output_dir": str(folder)}

    train.fit(recipe.load(tree(tmp_path / "whole")))
    train.fit(recipe.load(tree(tmp_path / "cut")))
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000010")
    train.fit(recipe.load(tree(tmp_path / "cut")), resume="must")
    name = next((tmp_path / "whole" / "model").glob("*.safetensors")).name
    a, b = (load_file(tmp_path / run / "model" / name) for run in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)
