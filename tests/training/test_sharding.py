"""A model in parts: what is refused, what a launcher asks for, and checkpoints that any number of processes reads.

That training in parts gives the losses and weights of one process is shown for many cells in tests/reliability.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import run_in_two, tiny
from safetensors.torch import load_file
from torch import nn

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.planning import sharding
from llmkit.planning.settle import settle
from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.training.folder.run_folder import Checkpoint, describe
from llmkit.training.learner import Learner
from llmkit.training.looking import collapse, samples
from llmkit.training.spread import launch, shards
from llmkit.training.spread.ddp import DataParallel
from llmkit.training.spread.fsdp import FullyShard
from llmkit.training.spread.launchers import as_launched, launched

FSDP = {"distributed": {"strategy": "fsdp"}}


@pytest.mark.parametrize(("tree", "said"), [
    ({"training": {"distributed": {"dp_replicate_size": 2}}}, r"dp_replicate_size: is for strategy: fsdp"),
    ({"training": FSDP, "optimizer": {"name": "adafactor"}}, r"adafactor needs each tensor whole.*optimizer: adamw,"),
    ({"training": {"distributed": {"strategy": "fsdp", "dp_replicate_size": 2}}},
     r"dp_replicate_size: 2 groups of one size, of 2 or more .* can't be made of 2 processes; 1 can\."),
    ({"training": {"distributed": {"strategy": "fsdp", "dp_shard_size": 3}}},
     r"dp_shard_size: 1 group .* of 3 processes make 3, and there are 2; leave dp_shard_size out, and it is 2\."),
    ({"training": {"distributed": {"strategy": "zero"}}}, r"distributed.strategy: \"zero\".*There is: ddp, fsdp")])
def test_what_cannot_lie_in_parts_is_refused_before_it_is_opened(tree, said, text: Path, tmp_path: Path) -> None:
    recipe = tiny("gpt2", text, tmp_path / "run")
    whole = {**recipe, **tree, "training": {**recipe["training"], **tree["training"]}}
    with pytest.raises(RequestError, match=said):
        settle(recipes.load(whole), 2)


@pytest.mark.parametrize(("copies", "size", "processes", "said"), [
    (2, None, 4, None), (2, 2, 4, None), (1, 4, 4, None), (2, 3, 1, None),  # one process has the whole model
    (3, None, 8, "can't be made of 8 processes; 1, 2 or 4 can."), (8, None, 8, "8 groups"),
    (2, 3, 8, "2 groups (dp_replicate_size) of 3 processes make 6, and there are 8; leave dp_shard_size out, and it is "
     "4."),
    (1, 3, 8, "1 group (dp_replicate_size) of 3 processes make 3, and there are 8")])
def test_groups_must_be_all_the_processes(copies: int, size: int | None, processes: int, said: str | None) -> None:
    plan = recipes.Distributed("fsdp", dp_replicate_size=copies, dp_shard_size=size)
    if said is None:
        sharding.check_groups(plan, processes)
        return
    with pytest.raises(RequestError) as told:
        sharding.check_groups(plan, processes)
    assert said in str(told.value)


@pytest.mark.parametrize(("words", "said"), [
    (["--set", "training.distributed.dp_replicate_size=2"], "can't be made of 2 processes; 1 can."),
    (["--set", "training.distributed.dp_shard_size=3"], "of 3 processes make 3, and there are 2"),
    (["--set", "optimizer=muon"], "muon needs each tensor whole")])
def test_what_cannot_be_is_told_once_and_before_a_process_starts(
    words: list[str], said: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(*given: object) -> None:
        raise AssertionError("a process is started")

    monkeypatch.setattr(launch, "start", start)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tiny("gpt2", text, tmp_path / "run", **FSDP)))
    for verb in ("pretrain", "plan"):
        assert main([verb, str(tmp_path / "r.yaml"), "--processes", "2", *words]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


def test_a_method_that_looks_at_whole_gradients_is_refused(text: Path, tmp_path: Path) -> None:
    tree = {**tiny("gpt2", text, tmp_path / "run", **FSDP), "tuning": {"method": "adalora"}}
    with pytest.raises(RequestError, match=r"fsdp: adalora looks at whole gradients in each step\. Use lora"):
        settle(recipes.load(tree), 2)


def test_how_a_model_lies_is_no_other_run(text: Path, tmp_path: Path) -> None:
    one, other = (recipes.load(tiny("gpt2", text, tmp_path / "run", **more)) for more in ({}, FSDP))
    assert recipes.differences(one, other) == {}


@pytest.fixture
def request_of_a_run(text: Path, tmp_path: Path) -> recipes.Recipe:
    return recipes.load(tiny("gpt2", text, tmp_path / "run"))


def test_accelerates_launcher_is_heard(request_of_a_run: recipes.Recipe) -> None:
    asked = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "false",
             "FSDP_OFFLOAD_PARAMS": "true"}
    for _ in range(2):  # a second run of one program hears it too
        with launched(request_of_a_run, asked) as heard:
            plan = heard.training.distributed
            assert plan == recipes.Distributed("fsdp", reshard_after_forward=False, cpu_offload=True)
            assert "ACCELERATE_USE_FSDP" not in asked  # accelerate itself spreads nothing


def test_what_the_recipe_says_comes_before_the_launcher(request_of_a_run: recipes.Recipe) -> None:
    said = recipes.Distributed("fsdp", dp_replicate_size=2)
    plan = replace(request_of_a_run, training=replace(request_of_a_run.training, distributed=said))
    launched = as_launched(plan, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    assert launched.training.distributed == said


def test_the_first_version_of_fsdp_is_refused(request_of_a_run: recipes.Recipe) -> None:
    with pytest.raises(RequestError, match="give --fsdp_version 2 too"):
        as_launched(request_of_a_run, {"ACCELERATE_USE_FSDP": "true"})


# ---- checkpoints in parts, by a process alone ----


def learner_of(width: int = 2) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 2, bias=False), nn.Linear(2, 1))
    return Learner(model, registry.find("objectives", "masked_lm")(), registry.find("backbones", "bert"))


def stepped(learner: Learner, name: str = "adamw") -> torch.optim.Optimizer:
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    optimizer = kind(learner.parameters(), lr=0.1, **({"momentum": 0.9} if name == "sgd" else {}))
    learner.model(torch.ones(1, learner.model[0].in_features)).sum().backward()
    optimizer.step()
    return optimizer


def in_order(optimizer: torch.optim.Optimizer) -> tuple[str, str]:
    """Options, and what is kept of each parameter, in words."""
    state = optimizer.state_dict()
    return repr(state["param_groups"]), repr([sorted(state["state"][i].items()) for i in sorted(state["state"])])


def written(folder: Path, learner: Learner, optimizer: torch.optim.Optimizer, best=None) -> Checkpoint:
    shards.write(folder, shards.content(learner, optimizer, best), main=True, alone=True)
    files = {path.name: describe(path) for path in folder.iterdir()}
    return Checkpoint(folder, {"step": 1, "state": {}, "files": files})


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_parts_come_back_with_the_moments_and_the_best_weights(name: str, tmp_path: Path) -> None:
    learner = learner_of()
    optimizer = stepped(learner, name)
    optimizer.param_groups[0]["lr"] = 0.05
    best = {"model.1.bias": torch.tensor([7.0])}
    start = written(tmp_path, learner, optimizer, best)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".safetensors", ".json")]  # no pickle
    other = learner_of()
    back = stepped(other, name)
    found = DataParallel(Accelerator(cpu=True)).load(start, other, back)
    assert found is not None
    assert found["model.1.bias"].tolist() == [7.0]
    assert [p.tolist() for p in other.parameters()] == [p.tolist() for p in learner.parameters()]
    assert in_order(back) == in_order(optimizer)


def test_large_tensors_go_to_files_of_their_own() -> None:
    """The number of a file rises by the bytes before it: one is made in memory before it is written."""
    tensors = {name: torch.zeros(shards.FILE // 4 // 2) for name in "abcd"}
    assert shards.files_of(tensors) == {"a": 1, "b": 2, "c": 2, "d": 3}


def test_parts_of_another_model_are_refused(tmp_path: Path) -> None:
    learner = learner_of()
    start = written(tmp_path, learner, stepped(learner))
    other = learner_of(3)
    with pytest.raises(CheckpointError, match="its weights aren't those of this recipe's model"):
        shards.read(start, other, stepped(other), alone=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"groups": [], "numbers": {}}'])
def test_a_file_beside_the_parts_that_llmkit_did_not_write(text: str, tmp_path: Path) -> None:
    learner = learner_of()
    start = written(tmp_path, learner, stepped(learner))
    (tmp_path / shards.KEPT).write_text(text)
    with pytest.raises(CheckpointError, match="its parts aren't of this model and optimizer"):
        shards.read(start, learner, stepped(learner), alone=True)


# ---- two processes ----


def test_in_parts_two_processes_learn_what_one_learns(text: Path, tmp_path: Path) -> None:
    """Losses and norms to 1e-6, with an evaluation of uneven ends, a checkpoint in parts and model/ in one piece."""
    def tree(name: str, **more: object) -> Path:
        made = tiny("bert", text, tmp_path / name, still=True, max_steps=2, save_steps=1, eval_steps=1,
                    micro_batch_size=2, **more)
        made["data"]["validation"] = 0.1
        path = (tmp_path / name).with_suffix(".yaml")
        path.write_text(yaml.safe_dump(made))
        return path

    assert main(["pretrain", str(tree("alone"))]) == 0
    both = run_in_two(["pretrain", str(tree("parts", **FSDP))], tmp_path / "parts")
    assert [one.wait(100) for one in both] == [0, 0], both[0].said.read_text()
    events = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
              for name in ("alone", "parts")]
    for mine, theirs in zip(*events, strict=True):
        for name in {"loss", "grad_norm"} & mine.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=1e-6)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "parts")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-5)
    saved = sorted(path.name for path in (tmp_path / "parts" / "checkpoints" / "step-00000002").iterdir())
    assert len([name for name in saved if name.startswith("shard-")]) == 2
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["strategy"] == "fsdp"


def test_a_model_in_parts_is_never_asked_by_the_main_process_alone() -> None:
    """The others would wait for it, and it for them: it shows no rows, and isn't asked whether it has collapsed."""
    recipe = SimpleNamespace(task=None, tuning=SimpleNamespace(adapter=False), training=SimpleNamespace(compile=False))
    session: Any = SimpleNamespace(
        recipe=recipe, spread=FullyShard(Accelerator(cpu=True), recipes.Distributed("fsdp"), 20.0))  # it has no model
    assert samples.sampled(session, []) == []
    assert collapse.after_pretraining(session) is None
