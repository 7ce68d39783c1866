"""Which optimizer a recipe has, at which rate, what it may say of it, and what runs of before go on with."""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.planning.choices import usual_rate
from llmkit.planning.settle import settle
from llmkit.planning.unheeded import unheeded
from llmkit.recipe import registry
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.training.fit import fit


def tree(text: Path, folder: Path, family: str = "bert", optimizer: Any = None, **training: Any) -> dict[str, Any]:
    made = tiny(family, text, folder, learning_rate=None, **training)
    return made if optimizer is None else {**made, "optimizer": optimizer}


def settled(made: dict[str, Any], *settings: str) -> recipes.Recipe:
    return settle(recipes.load(made, settings)).recipe


def block(recipe: recipes.Recipe) -> dict[str, Any]:
    found: dict[str, Any] = recipes.tree_of(recipe)["optimizer"]
    return found


# ---- without a block ----


@pytest.mark.parametrize(("family", "name", "rate"), [
    ("t5", "adamw_rms", 2e-2), ("umt5", "adamw_rms", 2e-2), ("bert", "adamw", 5e-4), ("bart", "adamw", 5e-4),
    ("transformer", "adamw", 5e-4), ("llama", "adamw", 5e-4)])
def test_it_is_the_familys_usual_one_at_its_usual_rate(
    family: str, name: str, rate: float, text: Path, tmp_path: Path
) -> None:
    asked = recipes.load(tree(text, tmp_path / "run", family))
    made = settle(asked)
    assert registry.name_of(made.recipe.rule) == name
    assert made.recipe.training.learning_rate == pytest.approx(rate, rel=1e-12) == usual_rate(asked)
    assert made.moved_by == (f"the usual one of a {family} from scratch")


def test_a_pretrained_t5_and_one_that_trains_in_part_have_adamw(text: Path, tmp_path: Path) -> None:
    fit(recipes.load(tree(text, tmp_path / "base", "t5", max_steps=1)))
    more = {**tree(text, tmp_path / "run", "t5"), "backbone": {"pretrained": str(tmp_path / "base")}}
    del more["tokenizer"]
    made = settle(recipes.load(more))
    assert (registry.name_of(made.recipe.rule), made.moved_by) == ("adamw", "the usual one")
    assert made.recipe.training.learning_rate == 5e-5
    part = settled({**tree(text, tmp_path / "part", "t5"), "tuning": {"method": "feed_forward"}})
    assert registry.name_of(part.rule) == "adamw"


@pytest.mark.parametrize(("name", "scratch", "pretrained", "lora"), [
    ("adamw", 5e-4, 5e-5, 1e-3), ("adamw_rms", 2e-2, 2e-3, 4e-2), ("adafactor", 1e-2, 1e-3, 2e-2),
    ("lion", 1e-4, 1e-5, 2e-4), ("sgd", 0.1, 1e-2, 0.2), ("muon", 5e-4, 5e-5, 1e-3),
    ("schedule_free", 1e-3, 1e-4, 2e-3), ("torch.optim.RAdam", 5e-4, 5e-5, 1e-3)])
def test_each_has_a_usual_rate_in_proportion_to_the_methods(
    name: str, scratch: float, pretrained: float, lora: float, text: Path, encoder: Path, tmp_path: Path
) -> None:
    made = tree(text, tmp_path / "run", optimizer=name)
    assert settled(made).training.learning_rate == pytest.approx(scratch)
    made["backbone"] = {"pretrained": str(encoder)}
    del made["tokenizer"]
    assert settled(made).training.learning_rate == pytest.approx(pretrained)
    tuned = settled({**made, "tuning": "lora"})
    assert tuned.training.learning_rate == pytest.approx(lora)
    assert tuned.training.head_learning_rate == pytest.approx(lora)  # 1e-3 in adamw's measure, at most
    assert settled({**made, "tuning": "prefix"}).training.head_learning_rate == pytest.approx(lora)
    assert settled(made, "training.learning_rate=0.3").training.learning_rate == 0.3


