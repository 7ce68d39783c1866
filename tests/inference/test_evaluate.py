"""What is evaluated may be named or open, and the program that asks finds its own things as they were."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from conftest import tiny

import llmkit
from llmkit import models, recipe
from llmkit.inference.predict import predict
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit


@pytest.fixture(scope="module")
def run(labelled, tmp_path_factory):
    """A run of a classifier, with dropout."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    tree = tiny("bert", labelled, folder, max_steps=2)
    del tree["objective"]
    fit(recipe.load({**tree, "task": "classification", "tuning": {"method": "lora"}}))
    return folder


@pytest.fixture
def hosts():
    """A program's own accelerator, in bf16."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=3)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_an_opened_model_is_measured_like_its_run_and_stays_as_it_is(run, labelled):
    opened = models.open_model(run, "AutoModelForSequenceClassification")
    first = next(opened.model.parameters()).clone()
    found, named = llmkit.evaluate(opened, labelled), llmkit.evaluate(run, labelled)
    assert found == {**named, "model": str(run / "model")}
    assert torch.equal(next(opened.model.parameters()), first)
    assert not any(part.training for part in opened.model.modules())


def test_an_opened_model_that_is_no_runs_is_measured_by_its_head(encoder, text):
    opened = models.open_model(encoder, "AutoModelForMaskedLM")
    assert llmkit.evaluate(opened, text)["measured_by"] == "masked_lm"


def test_an_exported_classifier_is_measured_by_its_head_and_predicts(run, labelled, tmp_path):
    """It is no run: what it does is known by its architecture."""
    llmkit.export(run, tmp_path / "given")
    found, named = llmkit.evaluate(tmp_path / "given", labelled), llmkit.evaluate(run, labelled)
    assert (found["measured_by"], found["metrics"]) == ("classification", pytest.approx(named["metrics"], rel=1e-4))
    assert len(list(llmkit.predict(tmp_path / "given", labelled))) == found["rows"]


def test_an_opened_model_with_another_head_says_which_is_needed(encoder, labelled):
    opened = models.open_model(encoder)
    with pytest.raises(RequestError, match=r"is open as AutoModel, and classification needs AutoModelForSequence"):
        llmkit.evaluate(opened, labelled, task="classification")


def test_the_programs_own_accelerator_stays_as_it_is(run, labelled, hosts):
    for use in (lambda: llmkit.evaluate(run, labelled), lambda: list(predict(run, labelled))):
        use()
        assert (hosts.mixed_precision, AcceleratorState().mixed_precision) == ("bf16", "bf16")
        assert (hosts.gradient_accumulation_steps, GradientState().num_steps) == (3, 3)


def test_a_program_without_one_has_none_afterwards(run, labelled):
    AcceleratorState._reset_state(reset_partial_state=True)
    llmkit.evaluate(run, labelled)
    assert AcceleratorState._shared_state == {}


def test_a_model_of_the_catalogue_is_measured_as_itself_in_a_runs_folder(run, text, monkeypatch, tmp_path):
    """Not by what the run of this folder learned."""
    fit(recipe.load(tiny("bert", text, tmp_path / "words", max_steps=1)))
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tmp_path / "words" / "model", models.place(models.CATALOGUE["minilm-l6"]))
    monkeypatch.chdir(run)
    assert llmkit.evaluate("minilm-l6", text)["measured_by"] == "masked_lm"
