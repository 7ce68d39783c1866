"""What frozen layers make of a row is computed once: the same losses and weights as computing it in each step."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_in_two, tiny
from safetensors.torch import load_file

from llmkit import models, recipe
from llmkit.backbones.kernels import frozen
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

HEAD, LAST = {"method": "head"}, {"method": "layers", "n": 1}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> dict[str, Path]:
    """A classifier each of three families, without dropout: to go on from."""
    found = {}
    for family in ("bert", "gpt2", "modernbert"):
        folder = tmp_path_factory.mktemp("base") / family
        tree = tiny(family, labelled, folder, still=True, max_steps=1)
        del tree["objective"]
        fit(recipe.load({**tree, "task": "classification"}))
        found[family] = folder
    return found


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))


def tree(base: Path, data: Path, folder: Path, tuning: dict[str, Any], **training: Any) -> dict[str, Any]:
    return {"name": "kept", "backbone": {"pretrained": str(base)}, "task": "classification", "tuning": tuning,
            "optimizer": {"name": "sgd"},
            "data": {"train": str(data), "validation": 0.2, "max_length": 32}, "output_dir": str(folder),
            "training": {"max_steps": 6, "global_batch_size": 8, "micro_batch_size": 4, "logging_steps": 1,
                         "precision": "fp32", "figures": False, "cache_frozen": True, "learning_rate": 0.1, **training}}


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
@pytest.mark.parametrize("tuning", [HEAD, LAST], ids=["head", "last"])
def test_losses_and_weights_are_those_of_computing_all_of_it(
        family: str, tuning: dict[str, Any], bases: dict[str, Path], labelled: Path, tmp_path: Path) -> None:
    for name, kept in (("kept", True), ("computed", False)):
        fit(recipe.load(tree(bases[family], labelled, tmp_path / name, tuning, cache_frozen=kept)))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "computed"), rel=1e-4)
    ours, theirs = trained(tmp_path / "kept"), trained(tmp_path / "computed")
    start = load_file(bases[family] / "model" / "model.safetensors")
    assert any(not torch.equal(ours[name], start[name]) for name in start)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)


def test_rows_of_weighted_labels_are_kept_beside_those_held_out(
        bases: dict[str, Path], labelled: Path, tmp_path: Path) -> None:
    """The latter have no weights, and can't stand in one batch with the former."""
    for name, kept in (("kept", True), ("computed", False)):
        asked = tree(bases["bert"], labelled, tmp_path / name, HEAD, cache_frozen=kept)
        fit(recipe.load({**asked, "task": {"name": "classification", "class_weights": "balanced"}}))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "computed"), rel=1e-4)


