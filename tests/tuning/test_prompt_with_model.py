"""Prompt tuning together with the model: both train at their rates, are saved, go on, and are opened again."""

import json
import shutil

import pytest
import torch
from conftest import tiny
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import llmkit
from llmkit import models
from llmkit.cli import main
from llmkit.planning.choices import model_rate
from llmkit.recipe import load, registry
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

BERT = registry.find("backbones", "bert")


@pytest.fixture(scope="module")
def base(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "bert"
    fit(load(tiny("bert", text, folder, max_steps=1)))
    return folder


def classifier(base, labelled, folder, method="prompt", train_model=True, **training):
    return {"name": "c", "backbone": {"pretrained": str(base)},
            "data": {"train": str(labelled), "max_length": 32}, "task": "classification",
            "tuning": {"method": method, "num_virtual_tokens": 3, "train_model": train_model},
            "training": {"figures": False, "max_steps": 4, "global_batch_size": 8, "logging_steps": 1, "save_steps": 2,
                         "precision": "fp32", **training}, "output_dir": str(folder)}


def weights(run):
    return {**load_file(run / "model" / "adapter_model.safetensors"),
            **{f"base.{name}": one for name, one in load_file(run / "model" / "base" / "model.safetensors").items()}}


@pytest.fixture(scope="module", params=["p_tuning"])
def run(request, base, labelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    llmkit.fit(classifier(base, labelled, folder, request.param))
    return folder


def test_prompt_and_model_train_at_rates_of_their_own(run, base, capsys):
    method = json.loads((run / "summary.json").read_text())["recipe"]["tuning"]
    before = load_file(base / "model" / "model.safetensors")
    after = load_file(run / "model" / "base" / "model.safetensors")
    shared = [name for name in before if name in after and before[name].shape == after[name].shape]
    moved = {name: float((after[name] - before[name]).abs().max()) for name in shared}
    assert any("encoder.layer.0" in name for name in shared)
    assert all(moved.values())
    # four steps of Adam at a falling rate go no further than four times the first
    assert max(moved.values()) <= 4 * 5e-5 * 1.01
    summary = json.loads((run / "summary.json").read_text())
    assert summary["trainable_parameters"] == summary["parameters"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["learning_rate"] == {"prompt": 1e-1, "p_tuning": 1e-2}[method]


def test_a_named_rate_is_the_models(base, labelled, tmp_path):
    tree = classifier(base, labelled, tmp_path / "run", max_steps=1)
    fit(load({**tree, "tuning": {**tree["tuning"], "model_learning_rate": 1e-3}}))
    before, after = (load_file(path / "model.safetensors") for path in (base / "model", tmp_path / "run/model/base"))
    name = "bert.encoder.layer.0.output.dense.weight"
    assert float((after[name] - before[name]).abs().max()) == pytest.approx(1e-3, rel=1e-2)


def test_the_models_usual_rate_is_that_of_full(text, tmp_path):
    tree = tiny("bert", text, tmp_path, learning_rate=None)
    assert model_rate(load({**tree, "tuning": "prompt"})) == 5e-4  # from scratch
    tree["backbone"] = {"pretrained": "gpt2"}
    assert model_rate(load({**tree, "objective": "causal_lm", "tokenizer": None, "tuning": "prompt"})) == 5e-5


def test_it_goes_on_bit_for_bit(run, base, labelled, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(again / "model")
    shutil.rmtree(again / "checkpoints" / "step-00000004")
    method = json.loads((run / "summary.json").read_text())["recipe"]["tuning"]
    (again / "summary.json").unlink()
    assert llmkit.fit(classifier(base, labelled, again, method), "must")["steps"] == 4
    one, two = weights(run), weights(again)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_it_is_opened_from_wherever_it_is_moved_and_says_the_same(run, labelled, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(labelled.read_text().splitlines()[:5]) + "\n")
    assert main(["predict", str(run), str(rows)]) == 0
    said = capsys.readouterr().out
    moved = tmp_path / "elsewhere"
    shutil.copytree(run / "model", moved)
    other = json.loads((moved / "adapter_config.json").read_text())
    assert other["base_model_name_or_path"] == str(run / "model" / "base")
    opened, there = models.open_model(moved), models.open_model(run)
    ids = there.tokenizer("the cat saw the moon .", return_tensors="pt")
    with torch.no_grad():
        logits = [one.model(**ids).logits for one in (opened, there)]
        free = AutoModelForSequenceClassification.from_pretrained(moved / "base").eval()(**ids).logits
    assert torch.equal(*logits)
    assert not torch.allclose(logits[0], free)  # the prompt is there
    assert [json.loads(line)["label"] for line in said.splitlines()]


def test_the_model_without_its_prompt_is_one_to_start_from(run, labelled, tmp_path):
    summary = fit(load(classifier(run / "model" / "base", labelled, tmp_path / "on", max_steps=1)))
    assert summary["status"] == "completed"


def test_it_is_not_merged_and_the_refusal_says_what_there_is(run):
    with pytest.raises(RequestError, match=r"and the model trained with them.*holds both.*without its prompt"):
        models.merge(run)


def test_a_rate_of_a_model_that_stays_is_refused(text, tmp_path):
    method = registry.find("tuning", "prompt")(model_learning_rate=1e-4)
    with pytest.raises(RequestError, match=r"model_learning_rate: 0.0001 .* say train_model: true, or leave it out"):
        method.check(BERT, "AutoModelForMaskedLM")


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_writers_train_with_it_from_scratch_and_write(text, tmp_path, family, capsys):
    tree = tiny(family, text, tmp_path / "run", max_steps=2)
    fit(load({**tree, "tuning": {"method": "prompt", "num_virtual_tokens": 3, "train_model": True}}))
    assert not (tmp_path / "run" / "base").exists()
    assert json.loads((tmp_path / "run/model/adapter_config.json").read_text())["peft_type"] == "PROMPT_TUNING"
    assert main(["generate", "the cat", "--model", str(tmp_path / "run"), "--max-new-tokens", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["completions"]
