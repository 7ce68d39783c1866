"""Runs by each optimizer: they learn, go on to the bit, and split, freeze, tie, turn and evaluate as by any other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_in_two, tiny
from safetensors.torch import load_file

from llmkit import recipe as recipes
from llmkit.recipe import registry
from llmkit.training.fit import fit

NAMES = [*registry.names("optimizers"), "torch.optim.NAdam"]
RATES = {"sgd": 0.5, "adafactor": 0.05, "adamw_rms": 0.1, "lion": 1e-3}
"""Rates by which a few steps show; 5e-3 for the others."""


def able(name: str) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")


def tree(name: str, text: Path, folder: Path, family: str = "gpt2", **training: Any) -> dict[str, Any]:
    made = tiny(family, text, folder, still=True, learning_rate=RATES.get(name, 5e-3), lr_scheduler_type="constant",
                **training)
    return {**made, "optimizer": {"name": name}}


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def cut_at(run: Path, step: int) -> None:
    """As after a kill: what comes after a checkpoint is gone."""
    shutil.rmtree(run / "model")
    for path in (run / "checkpoints").iterdir():
        if path.name != f"step-{step:08d}":
            shutil.rmtree(path)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_a_killed_run_goes_on_to_the_bit(name: str, text: Path, tmp_path: Path) -> None:
    """With dropout, a schedule, rates by layer, an evaluation between, and a tied table."""
    able(name)
    asked = tree(name, text, tmp_path / "run", max_steps=10, save_steps=5, eval_steps=3, warmup_steps=2)
    asked["backbone"]["config"].update(resid_pdrop=0.1, embd_pdrop=0.1)
    asked["training"]["lr_scheduler_type"] = "linear"
    asked["data"]["validation"] = 0.1
    asked["tuning"] = {"method": "full", "layer_learning_rate_decay": 0.9}
    summary = fit(recipes.load(asked))
    assert summary["evaluation"]["loss"] < summary["evaluation_before"]["loss"]
    whole, lines = weights(tmp_path / "run"), losses(tmp_path / "run")
    assert "lm_head.weight" not in whole  # it is the table of the embeddings
    cut_at(tmp_path / "run", 5)
    again = fit(recipes.load(asked), resume="must")
    assert equal(whole, weights(tmp_path / "run"))
    assert losses(tmp_path / "run") == lines
    assert again["evaluation"] == summary["evaluation"]


@pytest.mark.parametrize("name", NAMES)
def test_splitting_a_step_changes_nothing_and_nor_do_evaluations(name: str, text: Path, tmp_path: Path) -> None:
    able(name)
    for folder, more in (("whole", {}), ("split", {"micro_batch_size": 2}), ("seen", {"eval_steps": 1})):
        asked = tree(name, text, tmp_path / folder, max_steps=4, **more)
        if folder == "seen":
            asked["data"]["validation"] = [{"source": str(text)}]
        fit(recipes.load(asked))
    assert losses(tmp_path / "split") == pytest.approx(losses(tmp_path / "whole"), rel=2e-3)
    assert losses(tmp_path / "seen") == losses(tmp_path / "whole")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_stays_and_a_method_keeps_its_rates(name: str, text: Path, tmp_path: Path) -> None:
    """Only the last layer trains; and of LoRA's, what is saved is an adapter alone."""
    able(name)
    base = tree(name, text, tmp_path / "base", max_steps=1)
    fit(recipes.load(base))
    tuned = {**tree(name, text, tmp_path / "run", max_steps=2), "backbone": {"pretrained": str(tmp_path / "base")},
             "tuning": {"method": "layers", "n": 1}}
    del tuned["tokenizer"]
    fit(recipes.load(tuned))
    before, after = weights(tmp_path / "base"), weights(tmp_path / "run")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and all(key.startswith(("transformer.h.1.", "transformer.ln_f.")) for key in moved)
    lora = {**tuned, "tuning": {"method": "lora"}, "output_dir": str(tmp_path / "lora")}
    assert fit(recipes.load(lora))["status"] == "completed"
    assert (tmp_path / "lora" / "model" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("learning", ["replaced_token", "adversarial"])
def test_two_networks_learn_by_it_and_go_on_to_the_bit(
    name: str, learning: str, text: Path, tmp_path: Path
) -> None:
    """ELECTRA's together, a text GAN's in turns: whose turn it isn't stays where it is."""
    able(name)
    family = {"replaced_token": "electra", "adversarial": "gpt2"}[learning]
    asked = tree(name, text, tmp_path / "run", family, max_steps=4, save_steps=2)
    asked["objective"] = {"name": learning}
    if learning == "adversarial":
        asked["objective"] |= {"warmup": 1, "discriminator_warmup": 1, "sample_length": 6}
    assert fit(recipes.load(asked))["status"] == "completed"
    saved = tmp_path / "run" / "checkpoints" / "step-00000004" / "trained.safetensors"
    whole = load_file(saved)
    assert len({key.split(".")[1] for key in whole}) == 2
    cut_at(tmp_path / "run", 2)
    fit(recipes.load(asked), resume="must")
    assert equal(whole, load_file(saved))


@pytest.mark.parametrize("name", ["adamw_rms", "muon", "schedule_free"])
def test_two_processes_learn_by_it_what_one_does(name: str, text: Path, tmp_path: Path) -> None:
    import yaml

    fit(recipes.load(tree(name, text, tmp_path / "one", max_steps=3)))
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(tree(name, text, tmp_path / "two", max_steps=3)))
    both = run_in_two(["pretrain", str(path)], tmp_path / "two")
    assert [one.wait() for one in both] == [0, 0], both[0].said.read_text()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-3)


