"""How a model is spread over processes: every process has it whole, alone or under DDP."""

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError
from llmkit.training.folder.run_folder import Checkpoint, describe
from llmkit.training.learner import Learner
from llmkit.training.spread.base import Spread
from llmkit.training.spread.ddp import DataParallel, tensors


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def learner():
    """Four weights that train and two that don't."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[1].weight.requires_grad_(False)
    return Learner(model, registry.find("objectives", "masked_lm")(), registry.find("backbones", "bert"))


def checkpoint(folder: Path) -> Checkpoint:
    files = {path.name: describe(path) for path in folder.iterdir()}
    return Checkpoint(folder, {"step": 1, "state": {}, "files": files})


def stepped(spread: DataParallel, learner: Learner) -> torch.optim.Optimizer:
    """The optimizer after one step, so that it has moments."""
    optimizer = torch.optim.AdamW(learner.trained.values(), lr=0.1)
    _, prepared = spread.prepare(learner, lambda: optimizer)
    learner.model(torch.ones(1, 2)).sum().backward()
    prepared.step()
    prepared.zero_grad()
    return prepared


def test_it_is_what_a_run_asks_for(accelerator):
    asked = {name for name in vars(Spread) if not name.startswith("_")}
    assert asked <= set(dir(DataParallel(accelerator)))
    assert asked == {"prepare", "apart", "clip", "judging", "judged", "copies", "put_back", "not_finite", "save",
                     "copied", "load", "whole", "alone", "name", "even"}


def test_clipping_gives_the_norm_before_it(accelerator):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert DataParallel(accelerator).clip([weight], 1.0) == pytest.approx(5.0)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8])
    assert DataParallel(accelerator).clip([weight], math.inf) == pytest.approx(1.0)


def test_evaluations_keep_no_graph(accelerator, learner):
    spread = DataParallel(accelerator)
    with spread.judging():
        assert not learner.model(torch.ones(1, 2)).requires_grad
    spread.judged(learner)
    assert learner.model(torch.ones(1, 2)).requires_grad


def test_copies_are_of_what_trains_and_come_back(accelerator, learner):
    spread = DataParallel(accelerator)
    copies = spread.copies(learner)
    assert list(copies) == ["model.0.weight"]
    before = copies["model.0.weight"].tolist()
    with torch.no_grad():
        learner.model[0].weight.fill_(7.0)
    assert copies["model.0.weight"].tolist() == before
    spread.put_back(learner, copies)
    assert learner.model[0].weight.tolist() == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_parameter_that_is_not_finite_is_named(accelerator, learner, value):
    spread = DataParallel(accelerator)
    assert spread.not_finite(learner) is None
    with torch.no_grad():
        learner.model[0].weight[1, 0] = value
    assert spread.not_finite(learner) == "model.0.weight"


def test_what_is_saved_comes_back(accelerator, learner, tmp_path):
    spread = DataParallel(accelerator)
    optimizer = stepped(spread, learner)
    best = {"model.0.weight": torch.full((2, 2), 5.0)}
    spread.save(tmp_path, learner, optimizer, best)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors", "optimizer.pt", "trained.safetensors"]
    saved, moments = learner.model[0].weight.tolist(), optimizer.state_dict()["state"][0]["exp_avg"].tolist()
    with torch.no_grad():
        learner.model[0].weight.zero_()
    other = stepped(spread, learner)
    back = spread.load(checkpoint(tmp_path), learner, other)
    assert learner.model[0].weight.tolist() == saved
    assert other.state_dict()["state"][0]["exp_avg"].tolist() == moments
    assert back is not None
    assert back["model.0.weight"].tolist() == [[5.0, 5.0], [5.0, 5.0]]


def test_without_a_best_there_is_none(accelerator, learner, tmp_path):
    spread = DataParallel(accelerator)
    optimizer = stepped(spread, learner)
    spread.save(tmp_path, learner, optimizer, None)
    assert spread.load(checkpoint(tmp_path), learner, optimizer) is None


def test_another_models_weights_are_refused_and_nothing_is_changed(accelerator, learner, tmp_path):
    spread = DataParallel(accelerator)
    optimizer = stepped(spread, learner)
    spread.save(tmp_path, learner, optimizer, None)
    wider = Learner(nn.Sequential(nn.Linear(3, 2, bias=False)), learner.objective, learner.family)
    before = wider.model[0].weight.tolist()
    with pytest.raises(CheckpointError, match="its weights aren't those of this recipe's model"):
        spread.load(checkpoint(tmp_path), wider, optimizer)
    assert wider.model[0].weight.tolist() == before


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt"])
def test_a_checkpoint_without_one_of_its_files_says_so(accelerator, learner, tmp_path, name):
    spread = DataParallel(accelerator)
    optimizer = stepped(spread, learner)
    spread.save(tmp_path, learner, optimizer, None)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="its manifest names no trained"):
        spread.load(checkpoint(tmp_path), learner, optimizer)


@pytest.mark.parametrize("content", [b"", b"not torch's", b"\x80\x04\x95"])
def test_an_optimizer_file_that_is_something_else_is_refused(accelerator, learner, tmp_path, content):
    spread = DataParallel(accelerator)
    optimizer = stepped(spread, learner)
    spread.save(tmp_path, learner, optimizer, None)
    (tmp_path / "optimizer.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt: isn't the state of this optimizer"):
        spread.load(checkpoint(tmp_path), learner, optimizer)


def test_a_pickle_in_an_optimizer_file_is_not_run(accelerator, learner, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    spread = DataParallel(accelerator)
    optimizer = stepped(spread, learner)
    spread.save(tmp_path, learner, optimizer, None)
    torch.save({"state": Evil()}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="isn't the state of this optimizer"):
        spread.load(checkpoint(tmp_path), learner, optimizer)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_holds_no_tensors_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: holds no tensors"):
        tensors(tmp_path / "x.safetensors")