def test_adafactor_without_the_weights_size_has_adamws_rate(text: Path, tmp_path: Path) -> None:
    made = tree(text, tmp_path / "run", optimizer={"name": "adafactor", "scale_parameter": False})
    assert settled(made).training.learning_rate == pytest.approx(5e-4)


# ---- adamw's options, in its block or in training ----


def test_options_of_adamw_in_training_are_those_of_its_block(text: Path, tmp_path: Path) -> None:
    for optimizer in (None, "adamw", {"name": "adamw"}):
        made = settled(tree(text, tmp_path / "run", optimizer=optimizer, adam_beta2=0.98, adam_epsilon=1e-6))
        assert block(made) == {"name": "adamw", "betas": [0.9, 0.98], "eps": 1e-6}
        assert made.training.adam_beta2 is None
    assert block(settled(tree(text, tmp_path / "run", adam_beta1=0.8)))["betas"] == [0.8, 0.999]
    both = tree(text, tmp_path / "run", optimizer={"name": "adamw", "eps": 1e-5}, adam_beta1=0.5)
    assert block(settled(both)) == {"name": "adamw", "betas": [0.5, 0.999], "eps": 1e-5}


def test_with_them_a_t5_from_scratch_has_adamw(text: Path, tmp_path: Path) -> None:
    made = settle(recipes.load(tree(text, tmp_path / "run", "t5", adam_beta2=0.98)))
    assert block(made.recipe)["name"] == "adamw"
    assert made.moved_by == "training.adam_beta2 is an option of it"
    assert made.recipe.training.learning_rate == 5e-4


@pytest.mark.parametrize(("optimizer", "training", "said"), [
    ({"name": "adamw", "betas": [0.9, 0.98]}, {"adam_beta2": 0.98},
     "training.adam_beta2: is given here and as optimizer.betas; leave one out."),
    ({"name": "adamw", "betas": [0.9, 0.98]}, {"adam_beta1": 0.9},
     "training.adam_beta1: is given here and as optimizer.betas; leave one out."),
    ({"name": "adamw", "eps": 1e-8}, {"adam_epsilon": 1e-8},
     "training.adam_epsilon: is given here and as optimizer.eps; leave one out."),
    ("lion", {"adam_beta1": 0.9},
     "training.adam_beta1: is an option of adamw, and the optimizer is lion; leave it out."),
    ("muon", {"adam_epsilon": 1e-6},
     "training.adam_epsilon: is an option of adamw, and the optimizer is muon; leave it out."),
    ({"name": "adamw", "lr": 1e-3}, {}, "optimizer.lr: no such field of adamw; it is training.learning_rate."),
    ({"name": "lion", "weight_decay": 0.1}, {}, "optimizer.weight_decay: no such field of lion; it is "
     "training.weight_decay."),
    ({"name": "muon", "max_grad_norm": 1}, {}, "optimizer.max_grad_norm: no such field of muon; it is "
     "training.max_grad_norm."),
    ({"name": "adamw", "beta": 1}, {}, "optimizer.beta: no such field of adamw. Did you mean 'betas'?"),
    ({"name": "adamw", "betas": [0.9, 1.0]}, {}, "optimizer.betas.1: 1.0 should be less than 1."),
    ({"name": "sgd", "momentum": 0, "nesterov": True}, {}, "optimizer: nesterov needs a momentum above 0"),
    ({"name": "schedule_free", "betas": [0, 0.9]}, {}, "optimizer.betas.0: 0 should be greater than 0."),
    ({"betas": [0.9, 0.9]}, {}, "optimizer: name is missing.")])
