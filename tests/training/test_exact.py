"""The loss is a sum over a count: how a step's rows are split changes nothing; and a killed run repeats itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Child, run_in_two, tiny
from learning import LEARNING, ROWS
from safetensors.torch import load_file

from llmkit import recipe as recipes
from llmkit.training.fit import fit


def events(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.fixture
def tree_of(text: Path, request: pytest.FixtureRequest) -> Any:
    def make(case: str, folder: Path, still: bool = True, **training: Any) -> dict[str, Any]:
        family, block = LEARNING[case]
        data = request.getfixturevalue(ROWS[case]) if case in ROWS else text
        tree = tiny(family, data, folder, still, **training)
        del tree["objective"]
        return {**tree, "task" if data is not text else "objective": block}

    return make


def words_for(tree: dict[str, Any], *words: str) -> list[str]:
    """What follows `llmkit` in the command that trains a recipe; the recipe is written beside its folder."""
    path = Path(tree["output_dir"]).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(tree))
    return ["pretrain", str(path), *words]


def child(tree: dict[str, Any], *words: str) -> Child:
    return Child(words_for(tree, *words), Path(tree["output_dir"]).with_suffix(".log"))


@pytest.mark.parametrize("learning", LEARNING)
def test_splitting_a_step_changes_neither_loss_nor_gradient(learning: str, tree_of: Any, tmp_path: Path) -> None:
    firsts = []
    for micro in (8, 4, 2, 1):
        tree = tree_of(learning, tmp_path / str(micro), max_steps=1, micro_batch_size=micro, max_grad_norm=None)
        fit(recipes.load(tree))
        firsts.append(events(tmp_path / str(micro))[0])
    for first in firsts[1:]:
        assert first["loss"] == pytest.approx(firsts[0]["loss"], rel=1e-5)
        assert first["grad_norm"] == pytest.approx(firsts[0]["grad_norm"], rel=1e-5)
        assert first["tokens"] == firsts[0]["tokens"]


@pytest.mark.parametrize("learning", LEARNING)
def test_two_processes_learn_what_one_does(learning: str, tree_of: Any, tmp_path: Path) -> None:
    """And measure what one does: the evaluations before and after have the same masks, pairs and samples."""
    tree = tree_of(learning, tmp_path / "one", max_steps=2)
    tree["data"]["validation"] = 0.2
    fit(recipes.load(tree))
    for micro in (4, 2) if learning in ("masked_lm", "contrastive") else (2,):
        tree = tree_of(learning, tmp_path / str(micro), max_steps=2, micro_batch_size=micro)
        tree["data"]["validation"] = 0.2
        both = run_in_two(words_for(tree), tmp_path / str(micro))
        assert [one.wait() for one in both] == [0, 0], both[0].said.read_text()
        for one, two in zip(events(tmp_path / "one"), events(tmp_path / str(micro)), strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
            assert two["tokens"] == one["tokens"]
        measured = [events(tmp_path / name, "evaluate") for name in ("one", str(micro))]
        assert [len(found) for found in measured] == [2, 2]
        for one, two in zip(*measured, strict=True):
            assert (one.pop("event"), two.pop("event")) == ("evaluate", "evaluate")
            assert two == pytest.approx(one, rel=1e-3, abs=1e-5)  # correlations of predictions that hardly differ
        summary = json.loads((tmp_path / str(micro) / "summary.json").read_text())
        assert summary["processes"] == 2


def test_the_first_loss_is_transformers_own(text: Path, tmp_path: Path) -> None:
    """The mean over targets of one batch, computed by transformers from the same weights and the same batch."""
    from llmkit.data.batches import Drawn
    from llmkit.objectives.base import Setup
    from llmkit.planning.network import network
    from llmkit.planning.settle import settle
    from llmkit.planning.vocabulary import speak

    asked = recipes.load(tiny("gpt2", text, tmp_path / "run", still=True, max_steps=1))
    fit(asked)
    settled = settle(asked)
    tokenizer = speak(settled)
    setup = Setup(tokenizer, settled.family, 32, settled.recipe.data.packing, asked.seed)
    sets = asked.learning.prepare(settled.train, None, setup)
    torch.manual_seed(asked.seed)
    model: Any = network(settled, tokenizer, {}).model
    from llmkit.data.batches import Order

    order = Order([len(sets.train[0])], None, asked.seed)
    rows = [Drawn(sets.train, asked.seed)[order.at(i)] for i in range(8)]
    total, count = 0.0, 0
    for row in rows:  # document by document, as transformers sees them alone
        for number in range(int(row["documents"].max()) + 1):
            chosen = row["documents"] == number
            ids = torch.from_numpy(row["input_ids"][chosen].astype("int64"))
            wanted = torch.from_numpy(row["labels"][chosen].astype("int64"))
            whole = torch.cat([ids, wanted[-1:]])[None]
            total += model(input_ids=whole, labels=whole).loss.item() * len(ids)
            count += len(ids)
    assert events(tmp_path / "run")[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def kill_at(step: int, running: Any, folder: Path, by: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to a process once it has logged a step; return its exit status."""
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count('"train"') >= step:
            os.kill(running.pid, by)
            break
        time.sleep(0.002)
    status: int = running.wait()
    return status


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one / "model" / "model.safetensors"), load_file(other / "model" / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    family: str, workers: int, text: Path, tmp_path: Path
) -> None:
    """Dropout is on, the kill is between two checkpoints, and an epoch ends on the way."""
    plan = {"max_steps": 60, "save_steps": 8, "dataloader_num_workers": workers, "global_batch_size": 16}
    whole, cut = (tiny(family, text, tmp_path / name, **plan) for name in ("whole", "cut"))
    fit(recipes.load(whole))
    ended = kill_at(21, child(cut), tmp_path / "cut")
    assert ended == -signal.SIGKILL
    kept = sorted(path.name for path in (tmp_path / "cut" / "checkpoints").glob("step-*"))
    assert kept
    assert int(kept[-1][-8:]) < 60
    again = child(cut, "--resume", "must")
    assert again.wait() == 0, again.said.read_text()
    assert "going on from" in again.said.read_text()
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    assert [event["step"] for event in events(tmp_path / "cut")] == list(range(1, 61))
    ours, theirs = events(tmp_path / "whole"), events(tmp_path / "cut")
    assert [event["loss"] for event in ours] == [event["loss"] for event in theirs]
    assert ours[-1]["epoch"] > 1


