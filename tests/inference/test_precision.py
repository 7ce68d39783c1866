"""The numbers that a model is measured and asked in: those that it learned in, or those that are named."""

import json

import pytest
import torch
from conftest import tiny

from llmkit import models, recipe
from llmkit.cli import main
from llmkit.inference.evaluate import evaluate
from llmkit.inference.predict import predict
from llmkit.planning import choices
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit


@pytest.fixture(scope="module")
def learned_in_bf16(labelled, tmp_path_factory):
    """The folder of a classifier that trained in bf16, and what its last evaluation found."""
    folder = tmp_path_factory.mktemp("bf16") / "run"
    tree = tiny("bert", labelled, folder, max_steps=2, precision="bf16")
    del tree["objective"]
    tree["data"]["validation"] = [{"source": str(labelled)}]
    return folder, fit(recipe.load({**tree, "task": "classification"}))["evaluation"]


@pytest.mark.parametrize(("fast", "numbers"), [(True, "bf16"), (False, "fp32")])
def test_a_run_is_measured_in_what_it_learned_in_where_that_is_fast(
        learned_in_bf16, labelled, monkeypatch, fast, numbers):
    folder, reached = learned_in_bf16
    monkeypatch.setattr(choices, "cpu_multiplies_bf16", lambda: fast)
    measured = evaluate(folder, labelled)
    assert measured["precision"] == numbers
    assert measured["metrics"]["accuracy"] == reached["accuracy"]
    assert measured["metrics"]["loss"] == pytest.approx(reached["loss"], abs=5e-3)
    assert (measured["metrics"]["loss"] == pytest.approx(reached["loss"], abs=1e-7)) is fast


def test_a_row_is_said_in_them_and_the_program_between_two_rows_computes_as_before(
        learned_in_bf16, labelled, monkeypatch):
    folder, _ = learned_in_bf16
    monkeypatch.setattr(choices, "cpu_multiplies_bf16", lambda: True)
    coarse = []
    for said in predict(folder, labelled):
        assert not torch.is_autocast_enabled("cpu")
        coarse.append(said["score"])
    fine = [said["score"] for said in predict(folder, labelled, precision="fp32")]
    assert coarse != fine
    assert coarse == pytest.approx(fine, abs=5e-3)
    assert fine == [said["score"] for said in predict(folder, labelled, precision="fp32", batch_size=16)]


def test_a_model_that_is_no_run_is_measured_in_fp32(encoder, text, monkeypatch):
    monkeypatch.setattr(choices, "cpu_multiplies_bf16", lambda: True)
    opened = models.open_model(encoder, "AutoModelForMaskedLM")
    assert evaluate(opened, text, max_length=16)["precision"] == "fp32"
    assert evaluate(opened, text, max_length=16, precision="bf16")["precision"] == "bf16"


def test_the_command_line_names_its_option(learned_in_bf16, labelled, capsys):
    folder, _ = learned_in_bf16
    assert main(["evaluate", str(folder), "--data", str(labelled), "--precision", "fp32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "fp32"
    assert main(["evaluate", str(folder), "--data", str(labelled), "--precision", "bf61"]) == 2
    assert "--precision bf61: is none of auto, fp32, bf16, fp16. Did you mean 'bf16'?" in capsys.readouterr().err
    with pytest.raises(RequestError, match="--precision: fp16 needs a GPU"):
        evaluate(folder, labelled, precision="fp16")


def test_short_rows_are_judged_many_at_once(learned_in_bf16, labelled, monkeypatch):
    """2,048 positions of rows of some 8 tokens are 256 rows; at most eight times what was asked for are taken."""
    from llmkit.training.learner import Learner

    sizes = []
    forward = Learner.forward

    def seen(self, batch, *words):
        sizes.append(len(batch["input_ids"]))
        return forward(self, batch, *words)

    monkeypatch.setattr(Learner, "forward", seen)
    evaluate(learned_in_bf16[0], labelled, batch_size=2)
    assert max(sizes) == 16