def test_what_a_block_cant_say_is_refused_with_what_can_be_said(
    optimizer: Any, training: dict[str, Any], said: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as caught:
        recipes.load(tree(text, tmp_path / "run", optimizer=optimizer, **training))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(("name", "meant"), [
    ("adam", "'adamw'"), ("AdamW", "'adamw'"), ("adamw_torch", "'adamw'"), ("adamw_torch_fused", "'adamw'"),
    ("adamw_bnb_8bit", "'adamw_8bit'"), ("AdamWScale", "'adamw_rms'"), ("schedule-free", "'schedule_free'"),
    ("Muonn", "'muon'"), ("momentum", "'sgd'")])
def test_a_name_of_elsewhere_leads_to_ours(name: str, meant: str) -> None:
    with pytest.raises(RequestError, match=f"no optimizer is called '{name}'. Did you mean {meant}"):
        registry.find("optimizers", name)


# ---- others, by their names ----


def test_a_class_of_torch_has_its_arguments_as_options_and_comes_back_from_a_file(text: Path, tmp_path: Path) -> None:
    asked = tree(text, tmp_path / "run", optimizer={"name": "torch.optim.NAdam", "betas": [0.8, 0.9]})
    made = settled(asked)
    assert block(made)["betas"] == [0.8, 0.9]
    assert block(made)["momentum_decay"] == 4e-3
    (tmp_path / "r.yaml").write_text(recipes.dump(made))
    assert recipes.differences(made, recipes.load(tmp_path / "r.yaml")) == {}
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    from llmkit.optimizers.base import Learned

    optimizer = made.rule.make([Learned("w", parameter, 0.1, 0.2, True, ())])
    assert type(optimizer) is torch.optim.NAdam
    (group,) = optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.8, 0.9), 0.2, 0.1)


def test_a_run_by_one_goes_on_to_the_bit_and_another_one_doesnt_take_its_place(text: Path, tmp_path: Path) -> None:
    asked = {**tree(text, tmp_path / "run", save_steps=2), "optimizer": "torch.optim.Adamax"}
    fit(recipes.load(asked))
    with pytest.raises(CheckpointError, match=r"optimizer.name is torch.optim.RAdam, there torch.optim.Adamax"):
        fit(recipes.load({**asked, "optimizer": "torch.optim.RAdam"}))


@pytest.mark.parametrize(("name", "said"), [
    ("torch.optim.LBFGS", "optimizer: torch.optim.LBFGS can't be used so: TypeError: "),
    ("torch.optim.SparseAdam", "optimizer: torch.optim.SparseAdam can't be used so: RuntimeError: SparseAdam does not"),
    ("torch.optim.Muon", "optimizer: torch.optim.Muon can't be used so: ValueError: Muon only supports 2D"),
    ("torch.nn.Linear", "torch.nn.Linear must be made from llmkit.optimizers.base.Optimizer or torch.optim.Optimizer"),
    ("torch.optim.Nothing", "no module 'torch.optim.Nothing' can be imported for the optimizer"),
    ("nowhere.Adam", "no module 'nowhere' can be imported for the optimizer 'nowhere.Adam'; it must be installed")])