def test_no_frozen_layer_computes_after_the_states_are_there(
        bases: dict[str, Path], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And another run of the same base, by another method that freezes as much, asks nothing at all."""
    computed: list[int] = []
    passed = frozen.Frozen._pass

    def counted(self: Any, forward: Any, is_last: bool, *args: Any, **more: Any) -> Any:
        def noted(*given: Any, **rest: Any) -> Any:
            computed.append(len(given[0]))
            return forward(*given, **rest)

        return passed(self, noted, is_last, *args, **more)

    monkeypatch.setattr(frozen.Frozen, "_pass", counted)
    first = recipe.load(tree(bases["bert"], labelled, tmp_path / "first", HEAD, max_steps=40))
    fit(first)
    assert sum(computed) == 2 * 96  # two layers, each row once
    fit(recipe.load(tree(bases["bert"], labelled, tmp_path / "second", HEAD, max_steps=40, learning_rate=1e-3)))
    assert sum(computed) == 2 * 96


def test_what_is_kept_is_what_transformers_layers_say(
        bases: dict[str, Path], labelled: Path, tmp_path: Path) -> None:
    fit(recipe.load(tree(bases["bert"], labelled, tmp_path / "run", HEAD, max_steps=40)))
    (place,) = (tmp_path / "cache" / "states").iterdir()
    kept = np.load(place / "states.npy")
    opened = models.open_model(tmp_path / "run", "AutoModelForSequenceClassification")
    model: Any = opened.model
    texts = [row["text"] for row in csv.DictReader(labelled.open())]
    told = 0
    for ids in opened.tokenizer(texts, truncation=True, max_length=32)["input_ids"]:
        with torch.no_grad():
            said = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        starts = np.flatnonzero(np.isclose(kept, said[0], atol=1e-4).all(1))
        assert any(np.allclose(kept[start : start + len(ids)], said, atol=1e-4) for start in starts)
        told += len(ids)
    assert told == len(kept)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(bytes(content))


def shorter(path: Path) -> None:
    np.save(path, np.load(path)[:5])


@pytest.mark.parametrize("spoil", [cut, emptied, flipped, shorter, Path.unlink])
def test_what_was_spoiled_is_computed_anew(
        spoil: Callable[[Path], None], bases: dict[str, Path], labelled: Path, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    fit(recipe.load(tree(bases["bert"], labelled, tmp_path / "first", HEAD)))
    (place,) = (tmp_path / "cache" / "states").iterdir()
    spoil(place / "states.npy")
    fit(recipe.load(tree(bases["bert"], labelled, tmp_path / "again", HEAD)))
    assert f"{place}: is damaged (" in caplog.text and "it is made anew" in caplog.text
    assert losses(tmp_path / "again") == losses(tmp_path / "first")


def test_two_processes_learn_what_one_does(bases: dict[str, Path], labelled: Path, tmp_path: Path) -> None:
    one, two = (tree(bases["bert"], labelled, tmp_path / name, LAST, micro_batch_size=2) for name in ("one", "two"))
    fit(recipe.load(one))
    (tmp_path / "two.yaml").write_text(json.dumps(two))
    both = run_in_two(["pretrain", str(tmp_path / "two.yaml")], tmp_path / "two")
    assert [child.wait() for child in both] == [0, 0], both[0].said.read_text()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_run_that_goes_on_ends_as_one_that_wasnt_stopped(
        bases: dict[str, Path], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"save_steps": 3, "lr_scheduler_type": "constant"}
    fit(recipe.load(tree(bases["bert"], labelled, tmp_path / "whole", LAST, max_steps=40, **plan)))
    fit(recipe.load(tree(bases["bert"], labelled, tmp_path / "parts", LAST, max_steps=30, **plan)))
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "another"))  # nothing is kept there
    fit(recipe.load(tree(bases["bert"], labelled, tmp_path / "parts", LAST, max_steps=40, **plan)))
    ours, theirs = trained(tmp_path / "parts"), trained(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("change", "why"), [
    ({"tuning": {"method": "full"}}, "trains something in the first layer or below it"),
    ({"tuning": {"method": "lora"}}, "trains something in the first layer or below it"),
    ({"tuning": {"method": "prefix"}}, "virtual tokens"),
    ({"training": {"gradient_checkpointing": True}}, "computes layers again"),
    ({"training": {"compile": True}}, "makes one of the layers"),
])
def test_what_changes_the_layers_below_is_refused(
        change: dict[str, Any], why: str, bases: dict[str, Path], labelled: Path, tmp_path: Path) -> None:
    asked = tree(bases["bert"], labelled, tmp_path / "run", change.get("tuning", HEAD), **change.get("training", {}))
    with pytest.raises(RequestError, match=rf"^training\.cache_frozen: .*{why}"):
        fit(recipe.load(asked))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("family", ["t5", "albert"])
def test_a_family_of_other_stacks_is_refused(family: str, labelled: Path, tmp_path: Path) -> None:
    made = tiny(family, labelled, tmp_path / "base", max_steps=1)
    del made["objective"]
    fit(recipe.load({**made, "task": "classification"}))
    with pytest.raises(RequestError, match="one stack of layers with weights of their own"):
        fit(recipe.load(tree(tmp_path / "base", labelled, tmp_path / "run", HEAD)))


@pytest.mark.parametrize(("family", "task", "rows"), [
    ("bert", "multiple_choice", [{"question": f"who sat {i} ?", "choices": ["a cat", "a dog", "a hat"], "answer": i % 3}
                                 for i in range(24)]),
    ("gpt2", "preference", [{"prompt": f"tell me {i}", "chosen": "the cat sat", "rejected": "a dog"}
                            for i in range(24)]),
])
def test_rows_of_several_texts_are_refused(
        family: str, task: str, rows: list[dict[str, Any]], text: Path, tmp_path: Path) -> None:
    fit(recipe.load(tiny(family, text, tmp_path / "base", max_steps=1)))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = tree(tmp_path / "base", tmp_path / "rows.jsonl", tmp_path / "run", LAST)
    with pytest.raises(RequestError, match=r"training\.cache_frozen: in rows of .* there isn't one text"):
        fit(recipe.load({**asked, "task": task}))


def test_lora_of_the_last_layers_goes_on_from_what_is_kept(
        bases: dict[str, Path], labelled: Path, tmp_path: Path) -> None:
    tuning = {"method": "lora", "target_modules": r".*h\.1\..*c_attn"}
    for name, kept in (("kept", True), ("computed", False)):
        fit(recipe.load(tree(bases["gpt2"], labelled, tmp_path / name, tuning, cache_frozen=kept)))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "computed"), rel=1e-4)


def test_an_objective_and_random_weights_are_refused(text: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="draws its rows anew"):
        fit(recipe.load(tiny("bert", text, tmp_path / "run", cache_frozen=True)))
    made = tiny("bert", labelled, tmp_path / "run", cache_frozen=True)
    del made["objective"]
    with pytest.raises(RequestError, match="random weights"):
        fit(recipe.load({**made, "task": "classification", "tuning": {"method": "layers", "n": 1, "rest": "none"}}))