@pytest.mark.parametrize(("by", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_ends_the_run_after_a_checkpoint(
    by: signal.Signals, status: int, processes: int, text: Path, tmp_path: Path
) -> None:
    plan = {"max_steps": 2000, "save_steps": 1000}
    tree = tiny("bert", text, tmp_path / "run", **plan)
    if processes == 1:  # forked: what a process of its own says and ends with is test_cli's
        running: Any = child(tree)
    else:
        command = [sys.executable, "-m", "llmkit", *words_for(tree, "--processes", str(processes))]
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert kill_at(5, running, tmp_path / "run", by) == status
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert len(saved) == 1
    last = events(tmp_path / "run")[-1]["step"]
    assert int(saved[0].name[-8:]) == last < 2000
    assert not (tmp_path / "run" / "model").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout.split()
    assert [pid for pid in left if int(pid) != os.getpid()] == []


def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(text: Path, tmp_path: Path) -> None:
    plan = {"max_steps": 30, "save_steps": 10, "save_total_limit": 5}
    fit(recipes.load(tiny("bert", text, tmp_path / "whole", **plan)))
    tree = tiny("bert", text, tmp_path / "run", **plan)
    fit(recipes.load(tree))
    for name in ("model", "summary.json"):
        subprocess.run(["rm", "-r", str(tmp_path / "run" / name)], check=True)
    newest = tmp_path / "run" / "checkpoints" / "step-00000030"
    raw = bytearray((newest / "optimizer.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (newest / "optimizer.pt").write_bytes(raw)
    (tmp_path / "run" / "checkpoints" / "step-00000020" / "trained.safetensors").unlink()
    again = child(tree)
    assert again.wait() == 0, again.said.read_text()
    said = again.said.read_text()
    assert "optimizer.pt has changed" in said
    assert "trained.safetensors is missing" in said
    assert "going on from" in said
    assert "step-00000010" in said
    assert same_weights(tmp_path / "whole", tmp_path / "run")


def test_nothing_is_done_from_scratch_where_every_checkpoint_is_damaged(text: Path, tmp_path: Path) -> None:
    from llmkit.system.errors import CheckpointError

    tree = tiny("bert", text, tmp_path / "run", max_steps=4, save_steps=2)
    fit(recipes.load(tree))
    (tmp_path / "run" / "summary.json").unlink()
    for path in (tmp_path / "run" / "checkpoints").glob("*/MANIFEST.json"):
        path.write_text("{")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        fit(recipes.load(tree))


def test_changed_data_is_refused(tmp_path: Path) -> None:
    from conftest import stories

    from llmkit.system.errors import CheckpointError

    data = tmp_path / "text.txt"
    data.write_text("\n".join(stories(60)))
    tree = tiny("gpt2", data, tmp_path / "run", max_steps=4, save_steps=2)
    fit(recipes.load(tree))
    (tmp_path / "run" / "summary.json").unlink()
    data.write_text("\n".join([*stories(60), "one more story ."]))
    with pytest.raises(CheckpointError, match="the data has changed"):
        fit(recipes.load(tree))


def test_a_longer_run_goes_on_where_the_schedule_does_not_depend_on_it(text: Path, tmp_path: Path) -> None:
    from llmkit.system.errors import CheckpointError

    plan = {"lr_scheduler_type": "constant", "save_steps": 100}
    fit(recipes.load(tiny("gpt2", text, tmp_path / "whole", max_steps=12, **plan)))
    fit(recipes.load(tiny("gpt2", text, tmp_path / "run", max_steps=6, **plan)))
    fit(recipes.load(tiny("gpt2", text, tmp_path / "run", max_steps=12, **plan)))
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    plan = {"lr_scheduler_type": "linear"}
    fit(recipes.load(tiny("gpt2", text, tmp_path / "other", max_steps=6, **plan)))
    with pytest.raises(CheckpointError, match=r"training\.max_steps is 12, there 6"):
        fit(recipes.load(tiny("gpt2", text, tmp_path / "other", max_steps=12, **plan)))


def test_a_number_that_is_not_finite_ends_the_run_and_no_checkpoint_holds_it(text: Path, tmp_path: Path) -> None:
    from llmkit.system.errors import NumberError

    tree = tiny("gpt2", text, tmp_path / "run", max_steps=200, save_steps=1, learning_rate=1e20, max_grad_norm=None)
    with pytest.raises(NumberError, match="step"):
        fit(recipes.load(tree))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    for path in (tmp_path / "run" / "checkpoints").glob("*/trained.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())


def test_lengths_by_tokens_and_minutes_end_the_run(text: Path, tmp_path: Path) -> None:
    tree = tiny("gpt2", text, tmp_path / "tokens")
    del tree["training"]["max_steps"]
    tree["training"]["max_tokens"] = 2000
    summary = fit(recipes.load(tree))
    assert 2000 <= summary["tokens"] < 2000 + 8 * 32
    tree = {**tree, "output_dir": str(tmp_path / "minutes"), "training": {**tree["training"], "max_minutes": 0.02}}
    del tree["training"]["max_tokens"]
    began = time.monotonic()
    summary = fit(recipes.load(tree))
    assert summary["steps"] >= 1
    assert time.monotonic() - began < 30