def test_a_class_that_no_run_can_use_is_refused_before_anything_is_loaded(
    name: str, said: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as caught:
        settle(recipes.load(tree(text, tmp_path / "run", optimizer=name)))
    assert said in str(caught.value)


OWN = '''
"""Optimizers of one's own."""

import torch


class Forgetful(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        self.seen = getattr(self, "seen", 0) + 1
        self.param_groups[0]["params"][0].data.add_(self.seen)


class Pickled(torch.optim.SGD):
    def state_dict(self):
        return {**super().state_dict(), "more": Forgetful}


class Ratless(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})


class Modal(torch.optim.SGD):
    def train(self): ...
    def eval(self): ...


class Strange(Exception): ...


class Refuser(torch.optim.SGD):
    def __init__(self, params, lr, depth=3, kind=torch.float32, weights=[1, 2]):
        if depth > 3:
            raise Strange("too deep")
        super().__init__(params, lr)
        self.weights, self.kind = weights, kind
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_rules.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_rules", raising=False)
    return "own_rules"


@pytest.mark.parametrize(("cls", "said"), [
    ("Forgetful", "doesn't go on from what it saves as it would have gone on; a run couldn't be resumed."),
    ("Pickled", "can't be used so: UnpicklingError: "),
    ("Ratless", "takes no lr: a run couldn't tell it its learning rate."),
    ("Modal", "has modes for training and evaluation, which a run doesn't turn; schedule_free is llmkit's own"),
    ("Refuser", "can't be used so: Strange: too deep")])
def test_a_class_of_ones_own_is_tried_before_it_is_trusted(cls: str, said: str, own: str) -> None:
    with pytest.raises(RequestError) as caught:
        registry.find("optimizers", f"{own}.{cls}")(**({"depth": 4} if cls == "Refuser" else {})).check()
    assert said in str(caught.value)


def test_what_a_recipe_cant_say_stays_as_the_class_has_it(own: str) -> None:
    one, other = (registry.find("optimizers", f"{own}.Refuser")() for _ in range(2))
    one.check()
    assert recipes.block("optimizer", one) == {"name": f"{own}.Refuser", "depth": 3, "weights": [1, 2]}
    assert one.weights == other.weights and one.weights is not other.weights
    assert not one.decays


def test_a_plug_in_of_ones_own_is_a_module_as_of_any_kind(text: Path, tmp_path: Path, own: str) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "slow_rule.py").write_text(
        '"""Slow."""\nfrom pydantic.dataclasses import dataclass\nfrom llmkit.optimizers.sgd import SGD\n'
        "from llmkit.recipe.registry import OPTIONS\n\n\n@dataclass(config=OPTIONS)\nclass Slow(SGD):\n"
        '    """Slow."""\n')
    made = settled(tree(text, tmp_path / "run", optimizer={"name": "own_package.slow_rule", "momentum": 0.5}))
    assert block(made) == {"name": "own_package.slow_rule", "momentum": 0.5, "nesterov": False}


def test_a_library_that_is_not_there_is_named_with_the_line_that_installs_it(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmkit.optimizers.adamw_8bit.find_spec", lambda name: None)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree(text, tmp_path / "run", optimizer="adamw_8bit")))
    assert main(["pretrain", str(tmp_path / "r.yaml")]) == 2
    assert "llmkit: error: optimizer: adamw_8bit needs bitsandbytes, which isn't installed: pip install " \
           "'llmkit-train[adamw-8bit]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- what is said ----


def test_a_run_says_which_it_is_at_which_rate_and_why(
    text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def line(made: dict[str, Any]) -> str:
        caplog.clear()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with caplog.at_level(logging.INFO, logger="llmkit"):
            fit(recipes.load(made))
        (said,) = [one.getMessage() for one in caplog.records if one.getMessage().startswith("optimizer ")]
        return said

    assert line(tree(text, tmp_path / "run", "t5", max_steps=1)) == (
        "optimizer adamw_rms, learning rate 0.02: the usual one of a t5 from scratch")
    assert line({**tree(text, tmp_path / "run", "t5", max_steps=1), "training": {
        "max_steps": 1, "learning_rate": 1e-3, "global_batch_size": 8}}) == (
        "optimizer adamw_rms, learning rate 0.001: the usual one of a t5 from scratch; its usual rate here is 0.02")
    assert line(tree(text, tmp_path / "run", optimizer="lion", max_steps=1)) == "optimizer lion, learning rate 0.0001"
    assert line(tree(text, tmp_path / "run", optimizer="muon", max_steps=1)).startswith("optimizer muon (12 matrices ")


def test_inspect_plan_and_the_list_say_it_too(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree(text, tmp_path / "run", optimizer="lion")))
    assert main(["inspect", str(tmp_path / "r.yaml")]) == 0
    assert "tokens in the vocabulary, lion at 0.0001\n" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "r.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["optimizer"], found["learning_rate"]) == ("lion", 1e-4)
    assert main(["plan", str(tmp_path / "r.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["optimizer"], found["learning_rate"]) == ("lion", 1e-4)
    memory = found["memory"]
    assert memory["optimizer"] == memory["gradients"] == 4 * found["trainable_parameters"]
    assert main(["optimizers", "--json"]) == 0
    assert "adamw_rms" in json.loads(capsys.readouterr().out)


def test_what_an_optimizer_has_no_use_for_is_said(text: Path, tmp_path: Path) -> None:
    def said(optimizer: Any, **training: Any) -> list[str]:
        return unheeded(settled(tree(text, tmp_path / "run", optimizer=optimizer, **training)), 4)

    assert said("schedule_free") == [
        "training.lr_scheduler_type: linear lowers the rate of schedule_free, whose average does without that; "
        "constant_with_warmup doesn't"]
    assert said("schedule_free", lr_scheduler_type="constant_with_warmup") == []
    assert said("torch.optim.Rprop") == ["training.weight_decay: 0.01 can't act: torch.optim.Rprop has none"]
    assert said("torch.optim.Rprop", weight_decay=0) == said("lion") == said("torch.optim.RAdam") == []


def test_schedule_free_with_a_method_that_cuts_is_refused(text: Path, encoder: Path, tmp_path: Path) -> None:
    made = {**tree(text, tmp_path / "run", optimizer="schedule_free"), "tuning": "adalora",
            "backbone": {"pretrained": str(encoder)}}
    del made["tokenizer"]
    with pytest.raises(RequestError, match="schedule_free keeps averages, which what adalora cuts would come back"):
        recipes.load(made)


# ---- runs of before ----


def as_of_0_1_0(run: Path) -> None:
    """A run's folder as a version without optimizers left it."""
    path = run / "recipe.yaml"
    before = yaml.safe_load(path.read_text())
    made = before.pop("optimizer")
    assert made.pop("name") == "adamw"
    before["training"] |= {"adam_beta1": made["betas"][0], "adam_beta2": made["betas"][1], "adam_epsilon": made["eps"]}
    path.write_text(yaml.safe_dump(before))
    from llmkit.training.folder.run_folder import sealed

    for path in run.glob("checkpoints/*/MANIFEST.json"):
        manifest = json.loads(path.read_text())
        path.write_text(sealed({name: manifest[name] for name in ("state", "data", "processes", "step", "files")}))


@pytest.fixture
def older(text: Path, tmp_path: Path) -> dict[str, Any]:
    """A T5 from scratch by AdamW, as before: what its recipe said then, with no word of an optimizer."""
    asked = tree(text, tmp_path / "run", "t5", save_steps=2)
    fit(recipes.load({**asked, "optimizer": "adamw"}))
    as_of_0_1_0(tmp_path / "run")
    return asked


def test_a_t5_of_before_goes_on_with_adamw_and_that_is_said(
    older: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "whole")
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    (run / "summary.json").unlink()
    with caplog.at_level(logging.INFO, logger="llmkit"):
        fit(recipes.load(older), resume="must")
    assert f"optimizer adamw: the run in {run} has it" in caplog.text
    names = ("model/model.safetensors", "checkpoints/step-00000004/trained.safetensors")
    assert all((run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["optimizer"]["name"] == "adamw"
    assert fit(recipes.load(older))["steps"] == 4  # and is known again when it is finished


def test_a_finished_t5_of_before_is_reported(older: dict[str, Any]) -> None:
    assert fit(recipes.load(older))["steps"] == 4


def test_the_resolved_recipe_of_before_is_run_as_it_was(older: dict[str, Any], tmp_path: Path) -> None:
    resolved = tmp_path / "run" / "recipe.yaml"
    again = recipes.load(resolved, [f"output_dir={tmp_path / 'again'}"])
    fit(again)
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("run", "again"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("named", ["run", "run/checkpoints/step-00000002"])
def test_a_checkpoint_of_before_named_by_its_path_goes_on_with_adamw(
    named: str, older: dict[str, Any], tmp_path: Path
) -> None:
    summary = fit(recipes.load({**older, "output_dir": str(tmp_path / "other")}), resume=str(tmp_path / named))
    assert summary["status"] == "completed"
    assert yaml.safe_load((tmp_path / "other" / "recipe.yaml").read_text())["optimizer"]["name"] == "adamw"


def test_a_checkpoint_of_another_optimizer_is_refused(older: dict[str, Any], tmp_path: Path) -> None:
    for name in ("lion", "adamw_rms"):
        asked = {**older, "optimizer": name, "output_dir": str(tmp_path / name)}
        with pytest.raises(CheckpointError, match=rf"optimizer\.name is {name}, there adamw"):
            fit(recipes.load(asked), resume=str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"optimizer\.name is lion, there adamw"):
        fit(recipes.load({**older, "optimizer": "lion"}))


def test_a_checkpoint_of_before_that_stands_alone_is_adamws(older: dict[str, Any], tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "deep" / "step-00000002"
    shutil.copytree(tmp_path / "run" / "checkpoints" / "step-00000002", alone)
    asked = {**older, "output_dir": str(tmp_path / "other")}
    with pytest.raises(CheckpointError, match=r"its optimizer is adamw, and this recipe's is adamw_rms"):
        fit(recipes.load({**asked, "optimizer": "adamw_rms"}), resume=str(alone))
    assert fit(recipes.load({**asked, "training": {**asked["training"], "learning_rate": 5e-4}}),
               resume=str(alone))["status"] == "completed"
    shutil.rmtree(tmp_path / "other")
    (alone / "MANIFEST.json").write_text("[]")
    with pytest.raises(CheckpointError, match="MANIFEST"):
        fit(recipes.load(asked), resume=str(alone))


def test_a_checkpoint_of_now_names_its_optimizer_wherever_it_stands(text: Path, tmp_path: Path) -> None:
    asked = tree(text, tmp_path / "run", save_steps=2)
    fit(recipes.load({**asked, "optimizer": "lion"}))
    alone = tmp_path / "elsewhere" / "deep" / "step-00000002"
    shutil.copytree(tmp_path / "run" / "checkpoints" / "step-00000002", alone)
    other = {**asked, "output_dir": str(tmp_path / "other")}
    with pytest.raises(CheckpointError, match=r"optimizer\.name is adamw, there lion"):
        fit(recipes.load(other), resume=str(alone))
    assert fit(recipes.load({**other, "optimizer": "lion"}), resume=str(alone))["status"] == "completed"
    ends = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("run", "other")]
    assert ends[0] == ends[1]


def test_a_run_begun_anew_where_one_of_before_was_asked_never_to_go_on_is_refused_as_ever(
    older: dict[str, Any], tmp_path: Path
) -> None:
    from llmkit.system.errors import PlaceError

    with pytest.raises(PlaceError, match="holds a run already"):
        fit(recipes.load(older), resume="never")
    (tmp_path / "run" / "recipe.yaml").write_text("{")
    with pytest.raises(CheckpointError, match=r"recipe.yaml can't be read"):
        fit(recipes.load(older))


def test_a_run_of_now_is_the_same_with_and_without_its_block(text: Path, tmp_path: Path) -> None:
    asked = tree(text, tmp_path / "run", "t5", max_steps=2)
    fit(recipes.load(asked))
    for optimizer in ("adamw_rms", {"name": "adamw_rms", "betas": [0.9, 0.999]}):
        assert fit(recipes.load({**asked, "optimizer": optimizer}))["steps"] == 2
    assert fit(recipes.load(tmp_path / "run" / "recipe.yaml"))["steps"] == 2
    with pytest.raises(CheckpointError, match=r"optimizer.least_rms is 0.01, there 0.001"):
        fit(recipes.load({**asked, "optimizer": {"name": "adamw_rms", "least_rms": 0.01}}))