def test_schedule_free_leaves_the_average_and_measures_it(text: Path, tmp_path: Path) -> None:
    """x of y and z in the last checkpoint; the best weights are averages too."""
    for folder, best in (("last", None), ("best", "loss")):
        asked = tree("schedule_free", text, tmp_path / folder, max_steps=6, eval_steps=2, metric_for_best_model=best)
        asked["data"]["validation"] = [{"source": str(text)}]
        summary = fit(recipes.load(asked))
        checkpoint = tmp_path / folder / "checkpoints" / "step-00000006"
        between = load_file(checkpoint / "trained.safetensors")
        state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
        order = [index for group in state["param_groups"] for index in group["params"]]
        assert sorted(order) == list(range(len(between)))
        left = weights(tmp_path / folder)
        name = "transformer.h.0.mlp.c_fc.weight"
        y = between[f"model.{name}"]
        z = next(one["z"] for one in state["state"].values()
                 if one["z"].shape == y.shape and (one["z"] - y).abs().max() < 0.05)
        assert torch.allclose(left[name], y + (1 - 1 / 0.9) * (z - y), atol=1e-6)
        assert not torch.equal(left[name], y)
        from llmkit.inference.evaluate import evaluate

        again = evaluate(str(tmp_path / folder), str(text))
        assert again["metrics"]["loss"] == pytest.approx(summary["evaluation"]["loss"], rel=1e-4)


def test_muon_moves_the_matrices_of_layers_alone() -> None:
    from transformers import BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    from llmkit.backbones.bert import Bert
    from llmkit.backbones.gpt2 import GPT2
    from llmkit.objectives.causal_lm import CausalLM
    from llmkit.recipe import Training
    from llmkit.training.learner import Learner
    from llmkit.training.optimizer import learned
    from llmkit.tuning.full import Full

    def hidden(model: Any, family: Any) -> set[str]:
        found = learned(Learner(model, CausalLM(), family), Training(learning_rate=1.0), Full())
        return {one.name.removeprefix("model.") for one in found if one.hidden}

    small = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
    assert hidden(small, GPT2) == {f"transformer.h.0.{part}.weight" for part in (
        "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    from transformers import BertConfig

    bert = BertForMaskedLM(BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=16,
                                      vocab_size=20, max_position_embeddings=8))
    parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
             "intermediate.dense", "output.dense")
    assert hidden(bert, Bert) == {f"bert.encoder.layer.0.{part}.weight" for part in parts}


def test_groups_are_those_that_0_1_0_made_and_a_new_head_has_its_rate() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    from llmkit.backbones.bert import Bert
    from llmkit.optimizers.base import groups
    from llmkit.recipe import Training
    from llmkit.tasks.classification import Classification
    from llmkit.training.learner import Learner
    from llmkit.training.optimizer import learned
    from llmkit.tuning.full import Full

    model = BertForSequenceClassification(BertConfig(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=20,
        max_position_embeddings=8))
    learner = Learner(model, Classification(), Bert, ("classifier",))
    learner.rates = {"model.bert.embeddings.word_embeddings.weight": 0.5}
    plan = Training(learning_rate=0.1, head_learning_rate=0.2, weight_decay=0.3)
    found = learned(learner, plan, Full())
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups(found)] == [
        (0.05, 0.3), (0.1, 0.3), (0.1, 0.0), (0.2, 0.3), (0.2, 0.0)]
    assert sum(len(group["params"]) for group in groups(found)) == len(list(model.parameters()))
    assert [one.hidden for one in found if "classifier" in one.name or "embeddings" in one.name] == [False] * 7
