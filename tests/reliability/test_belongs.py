"""R: a checkpoint goes on with what it was saved with: recipe, base, tokenizer; what differs is named (4) or said."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmkit.training.folder.run_folder import sealed
from reliability import runs
from reliability.commands import Server
from reliability.test_resume import cases, the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]


# ---- --resume PATH ----


@pytest.mark.quick
def test_a_named_checkpoint_is_no_way_over_another_recipes_run(
    llmkit: Server, tree: Callable[..., Tree],
) -> None:
    ours, theirs = tree(name="ours", max_steps=3), tree(name="theirs", max_steps=3, learning_rate=0.01)
    for recipe in (ours, theirs):
        assert llmkit.run("pretrain", runs.write(recipe)).status == 0
    checkpoint, run = runs.checkpoints(Path(ours["output_dir"]))[-1], Path(theirs["output_dir"])
    before = runs.trees(run)
    done = llmkit.run("pretrain", runs.write(ours), "--output-dir", run, "--resume", checkpoint)
    assert done.status == 4
    assert done.error.startswith(f"{run} holds another recipe's run (training.learning_rate is 0.001, there 0.01; ")
    assert done.error.endswith("). Choose another --output-dir.")
    assert runs.trees(run) == before


@pytest.mark.parametrize(("settings", "what"), cases(
    ("R24-seed", ("seed=7",), "seed is 7, there 42"),
    ("R24-rate", ("training.learning_rate=0.01",), "training.learning_rate is 0.01, there 0.001"),
    ("R24-decay", ("seed=7", "training.weight_decay=0.5"),
     "seed is 7, there 42; training.weight_decay is 0.5, there 0.01"),
    ("R24-objective", ("objective={name: prefix_lm}",), "objective.name is prefix_lm, there causal_lm"),
    ("R24-shorter", ("training.max_steps=2",), "training.max_steps is 2, there 3"),
    quick=("R24-objective",)))
def test_a_named_checkpoint_of_another_recipe_starts_nothing(
    settings: tuple[str, ...], what: str, llmkit: Server, tree: Callable[..., Tree], tmp_path: Path,
) -> None:
    recipe = tree("causal_lm", max_steps=3)
    path = runs.write(recipe)
    assert llmkit.run("pretrain", path).status == 0
    checkpoint, new = runs.checkpoints(Path(recipe["output_dir"]))[-1], tmp_path / "new"
    words = [word for setting in settings for word in ("--set", setting)]
    for named in (checkpoint, Path(recipe["output_dir"])):
        done = llmkit.run("pretrain", path, "--output-dir", new, "--resume", named, *words)
        assert done.status == 4
        assert done.error.startswith(f"{checkpoint} is of another recipe's run ({what}")
    assert not (new / "metrics.jsonl").exists()


def test_a_named_checkpoint_of_the_same_recipe_ends_as_the_run_does_that_it_is_of(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path], tmp_path: Path,
) -> None:
    """Elsewhere, with micro-batches as they were there, and over its own finished run."""
    recipe = tree()
    del recipe["training"]["micro_batch_size"]
    path, run, new = runs.write(recipe), Path(recipe["output_dir"]), tmp_path / "new"
    assert llmkit.run("pretrain", path).status == 0
    first = runs.checkpoints(run)[0]
    kept = tmp_path / "alone"
    shutil.copytree(first, kept)
    assert llmkit.run("pretrain", path, "--output-dir", new, "--resume", kept).status == 0
    last = {one.name: one.read_bytes() for one in (new / "model").glob("*.safetensors")}
    assert last == {one.name: one.read_bytes() for one in (run / "model").glob("*.safetensors")}
    assert llmkit.run("pretrain", path, "--resume", first).status == 0
    the_same(run, whole(recipe))


# ---- what is below ----


@pytest.fixture
def below(llmkit: Server, tree: Callable[..., Tree], text: Path, tmp_path: Path) -> Path:
    """A folder with a small model, its tokenizer, and nothing of the run that made it."""
    recipe = tree("masked_lm", "below", max_steps=1)
    assert llmkit.run("pretrain", runs.write(recipe)).status == 0
    return shutil.copytree(Path(recipe["output_dir"]) / "model", tmp_path / "m")


def add(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 0.5 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def permuted(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    words = tree["model"]["vocab"]
    letters = [word for word in words if len(word) == 1]
    words.update(zip(letters, [words[word] for word in letters][::-1], strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(tree))


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights": (other_weights, "backbone.pretrained: {m} has changed since it was saved (model.safetensors)"),
    "config": (lambda folder: add(folder / "config.json", layer_norm_eps=0.1),
               "backbone.pretrained: {m} has changed since it was saved (config.json)"),
    "tokenizer": (permuted, "tokenizer: {m} has changed since it was saved (tokenizer.json)"),
    "template": (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
                 "tokenizer: {m} has changed since it was saved (chat_template.jinja)")}


@pytest.mark.parametrize(("method", "change"), cases(
    *((f"R25-{method}-{change}", method, change) for method in ("lora", "full") for change in CHANGES),
    quick=()))
def test_a_base_or_tokenizer_that_was_replaced_between_kill_and_resume_is_named(
    method: str, change: str, llmkit: Server, tree: Callable[..., Tree], below: Path, whole: Callable[..., Path],
) -> None:
    recipe = {**tree("classification"), "backbone": {"pretrained": str(below)}, "tuning": {"method": method}}
    del recipe["tokenizer"]
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    assert llmkit.run("finetune", path, signal_after=(7, signal.SIGKILL)).status == -signal.SIGKILL
    kept = shutil.copytree(below, below.with_name("kept"))
    alter, what = CHANGES[change]
    alter(below)
    for resume in ("auto", "must", str(run)):
        done = llmkit.run("finetune", path, "--resume", resume)
        assert (done.status, what.format(m=below) in done.error) == (4, True), done.err
    shutil.rmtree(below)
    kept.rename(below)
    assert llmkit.run("finetune", path, "--resume", "must").status == 0
    if change == "weights":
        the_same(run, whole(recipe))


def test_a_tokenizer_that_stands_alone_is_compared_too(
    llmkit: Server, tree: Callable[..., Tree], below: Path, tmp_path: Path,
) -> None:
    words = tmp_path / "words"
    words.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(below / name, words / name)
    recipe = {**tree(), "tokenizer": {"pretrained": str(words)}}
    path = runs.write(recipe)
    assert llmkit.run("pretrain", path, signal_after=(7, signal.SIGKILL)).status == -signal.SIGKILL
    permuted(words)
    done = llmkit.run("pretrain", path)
    assert (done.status, done.error.endswith(
        f"tokenizer: {words} has changed since it was saved (tokenizer.json). Put back what it was, or choose another "
        "--output-dir.")) == (4, True)


@pytest.mark.quick
def test_other_versions_are_said_once_and_the_run_ends_the_same(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path],
) -> None:
    """As a transformers or a torch that was changed between kill and resume."""
    recipe = tree()
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    assert llmkit.run("pretrain", path, signal_after=(7, signal.SIGKILL)).status == -signal.SIGKILL
    place = runs.checkpoints(run)[-1] / "MANIFEST.json"
    manifest = json.loads(place.read_text())
    manifest["versions"] |= {"transformers": "5.0.0", "torch": "2.11.0"}
    place.write_text(sealed(manifest))
    done = llmkit.run("pretrain", path, "--resume", "must")
    assert done.status == 0, done.err
    assert done.err.count("was saved with other versions (torch ") == 1
    assert ", then 5.0.0): going on; the last digits may differ" in done.err
    the_same(run, whole(recipe))
